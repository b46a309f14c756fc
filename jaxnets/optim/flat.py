"""An elementwise optimizer over packed parameters: few long buffers instead of many leaves."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxnets.equations import programs_inside
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
# of these a program for a matrix may have more than one for a number
_SHAPING = {"broadcast_in_dim", "reshape", "squeeze", "convert_element_type"}


class FlatState(NamedTuple):
    """The state of the optimizer inside, which sees buffers, and where each leaf lies in them."""

    inner_state: State
    layout: Layout


def _operations(jaxpr: Any, shapes: set[tuple[int, ...]]) -> Iterator[str]:
    """The names of all operations, in order.

    Raises:
      ValueError: for one in which an element of an array of `shapes` meets another.
    """
    for equation in jaxpr.eqns:
        inside = list(programs_inside(equation))
        for inner in inside:
            yield from _operations(inner, shapes)
        name: str = equation.primitive.name
        seen = {v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")} & shapes
        kept = all(v.aval.shape in seen for v in equation.outvars)
        if not inside and seen and (not kept or name in _MIXING):
            raise ValueError(
                f"flat: the optimizer must treat each element on its own, got one that uses {name};"
                " put what looks at several elements around flat, as in "
                "chain(clip_by_global_norm(1.0), flat(adam(1e-3)))"
            )
        if name not in _SHAPING:
            yield name


def _require_elementwise(
    inner: GradientTransformation, layout: Layout, g: Any, p: Any, extra: Any
) -> None:
    """Raise `ValueError` unless `inner` does to an element what it would do in its own leaf."""

    def operations(g: Any, p: Any) -> list[str]:
        def step(g: Any, p: Any) -> Any:
            return inner.update(g, inner.init(g if p is None else p), p, **extra)

        shapes = {leaf.shape for leaf in g.values() if leaf.size > 1}
        return list(_operations(jax.make_jaxpr(step)(g, p), shapes))

    def shaped(buffers: Any, shape: tuple[int, ...]) -> Any:
        return jax.tree.map(
            lambda b: jax.ShapeDtypeStruct(shape if b.size else b.shape, b.dtype), buffers
        )

    of_buffers = operations(g, p)
    for shape in {place.shape for place in layout.places if math.prod(place.shape)}:
        if operations(shaped(g, shape), shaped(p, shape)) != of_buffers:
            raise ValueError(
                "flat: the optimizer must treat all leaves alike, got one that does otherwise with "
                f"leaves of shape {shape}; choose leaves by groups and path rules, not by shape"
            )


@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def flat(
    inner: GradientTransformation,
    groups: Mapping[str, str] | None = None,
    largest: int | None = None,
    full: int | None = None,
) -> GradientTransformation:
    """`inner` over one buffer per dtype, in which all leaves lie end to end.

    For nets of many small leaves: a few kernels instead of a few per leaf, and a fraction of their
    compilation. The moments stay packed from step to step. Parameters, gradients and updates may
    be leaves, which are packed and unpacked at each step, or be `Packed` themselves (see `pack`),
    which saves that: most of the gain. docs/benchmarks.md has figures for both. Optax's `flatten`
    packs anew at each step.

    Args:
      inner: an optimizer that treats every element alike and on its own, such as `adamw`. One that
        looks at whole leaves or at all of them goes around it:
        `chain(clip_by_global_norm(1.0), flat(adamw(1e-3)))`.
      groups, largest, full: as for `pack`, where parameters are leaves.

    Returns:
      A transformation whose results are those of `inner` on the leaves, up to rounding; noise is
      drawn for buffers.

    Raises:
      ValueError: (when traced) if `inner` mixes elements or goes by the shapes of leaves, gradients
        are not of the leaves that `init` saw (None is no gradient here), or as `pack` does.

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
            packed = pack_as(lay_out(params, groups, largest, full), params, "params")
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

        g = buffers(updates, "gradients")
        p = None if params is None else buffers(params, "params")
        _require_elementwise(inner, layout, g, p, extra)
        u, inner_state = inner.update(g, state.inner_state, p, **extra)
        moved = Packed(u, layout)
        after = FlatState(inner_state, layout)
        return (moved if isinstance(updates, Packed) else unpack(moved)), after

    return GradientTransformation(init, update)
