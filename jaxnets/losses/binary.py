"""Losses of one logit `z` per binary label, element by element, with `p = sigmoid(z)`.

Each takes logits and labels of one shape `[...]` and returns the losses in that shape, in float32
(float64 for float64 inputs). `where`, a boolean array of the same shape, gives loss and gradient 0
to what it masks out, whatever that holds.

All raise `TypeError` for logits that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, both inside `jit` too. Labels out of range are a `ValueError`;
traced by `jit` or `vmap`, where they have no values to check, they give NaN in loss and gradient,
which `checkify.checkify(..., errors=checkify.nan_checks)` reports.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.losses._inputs import check_labels, fill, mask, matched, product, require_scalar_in
from jaxnets.types import Array, ArrayLike

# mixing labels, as in λ·1 + (1 - λ)·1, rounds: in bfloat16 by half a hundredth
ROUNDING = 0.01


def _logits_and_labels(
    function: str, logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Logits, labels, and the loss's factor: 0 where masked out, NaN for labels out of range."""
    z, y = matched(function, logits=logits, labels=labels)
    included = mask(function, where, logits=z.shape)
    z, y = fill(included, 0.0, z, y)
    valid = (y >= -ROUNDING) & (y <= 1 + ROUNDING)
    return z, y, check_labels(function, valid, "in [0, 1]", included, dtype=z.dtype, labels=y)


def _cross_entropy(z: Array, y: Array) -> Array:
    return product(y, jax.nn.softplus(-z)) + product(1 - y, jax.nn.softplus(z))


def sigmoid_binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    """Binary cross-entropy `-y log p - (1 - y) log(1 - p)` with `p = sigmoid(logits)`.

    Computed as `y softplus(-z) + (1 - y) softplus(z)`, accurate relative to its own size for logits
    of any size. At logits of ±∞ the loss is 0 or +∞ and the gradient `p - y` is finite.

    Args:
      logits: floating, of any shape `[...]`.
      labels: probabilities in [0, 1] (by 0.01 more for rounding), `[...]`.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.

    Reference: Goodfellow et al., Deep Learning, 2016, section 6.2.2.2.
    """
    z, y, factor = _logits_and_labels("sigmoid_binary_cross_entropy", logits, labels, where)
    return factor * _cross_entropy(z, y)


def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    where: ArrayLike | None = None,
) -> Array:
    """The focal loss `-α_t (1 - p_t)^γ log p_t`, which weighs down what is easy.

    `p_t` is the probability of the true label, so that `1 - p_t = (1 - y) p + y (1 - p)`, and
    `α_t = α y + (1 - α)(1 - y)`. At logits of ±∞ the gradient is its finite limit.

    Args:
      logits: floating, of any shape `[...]`.
      labels: probabilities in [0, 1] (by 0.01 more for rounding), `[...]`.
      alpha: the scalar weight α in [0, 1] of the positive labels; `None` for no weights.
      gamma: the scalar exponent γ, at least 0; 0 is the binary cross-entropy.
      where: boolean `[...]`; what it masks out has loss 0.

    Returns:
      `[...]`, at least 0.

    Raises:
      ValueError: if α or γ is out of range, besides the errors above.

    Reference: Lin et al., Focal Loss for Dense Object Detection, 2017,
    https://arxiv.org/abs/1708.02002.
    """
    function = "sigmoid_focal_loss"
    require_scalar_in(function, 0.0, float("inf"), gamma=gamma)
    z, y, factor = _logits_and_labels(function, logits, labels, where)
    wrong = (1 - y) * jax.nn.sigmoid(z) + y * jax.nn.sigmoid(-z)
    # where the sigmoids are flat the gradient is the cross-entropy's; autodiff would say 0 · ∞
    wrong = jnp.where(jnp.isinf(z), jax.lax.stop_gradient(wrong), wrong)
    # for γ < 1 the gradient of wrong^γ has no value at 0
    wrong = jnp.maximum(wrong, np.finfo(z.dtype).tiny)
    loss = factor * wrong ** jnp.asarray(gamma, z.dtype) * _cross_entropy(z, y)
    if alpha is None:
        return loss
    require_scalar_in(function, 0.0, 1.0, alpha=alpha)
    alpha = jnp.asarray(alpha, z.dtype)
    return (alpha * y + (1 - alpha) * (1 - y)) * loss
