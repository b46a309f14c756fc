"""Which axes of a site's result are its units, and the result as rows of them."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from jaxnets.gradients.site_record import Place, Record, Site
from jaxnets.gradients.uses import uses
from jaxnets.types import Array

Axes: TypeAlias = Mapping[Place, tuple[int, ...]]
"""Of each site's result, of one example or of a whole batch, which axes are units."""


Extremes: TypeAlias = tuple[Array, Array]
"""The lowest and the highest of each unit."""


class UnitRows(NamedTuple):
    """A site's result: some rows of it, and the extremes of all."""

    rows: Array
    """`[N, units]`"""
    low: Array
    """`[units]`"""
    high: Array


def unit_axes(record: Record, batched: bool) -> Axes:
    """Of a product those of its parameter; elsewhere the last one.

    A bias or nonlinearity has those of the product before it, if it has the same shape, but for
    axes of length 1, or as many axes and as many units.
    """
    axes: dict[Place, tuple[int, ...]] = {}
    last: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    for use, shapes in uses(tuple(record.sites), record.shapes):
        site, shape = use.site, tuple(shapes[0].shape[len(use.loops) :])
        before, own = last
        if site.kind in ("dot", "conv"):
            last = shape, _of_product(site, len(shape))
        elif _long(shape) == _long(before):
            last = shape, _moved(own, before, shape)
        elif own and len(shape) == len(before) and all(shape[i] == before[i] for i in own):
            # of other positions, as behind pooling
            last = shape, own
        axes[site.place] = last[1]
        if last[0] != shape:
            axes[site.place] = (len(shape) - 1,) if len(shape) > batched else ()
    return axes


def _long(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _moved(
    axes: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[int, ...]:
    """Where these axes are, once axes of length 1 have come or gone."""
    if before == after:
        return axes
    places = [i for i, size in enumerate(after) if size != 1]
    numbers = {axis: n for n, axis in enumerate(i for i, s in enumerate(before) if s != 1)}
    return tuple(places[numbers[axis]] for axis in axes if axis in numbers)


def is_same(
    before: tuple[int, ...], axes: tuple[int, ...], after: tuple[int, ...], own: tuple[int, ...]
) -> bool:
    """Whether shapes and their axes of units are the same but for axes of length 1."""
    return _long(before) == _long(after) and _moved(axes, before, after) == own


def _of_product(site: Site, ndim: int) -> tuple[int, ...]:
    if site.kind == "conv":
        return (site.inner.params["dimension_numbers"].out_spec[1],)
    contracted, shared = site.inner.params["dimension_numbers"]
    n_shared = len(shared[0])
    n_free = (
        len(site.inner.invars[site.operand].aval.shape) - n_shared - len(contracted[site.operand])
    )
    first = n_shared if site.operand == 0 else ndim - n_free
    return (*range(n_shared), *range(first, first + n_free))


def unit_rows(
    y: Array, axes: tuple[int, ...], batched: bool, count: int | None,
    extremes: Extremes | None = None,
) -> UnitRows:  # fmt: skip
    """Of a batch's `[B, …]`, in float32 at least.

    Args:
      y: all examples' results; of complex ones, absolute values.
      axes: which are units: of `y` if `batched`, else of one example's.
      count: how many rows to take at most, see `spread_out`; None for all.
      extremes: of units, if they are known.
    """
    y = jnp.abs(y) if jnp.iscomplexobj(y) else y
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    y = _units_last(y, tuple(axis + (not batched) for axis in axes))
    rows = y.reshape(-1, y.shape[-1]) if y.size else jnp.zeros((1, max(y.shape[-1], 1)), y.dtype)
    if extremes is None:
        # without barriers XLA goes through all rows again for what is reduced further
        low, high = (lax.optimization_barrier(of(rows, 0)) for of in (jnp.min, jnp.max))
    else:
        low, high = (x.astype(y.dtype) for x in extremes)
    return UnitRows(some_of(rows, count), low, high)


def _units_last(y: Array, axes: tuple[int, ...]) -> Array:
    """`[…, units]`, all its axes of units as one."""
    y = jnp.moveaxis(y, axes, tuple(range(y.ndim - len(axes), y.ndim)))
    others = y.shape[: y.ndim - len(axes)]
    return y.reshape(*others, prod(y.shape[len(others) :]))


def extremes_behind(
    site: Site, y: Array, axes: tuple[int, ...], before: UnitRows, operands: Sequence[Any]
) -> Extremes | None:
    """Of units of `y`, which is made of one that has `before`; None if they do not follow from it.

    Rounding never puts two numbers into the other order, so that after an addition of a number for
    each unit, or a `relu`, extremes are of the same elements.

    Args:
      operands: the parameters' values.
    """
    low, high = (x.astype(y.dtype) for x in (before.low, before.high))
    if site.kind == "relu":
        return jnp.maximum(low, 0), jnp.maximum(high, 0)
    added = site.kind == "elementwise" and site.equation.primitive.name == "add"
    if not added or len(operands) != 1 or jnp.ndim(operands[0]) != y.ndim:
        return None
    (by,) = operands
    sizes = [size if axis in axes else 1 for axis, size in enumerate(y.shape)]
    if any(n not in (1, size) for n, size in zip(by.shape, sizes, strict=True)):
        return None
    units = _units_last(jnp.broadcast_to(by, sizes), axes).reshape(-1)
    return low + units, high + units


def some_of(x: Array, count: int | None) -> Array:
    """`count` rows, or all if there are no more."""
    n = x.shape[-2]
    return x if count is None or n <= count else x[..., spread_out(n, count), :]


def spread_out(n: int, count: int) -> NDArray[np.int64]:
    """One of each of `count` equal parts of `range(n)`, at random, but always the same.

    Equal distances would meet the same positions of each example.
    """
    edges = np.arange(count + 1) * n // count
    inside = np.random.default_rng(0).random(count) * np.diff(edges)
    return edges[:-1] + inside.astype(np.int64)
