"""Initial weights: `initializer(key, shape, dtype) -> array`, as in `jax.nn.initializers`.

Every factory is cached, so that `he_normal() is he_normal()`: a frozen config that holds one stays
equal and hashable, and `jit` does not recompile.

The fan of a kernel `[*window, in, out]` is `in · |window|` inwards and `out · |window|` outwards.
A stack of layers `[depth, in, out]` would be read as a window: `vmap` the initializer over keys
instead (`init_stack`).
"""

import inspect
import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Literal, ParamSpec

import jax
import jax.numpy as jnp

from jaxnets.types import Array, DTypeLike, Initializer, Key, Shape

P = ParamSpec("P")

Fan = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]

STDDEV_OF_NORMAL_WITHIN_2 = 0.87962566103423978


def _cached(factory: Callable[P, Initializer]) -> Callable[P, Initializer]:
    """One initializer for equal arguments, however they are passed."""
    signature = inspect.signature(factory)
    make = cache(factory)

    @wraps(factory)
    def cached(*args: P.args, **kwargs: P.kwargs) -> Initializer:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return make(*bound.args)

    return cached


def zeros(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
    """0 everywhere; `key` is unused."""
    return jnp.zeros(shape, dtype)


def ones(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
    """1 everywhere; `key` is unused."""
    return jnp.ones(shape, dtype)


@_cached
def constant(value: float) -> Initializer:
    """`value` everywhere."""

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return jnp.full(shape, value, dtype)

    return init


def _draw(distribution: Distribution, key: Key, shape: Shape, dtype: DTypeLike) -> Array:
    """A sample of mean 0 and variance 1."""
    match distribution:
        case "uniform":
            return jax.random.uniform(key, shape, dtype, -1) * math.sqrt(3)
        case "normal":
            return jax.random.normal(key, shape, dtype)
        case "truncated_normal":
            z = jax.random.truncated_normal(key, -2, 2, shape, dtype)
            return z / STDDEV_OF_NORMAL_WITHIN_2


def _scaled_draw(
    distribution: Distribution, stddev: float, key: Key, shape: Shape, dtype: DTypeLike
) -> Array:
    # half precision has too few values to draw from: draw wide, round once
    wide = jnp.promote_types(dtype, jnp.float32)
    return (stddev * _draw(distribution, key, shape, wide)).astype(dtype)


@_cached
def normal(stddev: float = 1e-2) -> Initializer:
    """`N(0, stddev²)`."""

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _scaled_draw("normal", stddev, key, shape, dtype)

    return init


@_cached
def truncated_normal(stddev: float = 1e-2) -> Initializer:
    """`N(0, stddev²)` cut at two standard deviations; what is left has `0.88 stddev`."""

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        cut = stddev * STDDEV_OF_NORMAL_WITHIN_2
        return _scaled_draw("truncated_normal", cut, key, shape, dtype)

    return init


@_cached
def uniform(scale: float = 1e-2) -> Initializer:
    """`U[0, scale)`, as in `jax.nn.initializers`."""

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (scale * jax.random.uniform(key, shape, wide)).astype(dtype)

    return init


def fans(shape: Shape) -> tuple[int, int]:
    """`(fan_in, fan_out)` of a kernel `[*window, in, out]`.

    Raises:
      ValueError: if `shape` has fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"a kernel's shape is [*window, in, out]; shape {shape} has no fan")
    *window, n_in, n_out = shape
    return n_in * math.prod(window), n_out * math.prod(window)


@_cached
def variance_scaling(scale: float, mode: Fan, distribution: Distribution) -> Initializer:
    """Mean 0, variance `scale / n`; `n` is the fan in, the fan out or the mean of both.

    Args:
      scale: a positive number: 1 keeps the variance of a linear layer, 2 that of relu.
      mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
      distribution: `"uniform"`, `"normal"`, or `"truncated_normal"` (cut at two standard
        deviations and widened so that the variance is as asked).

    Raises:
      ValueError: for another mode or distribution, or a scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"variance_scaling: scale must be positive, got {scale}")
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(
            f"variance_scaling: mode must be 'fan_in', 'fan_out' or 'fan_avg', got {mode!r}"
        )

    if distribution not in ("uniform", "normal", "truncated_normal"):
        raise ValueError(
            "variance_scaling: distribution must be 'uniform', 'normal' or 'truncated_normal', "
            f"got {distribution!r}"
        )

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        return _scaled_draw(distribution, math.sqrt(scale / max(fan, 1)), key, shape, dtype)

    return init


def xavier_uniform() -> Initializer:
    """`U[-a, a]`, `a = √(6 / (fan_in + fan_out))`: keeps variance both ways through a linear layer.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010.
    """
    return variance_scaling(1.0, "fan_avg", "uniform")


def xavier_normal() -> Initializer:
    """Truncated normal of variance `2 / (fan_in + fan_out)` (Glorot and Bengio, 2010)."""
    return variance_scaling(1.0, "fan_avg", "truncated_normal")


def he_uniform() -> Initializer:
    """`U[-a, a]`, `a = √(6 / fan_in)`: keeps the second moment through relu.

    He et al., "Delving deep into rectifiers", 2015.
    """
    return variance_scaling(2.0, "fan_in", "uniform")


def he_normal() -> Initializer:
    """Truncated normal of variance `2 / fan_in` (He et al., 2015)."""
    return variance_scaling(2.0, "fan_in", "truncated_normal")


def lecun_uniform() -> Initializer:
    """`U[-a, a]`, `a = √(3 / fan_in)`: keeps variance forward through a linear layer.

    LeCun et al., "Efficient backprop", 1998.
    """
    return variance_scaling(1.0, "fan_in", "uniform")


def lecun_normal() -> Initializer:
    """Truncated normal of variance `1 / fan_in` (LeCun et al., 1998)."""
    return variance_scaling(1.0, "fan_in", "truncated_normal")


@_cached
def orthogonal(scale: float = 1.0) -> Initializer:
    """A random (semi-)orthogonal matrix, `scale · Q` with `QᵀQ = I` or `QQᵀ = I`.

    A kernel `[*window, in, out]` is filled as the matrix `[|window| · in, out]`. Uniform over the
    orthogonal group (the signs of R's diagonal are divided out).

    Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", 2013.
    """

    def init(key: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        if len(shape) < 2:
            raise ValueError(f"orthogonal: a matrix needs two axes or more, got shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        wide = jnp.promote_types(dtype, jnp.float32)
        tall = (max(rows, columns), min(rows, columns))
        q, r = jnp.linalg.qr(jax.random.normal(key, tall, wide))
        q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(wide)[None, :]
        q = q if rows >= columns else q.T
        return (scale * q.reshape(shape)).astype(dtype)

    return init


glorot_uniform = xavier_uniform
glorot_normal = xavier_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal
