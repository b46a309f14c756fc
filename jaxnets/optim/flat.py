"""An elementwise optimizer over packed parameters: few long buffers instead of many leaves."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.packing import Layout, Packed, lay_out, pack_as, unpack
from jaxnets.optim.transform import GradientTransformation, State, Updates
from jaxnets.types import Params

# they mix elements although the shape stays
_MIXING = {
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dynamic_update_slice", "fft",
    "reduce_window_max", "reduce_window_min", "reduce_window_sum", "rev", "scatter", "scatter-add",
    "sort", "transpose",
}  # fmt: skip


class FlatState(NamedTuple):
    """The state of the optimizer inside, which sees buffers, and where each leaf lies in them."""

    inner_state: State
    layout: Layout


def _jaxprs(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item)
    elif hasattr(value, "jaxpr"):
        yield from _jaxprs(value.jaxpr)
    elif hasattr(value, "eqns"):
        yield value


def _first_mixing(jaxpr: Any, shapes: set[tuple[int, ...]]) -> str | None:
    """The first operation in which an element of a buffer meets another."""
    for equation in jaxpr.eqns:
        inner = [j for value in equation.params.values() for j in _jaxprs(value)]
        name: str = equation.primitive.name
        for jaxpr_inside in inner:
            if found := _first_mixing(jaxpr_inside, shapes):
                return found
        seen = {v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")} & shapes
        kept = all(v.aval.shape in seen for v in equation.outvars)
        if not inner and seen and (not kept or name in _MIXING):
            return name
    return None


@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def flat(
    inner: GradientTransformation,
    groups: Mapping[str, str] | None = None,
    largest: int | None = None,
) -> GradientTransformation:
    """`inner` over one buffer per dtype, in which all leaves lie end to end.

    For nets of many small leaves: a few kernels instead of a few per leaf, and a fraction of their
    compilation. The moments stay packed from step to step. Parameters, gradients and updates may
    be leaves, which are packed and unpacked at each step, or be `Packed` themselves (see `pack`),
    which saves that: most of the gain. docs/benchmarks.md has figures for both.

    Args:
      inner: an optimizer that treats every element alike and on its own, such as `adamw`. One that
        looks at whole leaves or at all of them goes around it:
        `chain(clip_by_global_norm(1.0), flat(adamw(1e-3)))`.
      groups, largest: as for `pack`, where parameters are leaves.

    Returns:
      A transformation whose results are those of `inner` on the leaves, up to rounding.

    Raises:
      ValueError: if `inner` mixes elements, gradients are not of the leaves that `init` saw (None
        is no gradient here), or as `pack` does.

    Example:
      >>> packed, optimizer = pack(params), flat(adamw(1e-3))
      >>> state = optimizer.init(packed)
      >>> grads = jax.grad(lambda packed: loss(unpack(packed), batch))(packed)
      >>> updates, state = optimizer.update(grads, state, packed)
      >>> packed = apply_updates(packed, updates)

      Weight decay by a rule over paths:

      >>> flat(
      ...     adamw(1e-3, weight_decay=0.1, mask="kernel$"),
      ...     groups={"kernel$": "kernel", ".*": "rest"},
      ... )
    """

    def init(params: Params) -> FlatState:
        if isinstance(params, Packed):
            packed = params
        else:
            packed = pack_as(lay_out(params, groups, largest), params, "params")
        return FlatState(inner.init(packed.buffers), packed.layout)

    def update(
        updates: Updates, state: FlatState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, FlatState]:
        layout = state.layout

        def buffers(values: Any, what: str) -> Any:
            packed = values if isinstance(values, Packed) else pack_as(layout, values, what)
            if packed.layout != layout:
                raise ValueError(f"flat: {what} are packed otherwise than init's params were")
            return packed.buffers

        def update_buffers(g: Updates, s: State, p: Params | None) -> tuple[Updates, State]:
            return inner.update(g, s, p, **extra)

        g = buffers(updates, "gradients")
        p = None if params is None else buffers(params, "params")
        jaxpr = jax.make_jaxpr(update_buffers)(g, state.inner_state, p)
        if mixing := _first_mixing(jaxpr, {leaf.shape for leaf in g.values() if leaf.size > 1}):
            raise ValueError(
                f"flat: the optimizer must treat each element on its own, got one that uses "
                f"{mixing}; put what looks at several elements around flat, as in "
                "chain(clip_by_global_norm(1.0), flat(adam(1e-3)))"
            )
        u, inner_state = update_buffers(g, state.inner_state, p)
        moved = Packed(u, layout)
        after = FlatState(inner_state, layout)
        return (moved if isinstance(updates, Packed) else unpack(moved)), after

    return GradientTransformation(init, update)
