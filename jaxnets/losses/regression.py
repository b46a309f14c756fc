"""Regression losses: functions of the error `e = prediction - target`, element by element.

Each takes predictions and targets of one shape `[...]` and returns the losses in that shape, in
float32 (float64 for float64 inputs). `targets=None` means zeros. `where`, a boolean array of the
same shape, gives loss and gradient 0 to what it masks out, whatever that holds, NaN included.

All raise `TypeError` for predictions that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, both inside `jit` too.
"""

import jax
import jax.numpy as jnp

from jaxnets.losses._inputs import absolute, fill, mask, matched, require_scalar_in
from jaxnets.types import Array, ArrayLike


def _error(
    function: str, predictions: ArrayLike, targets: ArrayLike | None, where: ArrayLike | None
) -> Array:
    if targets is None:
        (error,) = matched(function, predictions=predictions)
    else:
        prediction, target = matched(function, predictions=predictions, targets=targets)
        error = prediction - target
    (error,) = fill(mask(function, where, predictions=error.shape), 0.0, error)
    return error


def squared_error(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    """The squared error `e²`; its mean is the mean squared error.

    Args:
      predictions: floating, of any shape `[...]`.
      targets: `[...]`, or `None` for zeros.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.
    """
    error = _error("squared_error", predictions, targets, where)
    return jnp.square(error)


def l2_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    """Half the squared error, `½ e²`, whose gradient is the error itself.

    Args:
      predictions: floating, of any shape `[...]`.
      targets: `[...]`, or `None` for zeros.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.

    Reference: Bishop, Pattern Recognition and Machine Learning, 2006, eq. 1.2.
    """
    error = _error("l2_loss", predictions, targets, where)
    return 0.5 * jnp.square(error)


def absolute_error(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    """The absolute error `|e|`; its gradient is `sign(e)`, and 0 at 0.

    Args:
      predictions: floating, of any shape `[...]`.
      targets: `[...]`, or `None` for zeros.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.
    """
    error = _error("absolute_error", predictions, targets, where)
    return absolute(error)


def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    """The Huber loss: `½ e²` up to `|e| = δ`, then `δ (|e| - ½ δ)`.

    Its gradient is that of `l2_loss` clipped to `[-δ, δ]`.

    Args:
      predictions: floating, of any shape `[...]`.
      targets: `[...]`, or `None` for zeros.
      delta: the scalar δ, at least 0.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.

    Reference: Huber, Robust Estimation of a Location Parameter, 1964.
    """
    require_scalar_in("huber_loss", 0.0, float("inf"), delta=delta)
    error = jnp.abs(_error("huber_loss", predictions, targets, where))
    delta = jnp.asarray(delta, error.dtype)
    # the split into two parts that always hold keeps the gradient at |e| = δ from counting twice
    quadratic = jnp.minimum(error, delta)
    linear = error - quadratic
    return 0.5 * jnp.square(quadratic) + delta * linear


def log_cosh(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    """`log(cosh(e))`: about `½ e²` for small errors, `|e| - log 2` for large; gradient `tanh(e)`.

    Args:
      predictions: floating, of any shape `[...]`.
      targets: `[...]`, or `None` for zeros.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0, accurate relative to its size for small errors too.

    Reference: Chen et al., Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder, 2019.
    """
    return _log_cosh(_error("log_cosh", predictions, targets, where))


@jax.custom_jvp
def _log_cosh(x: Array) -> Array:
    size = jnp.abs(x)
    # cosh(x) - 1 = ½ (1 - e⁻ˣ)² eˣ cancels nothing near 0, where |x| - log 2 + log(1 + e⁻²ˣ) would
    small = jnp.minimum(size, 1.0)
    near = jnp.log1p(0.5 * jnp.square(jnp.expm1(-small)) * jnp.exp(small))
    far = size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(2.0).astype(x.dtype)
    return jnp.where(size < 1.0, near, far)


@_log_cosh.defjvp
def _log_cosh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    return _log_cosh(x), jnp.tanh(x) * x_dot
