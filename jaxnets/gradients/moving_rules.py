"""The chain rule's local step for operations that move values about: back to where they came from.

What was used several times adds up.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.gradients.rule import Rule
from jaxnets.types import Array


def _passed_on(x: Sequence[Array], y: Any, error: Any, /, **params: Any) -> list[Array | None]:
    """Of the identity."""
    return list(error) if isinstance(error, tuple) else [error]


def _reshape(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
    return [error.reshape(x[0].shape), *(None for _ in x[1:])]


def _transpose(
    x: Sequence[Array], y: Array, error: Array, /, *, permutation: Sequence[int]
) -> list[Array | None]:
    return [error.transpose(np.argsort(permutation))]


def _broadcast(
    x: Sequence[Array], y: Array, error: Array, /, *, broadcast_dimensions: Sequence[int],
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """What was repeated was used each time: sum."""
    shape = jnp.shape(x[0])
    kept = [
        axis for axis, n in zip(broadcast_dimensions, shape, strict=True) if error.shape[axis] == n
    ]
    summed = tuple(axis for axis in range(error.ndim) if axis not in kept)
    return [jnp.sum(error, summed).reshape(shape), *(None for _ in x[1:])]


def _concatenate(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension: int
) -> list[Array | None]:
    ends = np.cumsum([operand.shape[dimension] for operand in x])[:-1]
    return list(jnp.split(error, ends, dimension))


def _split(
    x: Sequence[Array], y: Any, error: Sequence[Array], /, *, axis: int, **params: Any
) -> list[Array | None]:
    return [jnp.concatenate(error, axis)]


def _slice(
    x: Sequence[Array], y: Array, error: Array, /, *, start_indices: Sequence[int],
    strides: Sequence[int] | None, **params: Any,
) -> list[Array | None]:  # fmt: skip
    strides = strides or (1,) * error.ndim
    config = [
        (start, n - start - (m - 1) * stride - 1 if m else n - start, stride - 1)
        for n, m, start, stride in zip(x[0].shape, error.shape, start_indices, strides, strict=True)
    ]
    return [lax.pad(error, jnp.zeros((), error.dtype), config)]


def _pad(
    x: Sequence[Array], y: Array, error: Array, /, *, padding_config: Sequence[tuple[int, int, int]]
) -> list[Array | None]:
    outer = [(-low, -high, 0) for low, high, _ in padding_config]
    inner = tuple(slice(None, None, between + 1) for *_, between in padding_config)
    by_operand = lax.pad(error, jnp.zeros((), error.dtype), outer)[inner]
    return [by_operand, jnp.sum(error) - jnp.sum(by_operand)]


def _rev(
    x: Sequence[Array], y: Array, error: Array, /, *, dimensions: Sequence[int]
) -> list[Array | None]:
    return [lax.rev(error, dimensions)]


def _dynamic_slice(
    x: Sequence[Array], y: Array, error: Array, /, **params: Any
) -> list[Array | None]:
    operand, *starts = x
    return [
        lax.dynamic_update_slice(jnp.zeros_like(operand), error, starts), *(None for _ in starts)
    ]  # fmt: skip


def _dynamic_update_slice(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    _, update, *starts = x
    by_operand = lax.dynamic_update_slice(error, jnp.zeros_like(update), starts)
    by_update = lax.dynamic_slice(error, starts, update.shape)
    return [by_operand, by_update, *(None for _ in starts)]


def _gather(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension_numbers: Any, mode: Any,
    indices_are_sorted: bool, unique_indices: bool, **params: Any,
) -> list[Array | None]:  # fmt: skip
    """What was read several times adds up where it was read."""
    operand, indices = x
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=dimension_numbers.offset_dims,
        inserted_window_dims=dimension_numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=dimension_numbers.start_index_map,
        operand_batching_dims=dimension_numbers.operand_batching_dims,
        scatter_indices_batching_dims=dimension_numbers.start_indices_batching_dims,
    )
    summed = lax.scatter_add(
        jnp.zeros_like(operand), indices, error, numbers, mode=mode,
        indices_are_sorted=indices_are_sorted, unique_indices=unique_indices,
    )  # fmt: skip
    return [summed, None]


def _where_it_went(
    y: Array, indices: Array, updates: Array, *, dimension_numbers: Any, mode: Any, **params: Any
) -> Array:
    """What a scatter's result, or an array like it, has where each update went; 0 if nowhere."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=dimension_numbers.update_window_dims,
        collapsed_slice_dims=dimension_numbers.inserted_window_dims,
        start_index_map=dimension_numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=dimension_numbers.operand_batching_dims,
        start_indices_batching_dims=dimension_numbers.scatter_indices_batching_dims,
    )
    alone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = iter(updates.shape[i] for i in numbers.offset_dims)
    sizes = [1 if axis in alone else next(window) for axis in range(y.ndim)]
    found: Array = lax.gather(y, indices, numbers, sizes, mode=mode, fill_value=0)
    return found


def _scatter_add(
    x: Sequence[Array], y: Array, error: Array, /, **params: Any
) -> list[Array | None]:
    """What was added to one place has that place's error signal."""
    _, indices, updates = x
    return [error, None, _where_it_went(error, indices, updates, **params)]


def _scatter_sub(
    x: Sequence[Array], y: Array, error: Array, /, **params: Any
) -> list[Array | None]:
    _, indices, updates = x
    return [error, None, -_where_it_went(error, indices, updates, **params)]


def _scatter(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension_numbers: Any, mode: Any,
    indices_are_sorted: bool, unique_indices: bool, **params: Any,
) -> list[Array | None]:  # fmt: skip
    """What was put in a place has its error signal, and what was there before has none.

    Of several that were put in one place only one is there in the end: numbers, put in their
    places in the same way, say which.
    """
    operand, indices, updates = x
    number = jnp.arange(1, updates.size + 1).reshape(updates.shape)
    put = lax.scatter(
        jnp.zeros(operand.shape, number.dtype), indices, number, dimension_numbers, mode=mode,
        indices_are_sorted=indices_are_sorted, unique_indices=unique_indices,
    )  # fmt: skip
    there, by_updates = (
        _where_it_went(z, indices, updates, dimension_numbers=dimension_numbers, mode=mode)
        for z in (put, error)
    )
    return [jnp.where(put == 0, error, 0), None, jnp.where(there == number, by_updates, 0)]


def _sort(
    x: Sequence[Array], y: Any, error: Sequence[Array], /, *, dimension: int, **params: Any
) -> list[Array | None]:
    """Back to where each came from, which numbers that are sorted along say."""
    number = lax.broadcasted_iota(jnp.int32, x[0].shape, dimension)
    *_, came_from = lax.sort([*x, number], dimension, **params)
    went_to = jnp.argsort(came_from, dimension)
    return [jnp.take_along_axis(e, went_to, dimension) if _is_floating(e) else None for e in error]


def _is_floating(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _top_k(
    x: Sequence[Array], y: Sequence[Array], error: Sequence[Array], /, *, axis: int = -1,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    zeros = jnp.zeros_like(x[0])
    return [jnp.put_along_axis(zeros, y[1], error[0], axis, inplace=False)]


def _unstack(
    x: Sequence[Array], y: Any, error: Sequence[Array], /, *, axis: int = 0
) -> list[Array | None]:
    """Also of what a loop hands to its turns."""
    return [jnp.stack(error, axis)]


def _stack(x: Sequence[Array], y: Array, error: Array, /, *, axis: int = 0) -> list[Array | None]:
    """Also of what a loop's turns leave behind."""
    return list(jnp.unstack(error, axis=axis))


MOVING: Mapping[str, Rule] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "concatenate": _concatenate,
        "copy": _passed_on,
        "dynamic_slice": _dynamic_slice,
        "dynamic_update_slice": _dynamic_update_slice,
        "device_put": _passed_on,
        "expand_dims": _reshape,
        "gather": _gather,
        "name": _passed_on,
        "optimization_barrier": _passed_on,
        "pad": _pad,
        "reshape": _reshape,
        "rev": _rev,
        "scatter": _scatter,
        "scatter-add": _scatter_add,
        "scatter-sub": _scatter_sub,
        "slice": _slice,
        "sort": _sort,
        "split": _split,
        "squeeze": _reshape,
        "stack": _stack,
        "stored": _passed_on,
        "top_k": _top_k,
        "transpose": _transpose,
        "unstack": _unstack,
    }
)
"""By the operation's name in a traced program; `unstack` and `stack` are a loop's as well."""
