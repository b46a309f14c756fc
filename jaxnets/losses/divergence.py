"""Kullback-Leibler divergence `Σ_c t_c (log t_c - log p_c)` of targets t and predictions p.

And that of a Gaussian from the standard one, in closed form.

Computed and returned in float32, or float64 for float64 inputs. `0 log 0 = 0`: a target of 0 costs
nothing, even at a log-prediction of -∞; where the target is not 0, that costs +∞, with the finite
gradient `-t`.

All raise `TypeError` for inputs that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, inside `jit` too.
"""

import jax.numpy as jnp

from jaxnets.checks import require_real
from jaxnets.losses._inputs import fill, mask, matched, product
from jaxnets.types import Array, ArrayLike


def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    """The divergence `Σ_c t_c (log t_c - log p_c)` from predictions in log space to targets.

    Args:
      log_predictions: `log p`, floating, `[..., C]`, as from `jax.nn.log_softmax`.
      targets: `t`, probabilities, floating, the same shape. A negative one gives NaN. The gradient
        with respect to a target of 0, -∞ in the limit, leaves out `log t`.
      axis: the axis or axes to sum over; `None` for all.
      where: boolean, the same shape: the elements to include.

    Returns:
      `[...]`, the shape without `axis`; at least 0 if both are distributions.

    Reference: Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    function = "kl_divergence"
    require_real(function, targets=jnp.asarray(targets))
    log_p, t = matched(function, log_predictions=log_predictions, targets=targets)
    log_p, t = fill(mask(function, where, log_predictions=log_p.shape), 0.0, log_p, t)
    log_t = jnp.log(jnp.where(t == 0, 1.0, t))
    return jnp.sum(product(t, log_t - log_p), axis=axis)


def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> Array:
    """The divergence `Σ_c e^{log t_c} (log t_c - log p_c)`, both sides in log space.

    Args:
      log_predictions: `log p`, floating, `[..., C]`.
      log_targets: `log t`, floating, the same shape; -∞ is a target of 0.
      axis: the axis or axes to sum over; `None` for all.
      where: boolean, the same shape: the elements to include.

    Returns:
      `[...]`, the shape without `axis`; at least 0 if both are distributions.

    Reference: as for `kl_divergence`.
    """
    function = "kl_divergence_with_log_targets"
    require_real(function, log_targets=jnp.asarray(log_targets))
    log_p, log_t = matched(function, log_predictions=log_predictions, log_targets=log_targets)
    log_p, log_t = fill(mask(function, where, log_predictions=log_p.shape), 0.0, log_p, log_t)
    t = jnp.exp(log_t)
    log_t = jnp.where(t == 0, 0.0, log_t)
    return jnp.sum(product(t, log_t - log_p), axis=axis)


def gaussian_kl(mean: ArrayLike, log_variance: ArrayLike) -> Array:
    """The divergence of `N(μ, σ²)` from `N(0, 1)`, `½ (μ² + σ² - 1 - log σ²)`, element by element.

    Args:
      mean: `μ`, floating, of any shape `[...]`.
      log_variance: `log σ²`, floating, the same shape.

    Returns:
      `[...]`, at least 0. That of independent dimensions together is their sum.

    Reference: Kingma and Welling, Auto-Encoding Variational Bayes, 2013, appendix B.
    """
    function = "gaussian_kl"
    require_real(function, log_variance=jnp.asarray(log_variance))
    mu, log_var = matched(function, mean=mean, log_variance=log_variance)
    return 0.5 * (jnp.square(mu) + (jnp.expm1(log_var) - log_var))
