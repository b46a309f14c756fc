"""Losses by Optax's names, `loss(predictions, targets, ...)`, unreduced; penalties on parameters.

Calls written for Optax work unchanged; what is added is keyword-only. Different on purpose:

- Shapes match exactly: `(B, 1)` against `(B,)` is a `ValueError`, never a broadcast. Empty inputs
  are one too. Both are known when tracing, so they are errors inside `jit` as well.
- Losses are computed and returned in float32, whatever lower precision comes in; float64 stays.
- Values and gradients hold at logits of ±1e4 and ±∞ (there is no need for a "safe" variant).
- Labels out of range are a `ValueError`; traced by `jit` or `vmap` they give NaN in the loss and
  the gradient of their example, which `checkify.checkify(..., errors=checkify.nan_checks)` of
  `jax.experimental` and `jax_debug_nans` report.
- `where` masks before the arithmetic, so what it leaves out may hold anything, NaN included.
"""

from jaxnets.losses.adversarial import (
    gradient_penalty,
    hinge_discriminator_loss,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)
from jaxnets.losses.binary import sigmoid_binary_cross_entropy, sigmoid_focal_loss
from jaxnets.losses.contrastive import clip_loss, ntxent, siglip_loss, triplet_margin_loss
from jaxnets.losses.cosine import cosine_distance, cosine_similarity
from jaxnets.losses.divergence import (
    gaussian_kl,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from jaxnets.losses.margin import hinge_loss, multiclass_hinge_loss
from jaxnets.losses.penalties import elastic_net, l1, l2
from jaxnets.losses.regression import (
    absolute_error,
    huber_loss,
    l2_loss,
    log_cosh,
    squared_error,
)
from jaxnets.losses.softmax import (
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

safe_softmax_cross_entropy = softmax_cross_entropy
"""Optax's name for what `softmax_cross_entropy` does here anyway."""

__all__ = [
    "absolute_error",
    "clip_loss",
    "cosine_distance",
    "cosine_similarity",
    "elastic_net",
    "gaussian_kl",
    "gradient_penalty",
    "hinge_discriminator_loss",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l1",
    "l2",
    "l2_loss",
    "log_cosh",
    "multiclass_hinge_loss",
    "non_saturating_discriminator_loss",
    "non_saturating_generator_loss",
    "ntxent",
    "safe_softmax_cross_entropy",
    "siglip_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
    "triplet_margin_loss",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
]
