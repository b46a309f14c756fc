"""An elementwise optimizer over few, long, persistent buffers instead of many leaves.

Every leaf costs an optimizer some kernels, and those of a small leaf take longer to start than to
run. Laid end to end, all leaves of a dtype are one leaf; so are their moments, which stay so from
step to step. Only gradients are packed, and only updates unpacked.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets import tree
from jaxnets.optim.transform import GradientTransformation, State, Updates, by_value
from jaxnets.types import Array, Params, PyTree

# they mix elements although the shape stays
_MIXING = {
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dynamic_update_slice", "fft",
    "reduce_window_max", "reduce_window_min", "reduce_window_sum", "rev", "scatter", "scatter-add",
    "sort", "transpose",
}  # fmt: skip


class _Place(NamedTuple):
    path: str
    shape: tuple[int, ...]
    buffer: str


@jax.tree_util.register_static
@dataclass(frozen=True)
class Layout:
    """Which buffer each leaf lies in, one after the other in the tree's order."""

    places: tuple[_Place, ...]

    def buffers(self) -> dict[str, list[_Place]]:
        """The places by buffer."""
        by_buffer: dict[str, list[_Place]] = {}
        for place in self.places:
            by_buffer.setdefault(place.buffer, []).append(place)
        return by_buffer


class FlatState(NamedTuple):
    """The state of the optimizer inside, which sees buffers, and where each leaf lies in them."""

    inner_state: State
    layout: Layout


def _require_one_device(path: str, p: Any) -> None:
    if isinstance(p, jax.Array) and not isinstance(p, jax.core.Tracer):
        sharding = p.sharding
        if not sharding.is_fully_replicated:
            raise ValueError(
                f"flat: {path!r} is split over {len(sharding.device_set)} devices, and packing it "
                "would gather it on each of them; use the optimizer without flat"
            )


def _lay_out(params: Params, groups: Mapping[str, str] | None, largest: int | None) -> Layout:
    labels = tree.flatten_with_paths(tree.apply_rules(groups, params)) if groups else {}

    def place(path: str, p: Any) -> _Place:
        _require_one_device(path, p)
        buffer = "/".join([str(jnp.result_type(p)), *([labels[path]] if groups else [])])
        alone = largest is not None and np.size(p) > largest
        return _Place(path, jnp.shape(p), path if alone else buffer)

    return Layout(tuple(place(path, p) for path, p in tree.flatten_with_paths(params).items()))


def _pack(values: PyTree, layout: Layout, what: str) -> dict[str, Array]:
    leaves = tree.flatten_with_paths(values)
    wanted = {place.path: place.shape for place in layout.places}
    if leaves.keys() != wanted.keys():
        missing, unknown = [*(wanted.keys() - leaves)], [*(leaves.keys() - wanted)]
        raise ValueError(
            f"flat: {what} must have the leaves that init saw, but lack {missing} and add "
            f"{unknown}; what has no gradient belongs outside of flat, see freeze and partition"
        )
    for path, shape in wanted.items():
        if jnp.shape(leaves[path]) != shape:
            raise ValueError(
                f"flat: {what} must have the shapes that init saw, "
                f"got {jnp.shape(leaves[path])} for {shape} at {path!r}"
            )

    def pack(places: list[_Place]) -> Array:
        if len(places) == 1:
            return jnp.asarray(leaves[places[0].path])
        return jnp.concatenate([jnp.ravel(leaves[place.path]) for place in places])

    return {name: pack(places) for name, places in layout.buffers().items()}


def _unpack(buffers: Mapping[str, Array], layout: Layout, like: PyTree) -> PyTree:
    leaves: dict[str, Array] = {}
    for name, places in layout.buffers().items():
        # whose derivative is one concatenation
        sizes = [math.prod(place.shape) for place in places]
        parts = lax.split(buffers[name], sizes) if len(sizes) > 1 else [buffers[name]]
        for place, part in zip(places, parts, strict=True):
            leaves[place.path] = part.reshape(place.shape)
    return tree.map_with_paths(lambda path, _: leaves[path], like)


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
def flat(
    inner: GradientTransformation,
    groups: Mapping[str, str] | None = None,
    largest: int | None = None,
) -> GradientTransformation:
    """`inner` over one buffer per dtype, in which all leaves lie end to end.

    The result is that of `inner` on the leaves, bit for bit where the compiler fuses both alike,
    with a few kernels instead of a few per leaf: for nets of many small leaves, whose optimizer
    step it speeds up, and whose compilation. It copies each gradient and each update once, so
    large leaves gain nothing and may lose: see `largest`, and docs/benchmarks.md for figures.

    Args:
      inner: an optimizer that treats every element alike and on its own, such as `adamw`. One that
        looks at whole leaves or at all of them goes around it:
        `chain(clip_by_global_norm(1.0), flat(adamw(1e-3)))`.
      groups: path rule -> name, which must cover every leaf: leaves of different names lie in
        different buffers, `"float32/name"`, to which `inner`'s own path rules can refer.
      largest: leaves of more elements are left as they are, under their own path.

    Raises:
      ValueError: if `inner` mixes elements, a rule covers no leaf or a leaf no rule, a leaf is
        split over devices (seen in `init`, outside of `jit`), or gradients are not of the leaves
        that `init` saw: gradients of None are not taken here.

    Example:
      >>> optimizer = flat(adamw(1e-3))
      >>> decaying = flat(
      ...     adamw(1e-3, weight_decay=0.1, mask="/kernel$"),
      ...     groups={"kernel$": "kernel", ".*": "rest"},
      ... )
    """
    if largest is not None and largest < 0:
        raise ValueError(f"flat: largest must be >= 0, got {largest}")

    def init(params: Params) -> FlatState:
        layout = _lay_out(params, groups, largest)
        return FlatState(inner.init(_pack(params, layout, "params")), layout)

    def update(
        updates: Updates, state: FlatState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, FlatState]:
        layout = state.layout
        packed = _pack(updates, layout, "gradients")
        packed_params = None if params is None else _pack(params, layout, "params")

        def update_buffers(g: Updates, s: State, p: Params | None) -> tuple[Updates, State]:
            return inner.update(g, s, p, **extra)

        jaxpr = jax.make_jaxpr(update_buffers)(packed, state.inner_state, packed_params)
        shapes = {g.shape for g in packed.values() if g.size > 1}
        if mixing := _first_mixing(jaxpr, shapes):
            raise ValueError(
                f"flat: the optimizer must treat each element on its own, got one that uses "
                f"{mixing}; put what looks at several elements around flat, as in "
                "chain(clip_by_global_norm(1.0), flat(adam(1e-3)))"
            )
        packed, inner_state = update_buffers(packed, state.inner_state, packed_params)
        return _unpack(packed, layout, updates), FlatState(inner_state, layout)

    return GradientTransformation(init, update)
