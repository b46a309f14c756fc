"""The chain rule's local step, by hand: from a result's error signal to those of its operands.

A rule is `rule(x, y, error, /, **params) -> [error signal of each operand, or None]`: x are the
operands' values, y the result (or the tuple of results), `error` the derivative of the loss by it.
None is for an operand that no derivative reaches, such as an index.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array

Rule: TypeAlias = Callable[..., list[Array | None]]


def _elementwise(*partials: Callable[..., Any]) -> Rule:
    """Of `y = f(a, b, …)`: the error signal times `∂y/∂a`, `∂y/∂b`, …, each `partial(y, a, b)`."""

    def rule(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
        return [
            _alike(operand, error * partial(y, *x))
            for operand, partial in zip(x, partials, strict=True)
        ]

    return rule


def _alike(operand: Array, error: Array) -> Array:
    """The error signal of an operand that met a larger one: it was used once for each element."""
    shape = jnp.shape(operand)
    wider = range(error.ndim) if not shape else (i for i, n in enumerate(shape) if n == 1)
    axes = tuple(i for i in wider if error.shape[i] != 1 or not shape)
    return jnp.sum(error, axes).reshape(shape)


def _larger(a: Array, b: Array) -> Array:
    """1 where a is larger, 1/2 where they are equal: the mean of both one-sided derivatives."""
    half: Array = jnp.where(a == b, 0.5, 0.0)
    return jnp.where(a > b, 1.0, half)


def _passed_on(x: Sequence[Array], y: Any, error: Any, /, **params: Any) -> list[Array | None]:
    """Of the identity."""
    return list(error) if isinstance(error, tuple) else [error]


def _rounded(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
    return [lax.reduce_precision(error, **params)]


def _nothing(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
    return [None] * len(x)


def _cast(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
    return [error.astype(x[0].dtype)]


def _integer_pow(
    x: Sequence[Array], result: Array, error: Array, /, *, y: int
) -> list[Array | None]:
    return [error * (y * x[0] ** (y - 1))] if y else [jnp.zeros_like(error)]


def _pow(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    base, exponent = x
    by_base = exponent * base ** jnp.where(exponent == 0, 1, exponent - 1)
    if not jnp.issubdtype(jnp.result_type(exponent), jnp.inexact):
        return [_alike(base, error * by_base.astype(error.dtype)), None]
    by_exponent = jnp.where(y == 0, 0, y * jnp.log(jnp.where(base == 0, 1, base)))
    return [_alike(base, error * by_base), _alike(exponent, error * by_exponent)]


def _select(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    which, *cases = x
    chosen = [jnp.where(which == i, error, 0) for i in range(len(cases))]
    return [None, *(_alike(case, e) for case, e in zip(cases, chosen, strict=True))]


def _clamp(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    low, value, high = x
    inside = (low < value) & (value < high)
    return [
        _alike(low, jnp.where(value < low, error, 0)),
        jnp.where(inside, error, 0),
        _alike(high, jnp.where(value > high, error, 0)),
    ]


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


def _reduce_sum(
    x: Sequence[Array], y: Array, error: Array, /, *, axes: Sequence[int], **params: Any
) -> list[Array | None]:
    return [jnp.broadcast_to(jnp.expand_dims(error, tuple(axes)), x[0].shape)]


def _reduce_extreme(
    x: Sequence[Array], y: Array, error: Array, /, *, axes: Sequence[int], **params: Any
) -> list[Array | None]:
    """To the element that is the extreme; among equal ones, in equal parts."""
    axes = tuple(axes)
    there = (x[0] == jnp.expand_dims(y, axes)).astype(error.dtype)
    share = error / jnp.sum(there, axes)
    return [there * jnp.expand_dims(share, axes)]


def _cumsum(
    x: Sequence[Array], y: Array, error: Array, /, *, axis: int, reverse: bool
) -> list[Array | None]:
    return [lax.cumsum(error, axis, reverse=not reverse)]


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


def _dot_general(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension_numbers: Any, precision: Any,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """Of `y = a b`: `error bᵀ` and `aᵀ error`."""
    a, b = x
    contracted, batch = dimension_numbers
    n, free_a = len(batch[0]), a.ndim - len(batch[0]) - len(contracted[0])
    of_a = tuple(range(n, n + free_a))
    of_b = tuple(range(n + free_a, error.ndim))
    return [
        _by_one(a, b, error, contracted, batch, of_b, precision),
        _by_one(b, a, error, contracted[::-1], batch[::-1], of_a, precision),
    ]


def _by_one(
    a: Array, b: Array, error: Array, contracted: Any, batch: Any, of_b: tuple[int, ...],
    precision: Any,
) -> Array:  # fmt: skip
    """Error signal and b, multiplied over the axes `of_b` that the product has from b alone."""
    free_b = [i for i in range(b.ndim) if i not in (*contracted[1], *batch[1])]
    numbers = ((of_b, free_b), (tuple(range(len(batch[1]))), batch[1]))
    product = lax.dot_general(error, b, numbers, precision)
    # its axes are the batch's, then a's own, then those that had been contracted, as b has them
    free_a = [i for i in range(a.ndim) if i not in (*contracted[0], *batch[0])]
    partner = dict(zip(contracted[1], contracted[0], strict=True))
    axes = [*batch[0], *free_a, *(partner[i] for i in sorted(contracted[1]))]
    return product.transpose(np.argsort(axes)).astype(a.dtype)


def _conv(
    x: Sequence[Array], y: Array, error: Array, /, *, window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]], lhs_dilation: Sequence[int], rhs_dilation: Sequence[int],
    dimension_numbers: Any, feature_group_count: int, batch_group_count: int, precision: Any,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """Of `y = image * kernel`: two convolutions more, of the error signal.

    By the image, with the kernel turned around, its ends in and out exchanged, and strides and
    gaps (`lhs_dilation`) exchanged; by the kernel, the image with the error signal as the kernel,
    the batch as the channels, and strides and the kernel's dilation exchanged.
    """
    if batch_group_count != 1:
        raise NotImplementedError("backprop: convolutions with batch_group_count have no rule")
    image_axes, kernel_axes, out_axes = dimension_numbers
    n, groups = x[0].ndim - 2, feature_group_count
    # to [batch, channels, *space] and [out, in / groups, *window]
    image, kernel = x[0].transpose(image_axes), x[1].transpose(kernel_axes)
    error = error.transpose(out_axes).astype(kernel.dtype)

    def span(size: int, step: int) -> int:
        return (size - 1) * step + 1

    sizes = list(zip(
        image.shape[2:], kernel.shape[2:], error.shape[2:], window_strides, lhs_dilation,
        rhs_dilation, padding, strict=True,
    ))  # fmt: skip
    to_image, to_kernel = [], []
    for i, k, o, stride, gap, dilation, (low, _) in sizes:
        before = span(k, dilation) - 1 - low
        whole = span(i, gap) + span(k, dilation) - 1
        to_image.append((before, whole - before - span(o, stride)))
        to_kernel.append((low, span(o, stride) + (k - 1) * dilation - span(i, gap) - low))
    turned = kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
    turned = jnp.flip(turned, tuple(range(3, n + 3))).reshape(image.shape[1], -1, *kernel.shape[2:])
    by_image = lax.conv_general_dilated(
        error, turned, lhs_dilation, to_image, lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation, feature_group_count=groups, precision=precision,
    )  # fmt: skip
    by_kernel = [
        lax.conv_general_dilated(
            one.swapaxes(0, 1), its_error.swapaxes(0, 1), rhs_dilation, to_kernel,
            lhs_dilation=lhs_dilation, rhs_dilation=window_strides, precision=precision,
        ).swapaxes(0, 1)
        for one, its_error in zip(
            jnp.split(image, groups, 1), jnp.split(error, groups, 1), strict=True
        )
    ]  # fmt: skip
    return [
        by_image.transpose(np.argsort(image_axes)),
        jnp.concatenate(by_kernel).transpose(np.argsort(kernel_axes)),
    ]


def _unstack(
    x: Sequence[Array], y: Any, error: Sequence[Array], /, **params: Any
) -> list[Array | None]:
    """Of what a loop hands to its turns."""
    return [jnp.stack(error)]


def _stack(x: Sequence[Array], y: Array, error: Array, /) -> list[Array | None]:
    """Of what a loop's turns leave behind."""
    return list(error)


def _own(
    x: Sequence[Array], y: Any, error: Any, /, *, call: Callable[..., Any]
) -> list[Array | None]:
    """Of a function that brings a derivative of its own, such as `relu`, whose is 0 at 0."""
    signals = jax.vjp(call, *x)[1](list(error))
    return [None if jnp.result_type(signal) == jax.dtypes.float0 else signal for signal in signals]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "abs": _elementwise(lambda y, x: jnp.where(x >= 0, 1, -1).astype(y.dtype)),
        "acos": _elementwise(lambda y, x: -lax.rsqrt(1 - x * x)),
        "acosh": _elementwise(lambda y, x: lax.rsqrt((x - 1) * (x + 1))),
        "add": _elementwise(lambda y, a, b: 1, lambda y, a, b: 1),
        "add_any": _elementwise(lambda y, a, b: 1, lambda y, a, b: 1),
        "asin": _elementwise(lambda y, x: lax.rsqrt(1 - x * x)),
        "asinh": _elementwise(lambda y, x: lax.rsqrt(x * x + 1)),
        "atan": _elementwise(lambda y, x: 1 / (1 + x * x)),
        "atanh": _elementwise(lambda y, x: 1 / ((1 - x) * (1 + x))),
        "atan2": _elementwise(
            lambda y, a, b: b / (a * a + b * b), lambda y, a, b: -a / (a * a + b * b)
        ),
        "broadcast_in_dim": _broadcast,
        "cbrt": _elementwise(lambda y, x: 1 / (3 * y * y)),
        "ceil": _nothing,
        "clamp": _clamp,
        "concatenate": _concatenate,
        "conv_general_dilated": _conv,
        "convert_element_type": _cast,
        "copy": _passed_on,
        "cos": _elementwise(lambda y, x: -jnp.sin(x)),
        "cosh": _elementwise(lambda y, x: jnp.sinh(x)),
        "cumsum": _cumsum,
        "div": _elementwise(lambda y, a, b: 1 / b, lambda y, a, b: -y / b),
        "dot_general": _dot_general,
        "dynamic_slice": _dynamic_slice,
        "dynamic_update_slice": _dynamic_update_slice,
        "erf": _elementwise(lambda y, x: 2 / math.sqrt(math.pi) * jnp.exp(-x * x)),
        "erfc": _elementwise(lambda y, x: -2 / math.sqrt(math.pi) * jnp.exp(-x * x)),
        "device_put": _passed_on,
        "exp": _elementwise(lambda y, x: y),
        "exp2": _elementwise(lambda y, x: math.log(2) * y),
        "expand_dims": _reshape,
        "expm1": _elementwise(lambda y, x: y + 1),
        "floor": _nothing,
        "gather": _gather,
        "integer_pow": _integer_pow,
        "log": _elementwise(lambda y, x: 1 / x),
        "log1p": _elementwise(lambda y, x: 1 / (1 + x)),
        "logistic": _elementwise(lambda y, x: y * (1 - y)),
        "max": _elementwise(lambda y, a, b: _larger(a, b), lambda y, a, b: _larger(b, a)),
        "min": _elementwise(lambda y, a, b: _larger(b, a), lambda y, a, b: _larger(a, b)),
        "mul": _elementwise(lambda y, a, b: b, lambda y, a, b: a),
        "name": _passed_on,
        "neg": _elementwise(lambda y, x: -1),
        "optimization_barrier": _passed_on,
        "own rule": _own,
        "pad": _pad,
        "pow": _pow,
        "reduce_max": _reduce_extreme,
        "reduce_min": _reduce_extreme,
        "reduce_precision": _rounded,
        "reduce_sum": _reduce_sum,
        "rem": _elementwise(lambda y, a, b: 1, lambda y, a, b: -jnp.trunc(a / b)),
        "reshape": _reshape,
        "rev": _rev,
        "round": _nothing,
        "rsqrt": _elementwise(lambda y, x: -0.5 * y / x),
        "scatter-add": _scatter_add,
        "select_n": _select,
        "sign": _nothing,
        "sin": _elementwise(lambda y, x: jnp.cos(x)),
        "sinh": _elementwise(lambda y, x: jnp.cosh(x)),
        "slice": _slice,
        "split": _split,
        "sqrt": _elementwise(lambda y, x: 0.5 / y),
        "square": _elementwise(lambda y, x: 2 * x),
        "squeeze": _reshape,
        "stack": _stack,
        "stop_gradient": _nothing,
        "stored": _passed_on,
        "sub": _elementwise(lambda y, a, b: 1, lambda y, a, b: -1),
        "tan": _elementwise(lambda y, x: 1 + y * y),
        "tanh": _elementwise(lambda y, x: 1 - y * y),
        "transpose": _transpose,
        "unstack": _unstack,
    }
)
"""By the operation's name in a traced program; `unstack` and `stack` are a loop's, `own rule` a
function's that has one."""

OF_SEVERAL = frozenset({"device_put", "optimization_barrier", "own rule", "split", "unstack"})
"""Operations whose y and error are tuples, be it of one."""
