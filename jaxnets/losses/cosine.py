"""Cosine similarity `a·b / (|a| |b|)` and distance.

Computed and returned in float32, or float64 for float64 inputs; vectors whose squares overflow or
underflow are safe. A vector of zeros is orthogonal to everything: similarity 0 and gradient 0.

Both raise `TypeError` for inputs that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, inside `jit` too.
"""

import jax
import jax.numpy as jnp

from jaxnets.checks import require_real
from jaxnets.losses._inputs import fill, mask, matched, require_scalar_in
from jaxnets.types import Array, ArrayLike

Axis = int | tuple[int, ...] | None


def unit(x: Array, smallest: Array, axis: Axis) -> Array:
    """`x / max(|x|, smallest)`, and 0 for 0 / 0."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.maximum(largest, smallest)
    undefined = scale == 0
    # scaling before squaring; the scale cancels, so it needs no gradient
    scale = jax.lax.stop_gradient(jnp.where(undefined, 1.0, scale))
    x = x / scale
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    norm = jnp.sqrt(jnp.where(squares == 0, 1.0, squares))  # the root has no gradient at 0
    divisor = jnp.maximum(jnp.where(squares == 0, 0.0, norm), smallest / scale)
    # 0 · x, not 0: compiled maxima of wide vectors leave NaN out, and it must not become 0
    return jnp.where(undefined, 0.0 * x, x / jnp.where(undefined, 1.0, divisor))


def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """The cosine of the angle between predictions and targets, `a·b / (|a| |b|)`.

    Args:
      predictions: `a`, floating, `[..., n]`.
      targets: `b`, floating, the same shape.
      epsilon: a scalar, at least 0: each squared norm is taken as at least this.
      axis: the axis or axes of the vectors; `None` for all.
      where: boolean, the same shape: the components to include.

    Returns:
      `[...]`, in [-1, 1] up to rounding.

    Raises:
      ValueError: if epsilon is negative, besides the errors above.
    """
    function = "cosine_similarity"
    require_scalar_in(function, 0.0, float("inf"), epsilon=epsilon)
    require_real(function, targets=jnp.asarray(targets))
    a, b = matched(function, predictions=predictions, targets=targets)
    a, b = fill(mask(function, where, predictions=a.shape), 0.0, a, b)
    smallest = jnp.sqrt(jnp.asarray(epsilon, a.dtype))
    return jnp.sum(unit(a, smallest, axis) * unit(b, smallest, axis), axis=axis)


def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """The cosine distance `1 - cosine_similarity`.

    Args:
      predictions: `a`, floating, `[..., n]`.
      targets: `b`, floating, the same shape.
      epsilon: a scalar, at least 0: each squared norm is taken as at least this.
      axis: the axis or axes of the vectors; `None` for all.
      where: boolean, the same shape: the components to include.

    Returns:
      `[...]`, in [0, 2] up to rounding: accurate to float32's 1e-7, not relative to its size.
    """
    return 1.0 - cosine_similarity(predictions, targets, epsilon=epsilon, axis=axis, where=where)
