"""Losses of generators and of discriminators (critics), of one score for each image, real or fake.

Scores are of one shape `[...]`, of which the losses are too, in float32 (float64 for float64). With
`D` the score, a discriminator learns to score real images high and fake ones low, and the generator
to have its images scored high; the three pairs differ in how far either is pushed.

All raise `TypeError` for scores that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, inside `jit` too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnets.checks import require_real
from jaxnets.losses._inputs import matched, widen
from jaxnets.losses.binary import sigmoid_binary_cross_entropy
from jaxnets.types import Array, ArrayLike, Key


def _scores(function: str, real_scores: ArrayLike, fake_scores: ArrayLike) -> list[Array]:
    require_real(function, fake_scores=jnp.asarray(fake_scores))
    return matched(function, real_scores=real_scores, fake_scores=fake_scores)


def non_saturating_discriminator_loss(real_scores: ArrayLike, fake_scores: ArrayLike) -> Array:
    """`-log σ(D(x)) - log(1 - σ(D(x̃)))`: the scores are logits of being real.

    Args:
      real_scores: `D(x)`, floating, of any shape `[...]`.
      fake_scores: `D(x̃)`, floating, the same shape.

    Returns:
      `[...]`, at least 0.

    Reference: Goodfellow et al., Generative Adversarial Nets, 2014.
    """
    real, fake = _scores("non_saturating_discriminator_loss", real_scores, fake_scores)
    return sigmoid_binary_cross_entropy(real, jnp.ones_like(real)) + sigmoid_binary_cross_entropy(
        fake, jnp.zeros_like(fake)
    )


def non_saturating_generator_loss(fake_scores: ArrayLike) -> Array:
    """`-log σ(D(x̃))`, whose gradient is largest where the discriminator is surest.

    Arguments and reference as for `non_saturating_discriminator_loss`.
    """
    (fake,) = matched("non_saturating_generator_loss", fake_scores=fake_scores)
    return sigmoid_binary_cross_entropy(fake, jnp.ones_like(fake))


def hinge_discriminator_loss(real_scores: ArrayLike, fake_scores: ArrayLike) -> Array:
    """`max(0, 1 - D(x)) + max(0, 1 + D(x̃))`: scores beyond ±1 are good enough.

    Args:
      real_scores: `D(x)`, floating, of any shape `[...]`.
      fake_scores: `D(x̃)`, floating, the same shape.

    Returns:
      `[...]`, at least 0.

    Reference: Lim and Ye, Geometric GAN, 2017.
    """
    real, fake = _scores("hinge_discriminator_loss", real_scores, fake_scores)
    return jnp.maximum(0.0, 1 - real) + jnp.maximum(0.0, 1 + fake)


def wasserstein_discriminator_loss(real_scores: ArrayLike, fake_scores: ArrayLike) -> Array:
    """`D(x̃) - D(x)`, for a critic D of slope at most 1 (see `gradient_penalty`).

    Its negative mean is then at most the distance between real and fake images.

    Args:
      real_scores: `D(x)`, floating, of any shape `[...]`.
      fake_scores: `D(x̃)`, floating, the same shape.

    Returns:
      `[...]`, of either sign.

    Reference: Arjovsky et al., Wasserstein GAN, 2017.
    """
    real, fake = _scores("wasserstein_discriminator_loss", real_scores, fake_scores)
    return fake - real


def wasserstein_generator_loss(fake_scores: ArrayLike) -> Array:
    """`-D(x̃)`: the generator's loss beside a Wasserstein critic, and beside the hinge loss.

    Arguments and references as for those.
    """
    (fake,) = matched("wasserstein_generator_loss", fake_scores=fake_scores)
    return -fake


def gradient_penalty(critic: Callable[[Array], Array], real: Array, fake: Array, key: Key) -> Array:
    """`(‖∇D(x̂)‖ - 1)²` at `x̂ = u x + (1 - u) x̃`, u uniform in [0, 1], for one pair of images.

    Args:
      critic: `D`, of one image: a scalar.
      real: the image x, of any shape.
      fake: the image x̃, of the same shape.
      key: of u's draw.

    Returns:
      A scalar, at least 0, in float32 or wider. Where the critic is flat it is 1, with gradient 0.

    Raises:
      ValueError: if shapes differ, or the critic's score is not a scalar.

    Reference: Gulrajani et al., Improved Training of Wasserstein GANs, 2017.
    """
    function = "gradient_penalty"
    x, y = matched(function, real=real, fake=fake)
    u = jax.random.uniform(key, (), x.dtype)
    between = (u * x + (1 - u) * y).astype(jnp.result_type(real, fake))
    score = jax.eval_shape(critic, between)
    if score.shape != ():
        raise ValueError(f"{function}: critic must return a scalar, got {list(score.shape)}")
    (slope,) = widen(jax.grad(critic)(between))
    squares = jnp.sum(jnp.square(slope))
    norm = jnp.sqrt(jnp.where(squares == 0, 1.0, squares))  # the root has no gradient at 0
    return jnp.square(jnp.where(squares == 0, 0.0, norm) - 1)
