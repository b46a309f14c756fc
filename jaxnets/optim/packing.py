"""Parameters laid end to end: one long buffer per dtype instead of many leaves.

Every leaf costs an optimizer some kernels, and those of a small leaf take longer to start than to
run. Packed parameters stay packed from step to step; a loss unpacks them, and since the derivative
of splitting is joining, its gradient arrives packed.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets import tree
from jaxnets.types import Array, Params, PyTree


class Place(NamedTuple):
    """Of one leaf: its path, its shape, and the buffer it lies in."""

    path: str
    shape: tuple[int, ...]
    buffer: str


@jax.tree_util.register_static
@dataclass(frozen=True)
class Layout:
    """Where all leaves lie, one after the other in the tree's order."""

    places: tuple[Place, ...]
    structure: Any

    def buffers(self) -> dict[str, list[Place]]:
        """The places by buffer."""
        by_buffer: dict[str, list[Place]] = {}
        for place in self.places:
            by_buffer.setdefault(place.buffer, []).append(place)
        return by_buffer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """A pytree of few leaves that stands for one of many."""

    buffers: dict[str, Array]
    layout: Layout = field(metadata={"static": True})


def _require_one_device(path: str, p: Any) -> None:
    if isinstance(p, jax.Array) and not isinstance(p, jax.core.Tracer):
        sharding = p.sharding
        if not sharding.is_fully_replicated:
            raise ValueError(
                f"pack: {path!r} is split over {len(sharding.device_set)} devices, and packing it "
                "would gather it on each of them; leave such parameters unpacked"
            )


def lay_out(
    params: Params,
    groups: Mapping[str, str] | None = None,
    largest: int | None = None,
    full: int | None = None,
) -> Layout:
    """The layout that `pack` makes."""
    if largest is not None and largest < 0:
        raise ValueError(f"pack: largest must be >= 0, got {largest}")
    if full is not None and full < 1:
        raise ValueError(f"pack: full must be >= 1, got {full}")
    labels = tree.flatten_with_paths(tree.apply_rules(groups, params)) if groups else {}
    closed: Counter[Any] = Counter()
    sizes: Counter[Any] = Counter()

    def place(path: str, p: Any) -> Place:
        _require_one_device(path, p)
        if largest is not None and np.size(p) > largest:
            return Place(path, jnp.shape(p), path)
        kind = (str(jnp.result_type(p)), *([labels[path]] if groups else []))
        if full is not None and sizes[kind] >= full:
            closed[kind] += 1
            sizes[kind] = 0
        sizes[kind] += np.size(p)
        number = f"#{closed[kind]}" if closed[kind] else ""
        return Place(path, jnp.shape(p), "/".join([kind[0] + number, *kind[1:]]))

    places = tuple(place(path, p) for path, p in tree.flatten_with_paths(params).items())
    return Layout(places, jax.tree.structure(params))


def pack_as(layout: Layout, values: PyTree, what: str) -> Packed:
    """`values`, leaves as those that `layout` was made of, in its buffers."""
    leaves = tree.flatten_with_paths(values)
    wanted = {place.path: place.shape for place in layout.places}
    if leaves.keys() != wanted.keys():
        missing = [path for path in wanted if path not in leaves]
        added = [path for path in leaves if path not in wanted]
        raise ValueError(
            f"pack: {what} must have the leaves of the parameters; "
            f"{tree.missing_and_added(missing, added)}; "
            "what has no gradient belongs outside, see freeze and partition"
        )
    for path, shape in wanted.items():
        if jnp.shape(leaves[path]) != shape:
            raise ValueError(
                f"pack: {what} must have the shapes of the parameters, "
                f"got {jnp.shape(leaves[path])} for {shape} at {path!r}"
            )

    def joined(places: list[Place]) -> Array:
        if len(places) == 1:
            return jnp.asarray(leaves[places[0].path])
        return jnp.concatenate([jnp.ravel(leaves[place.path]) for place in places])

    return Packed({name: joined(places) for name, places in layout.buffers().items()}, layout)


def pack(
    params: Params,
    groups: Mapping[str, str] | None = None,
    largest: int | None = None,
    full: int | None = None,
) -> Packed:
    """All leaves of a dtype, end to end in one buffer.

    Args:
      params: a pytree of arrays.
      groups: path rule -> name, which must cover every leaf: leaves of different names lie in
        different buffers, `"float32/name"`, to which an optimizer's own path rules can refer.
      largest: leaves of more elements are left as they are, under their own path: large ones gain
        nothing, and cost a copy.
      full: a buffer of this many elements or more is followed by another one, `"float32#1"`; of a
        size for `step_in_turn`, say `2**20`. By default none is ever full. Rules for an optimizer
        have to match all of `"float32/name"`, `"float32#1/name"`, ...: write `"/name$"`.

    Returns:
      A pytree for any transformation that treats every element alike (see `flat`), for `jax.grad`
      through `unpack`, and for `apply_updates`.

    Raises:
      ValueError: if a rule covers no leaf or a leaf no rule, if a leaf is split over devices (where
        that can be seen, outside of `jit`), or for a negative `largest` or a `full` of less than 1.

    Example:
      >>> packed = pack(params)
      >>> loss, grads = jax.value_and_grad(lambda packed: loss(unpack(packed), batch))(packed)
    """
    return pack_as(lay_out(params, groups, largest, full), params, "params")


def unpack(packed: Packed) -> Params:
    """The parameters that `pack` was given, of the values that `packed` now has."""
    layout = packed.layout
    leaves: dict[str, Array] = {}
    for name, places in layout.buffers().items():
        sizes = [math.prod(place.shape) for place in places]
        buffer = packed.buffers[name]
        parts = lax.split(buffer, sizes) if len(sizes) > 1 else [buffer]
        for place, part in zip(places, parts, strict=True):
            leaves[place.path] = part.reshape(place.shape)
    return layout.structure.unflatten([leaves[place.path] for place in layout.places])
