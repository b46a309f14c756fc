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


def _scatter_add(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension_numbers: Any, mode: Any,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """What was added to one place has that place's error signal."""
    operand, indices, updates = x
    numbers = lax.GatherDimensionNumbers(
        offset_dims=dimension_numbers.update_window_dims,
        collapsed_slice_dims=dimension_numbers.inserted_window_dims,
        start_index_map=dimension_numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=dimension_numbers.operand_batching_dims,
        start_indices_batching_dims=dimension_numbers.scatter_indices_batching_dims,
    )
    alone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = iter(updates.shape[i] for i in numbers.offset_dims)
    sizes = [1 if axis in alone else next(window) for axis in range(operand.ndim)]
    by_updates = lax.gather(error, indices, numbers, sizes, mode=mode, fill_value=0)
    return [error, None, by_updates]


def _unstack(
    x: Sequence[Array], y: Any, error: Sequence[Array], /, **params: Any
) -> list[Array | None]:
    """Of what a loop hands to its turns."""
    return [jnp.stack(error)]


def _stack(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    """Of what a loop's turns leave behind."""
    return list(error)


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
        "scatter-add": _scatter_add,
        "slice": _slice,
        "split": _split,
        "squeeze": _reshape,
        "stack": _stack,
        "stored": _passed_on,
        "transpose": _transpose,
        "unstack": _unstack,
    }
)
"""By the operation's name in a traced program; `unstack` and `stack` are a loop's."""
