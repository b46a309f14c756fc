"""The chain rule's local step, by hand, for every operation; see `rule` for what one is."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.moving_rules import MOVING
from jaxnets.gradients.product_rules import PRODUCTS
from jaxnets.gradients.rule import Rule
from jaxnets.gradients.window_rules import WINDOWS
from jaxnets.types import Array


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


def _before(x: Array, axis: int, *, reverse: bool = False) -> Array:
    """The product of all elements before each along an axis, or of all after it."""
    ones = jnp.ones_like(lax.slice_in_dim(x, 0, 1, axis=axis))
    n = x.shape[axis]
    parts = [lax.slice_in_dim(x, 1, n, axis=axis), ones] if reverse else \
        [ones, lax.slice_in_dim(x, 0, n - 1, axis=axis)]  # fmt: skip
    product: Array = lax.cumprod(jnp.concatenate(parts, axis), axis, reverse=reverse)
    return product


def _reduce_prod(
    x: Sequence[Array], y: Array, error: Array, /, *, axes: Sequence[int], **params: Any
) -> list[Array | None]:
    """Times the product of all others, which is not `y / x` where x is 0."""
    axes = tuple(axes)
    last = tuple(range(-len(axes), 0))
    moved = jnp.moveaxis(x[0], axes, last)
    flat = moved.reshape(*error.shape, math.prod(moved.shape[error.ndim :]))
    if not flat.size:
        return [jnp.zeros_like(x[0])]
    others = _before(flat, error.ndim) * _before(flat, error.ndim, reverse=True)
    parts = jnp.expand_dims(error, -1) * others
    return [jnp.moveaxis(parts.reshape(moved.shape), last, axes)]


def _cumprod(
    x: Sequence[Array], y: Array, error: Array, /, *, axis: int, reverse: bool
) -> list[Array | None]:
    """Of `y_i = x_1 … x_i`: `(x_1 … x_{i-1}) s_i`, with `s_i = error_i + x_{i+1} s_{i+1}`."""
    if not x[0].size:
        return [error]
    forward = [jnp.flip(z, axis) if reverse else z for z in (x[0], error)]
    factors, errors = (jnp.moveaxis(z, axis, 0) for z in forward)

    def turn(carry: tuple[Array, Array], here: tuple[Array, Array]) -> Any:
        (s, after), (factor, error) = carry, here
        s = error + after * s
        return (s, factor), s

    zero = jnp.zeros_like(errors[0])
    _, sums = lax.scan(turn, (zero, zero), (factors, errors), reverse=True)
    found = jnp.moveaxis(_before(factors, 0) * sums, 0, axis)
    return [jnp.flip(found, axis) if reverse else found]


def _own(
    x: Sequence[Array], y: Any, error: Any, /, *, call: Callable[..., Any]
) -> list[Array | None]:
    """Of a function that brings a derivative of its own, such as `relu`, whose is 0 at 0."""
    signals = jax.vjp(call, *x)[1](list(error))
    return [None if jnp.result_type(signal) == jax.dtypes.float0 else signal for signal in signals]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **MOVING,
        **PRODUCTS,
        **WINDOWS,
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
        "cbrt": _elementwise(lambda y, x: 1 / (3 * y * y)),
        "ceil": _nothing,
        "clamp": _clamp,
        "convert_element_type": _cast,
        "cos": _elementwise(lambda y, x: -jnp.sin(x)),
        "cosh": _elementwise(lambda y, x: jnp.sinh(x)),
        "cumprod": _cumprod,
        "cumsum": _cumsum,
        "div": _elementwise(lambda y, a, b: 1 / b, lambda y, a, b: -y / b),
        "erf": _elementwise(lambda y, x: 2 / math.sqrt(math.pi) * jnp.exp(-x * x)),
        "erfc": _elementwise(lambda y, x: -2 / math.sqrt(math.pi) * jnp.exp(-x * x)),
        "exp": _elementwise(lambda y, x: y),
        "exp2": _elementwise(lambda y, x: math.log(2) * y),
        "expm1": _elementwise(lambda y, x: y + 1),
        "floor": _nothing,
        "integer_pow": _integer_pow,
        "log": _elementwise(lambda y, x: 1 / x),
        "log1p": _elementwise(lambda y, x: 1 / (1 + x)),
        "logistic": _elementwise(lambda y, x: y * (1 - y)),
        "max": _elementwise(lambda y, a, b: _larger(a, b), lambda y, a, b: _larger(b, a)),
        "min": _elementwise(lambda y, a, b: _larger(b, a), lambda y, a, b: _larger(a, b)),
        "mul": _elementwise(lambda y, a, b: b, lambda y, a, b: a),
        "neg": _elementwise(lambda y, x: -1),
        "own rule": _own,
        "pow": _pow,
        "reduce_max": _reduce_extreme,
        "reduce_min": _reduce_extreme,
        "reduce_prod": _reduce_prod,
        "reduce_precision": _rounded,
        "reduce_sum": _reduce_sum,
        "rem": _elementwise(lambda y, a, b: 1, lambda y, a, b: -jnp.trunc(a / b)),
        "round": _nothing,
        "rsqrt": _elementwise(lambda y, x: -0.5 * y / x),
        "select_n": _select,
        "sign": _nothing,
        "sin": _elementwise(lambda y, x: jnp.cos(x)),
        "sinh": _elementwise(lambda y, x: jnp.cosh(x)),
        "sqrt": _elementwise(lambda y, x: 0.5 / y),
        "square": _elementwise(lambda y, x: 2 * x),
        "stop_gradient": _nothing,
        "sub": _elementwise(lambda y, a, b: 1, lambda y, a, b: -1),
        "tan": _elementwise(lambda y, x: 1 + y * y),
        "tanh": _elementwise(lambda y, x: 1 - y * y),
    }
)
"""By the operation's name in a traced program; `unstack` and `stack` are a loop's as well,
`own rule` a function's that has one."""

OF_SEVERAL = frozenset(
    {"device_put", "optimization_barrier", "own rule", "sort", "split", "top_k", "unstack"}
)
"""Operations whose y and error are tuples, be it of one."""
