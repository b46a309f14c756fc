"""The variational autoencoder: an encoder to a Gaussian `q(z | x)`, a decoder to `p(x | z)`.

`log p(x) ≥ E_q[log p(x | z)] - KL(q(z | x) ‖ N(0, 1))`, the evidence lower bound, with
`z = μ + σ ε`, `ε ~ N(0, 1)`: so the expectation has a gradient (Kingma and Welling, "Auto-encoding
variational Bayes", 2013).
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxnets.losses import gaussian_kl, sigmoid_binary_cross_entropy, squared_error
from jaxnets.models.autoencoder import (
    AutoencoderConfig,
    decode_image,
    encode_image,
    init_autoencoder,
)
from jaxnets.types import Array, ArrayLike, Key, Params, Shape

_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)


@jax.tree_util.register_static
@dataclass(frozen=True)
class VAEConfig:
    """A variational autoencoder's shape; static, so it crosses `jit` like any argument.

    Attributes:
      nets: the encoder's and the decoder's shape; the encoder puts out `2 latent` numbers.
      likelihood: of a pixel: `"bernoulli"`, for values in [0, 1], of which the decoder gives the
        logits; or `"gaussian"`, of which it gives the means.
      stddev: of the Gaussian likelihood; how fine a difference counts, and so how much z says.
      learned_stddev: whether it is a parameter of all pixels, which begins as `stddev`; its best
        value is the root mean square of what the decoder misses (Rybkin et al., "Simple and
        effective VAE training with calibrated decoders", 2021).
    """

    nets: AutoencoderConfig
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    stddev: float = 1.0
    learned_stddev: bool = False

    def __post_init__(self) -> None:
        if self.likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(
                f"VAEConfig: likelihood must be 'bernoulli' or 'gaussian', got {self.likelihood!r}"
            )
        if self.learned_stddev and self.likelihood != "gaussian":
            raise ValueError(
                f"VAEConfig: learned_stddev is of likelihood 'gaussian', got {self.likelihood!r}"
            )
        if not self.stddev > 0:
            raise ValueError(f"VAEConfig: stddev must be positive, got {self.stddev}")


def init_vae(key: Key, config: VAEConfig) -> Params:
    """`{"encoder": …, "decoder": …}`, as of an autoencoder, and a learned `log_stddev`, `[]`."""
    params = init_autoencoder(key, config.nets, n_code=2 * config.nets.latent)
    if config.learned_stddev:
        params["log_stddev"] = jnp.asarray(math.log(config.stddev), config.nets.param_dtype)
    return params


def posterior(params: Params, config: VAEConfig, x: Array) -> tuple[Array, Array]:
    """Mean and log-variance of `q(z | x)`, `[..., latent]` each.

    Args:
      params: from `init_vae`.
      config: the same as there.
      x: `[..., height, width, channels]`.

    Raises:
      ValueError: if x's last axes are not the config's image.
    """
    mean, log_variance = jnp.split(encode_image(params, config.nets, x), 2, axis=-1)
    return mean, log_variance


def reparameterize(mean: Array, log_variance: Array, key: Key) -> Array:
    """`z = μ + σ ε`, `ε ~ N(0, 1)`, with σ computed in float32 and z in μ's dtype."""
    wide = jnp.promote_types(mean.dtype, jnp.float32)
    stddev = jnp.exp(0.5 * log_variance.astype(wide))
    noise = jax.random.normal(key, mean.shape, wide)
    return (mean.astype(wide) + stddev * noise).astype(mean.dtype)


def vae(
    params: Params, config: VAEConfig, x: Array, *, key: Key | None = None
) -> tuple[Array, Array, Array]:
    """The decoder's output for z drawn from `q(z | x)`, and that one's mean and log-variance.

    Args:
      params: from `init_vae`.
      config: the same as there.
      x: `[..., height, width, channels]`.
      key: of z's draw; `None` is evaluation: z is the mean.

    Returns:
      `(output, mean, log_variance)`: `[..., height, width, channels]`, logits or means by the
      likelihood, and `[..., latent]` twice.

    Raises:
      ValueError: if x's last axes are not the config's image.
    """
    mean, log_variance = posterior(params, config, x)
    z = mean if key is None else reparameterize(mean, log_variance, key)
    return decode_image(params, config.nets, z), mean, log_variance


def negative_elbo(
    params: Params, config: VAEConfig, x: Array, key: Key, *, beta: ArrayLike = 1.0
) -> tuple[Array, dict[str, Array]]:
    """`-log p(x | z) + β KL(q(z | x) ‖ N(0, 1))` in nats, with one draw of z.

    For β = 1 its mean over draws is at least `-log p(x)`; another weighs the two (Higgins et al.,
    "β-VAE", 2017).

    Args:
      params: from `init_vae`.
      config: the same as there.
      x: `[..., height, width, channels]`; in [0, 1] for the Bernoulli likelihood.
      key: of z's draw.
      beta: at least 0.

    Returns:
      `(loss, {"reconstruction", "kl"})`, each `[...]` in float32 or wider, summed over pixels and
      latent dimensions.

    Raises:
      ValueError: if x's last axes are not the config's image.
    """
    output, mean, log_variance = vae(params, config, x, key=key)
    pixels, latent = (-3, -2, -1), -1
    if config.likelihood == "bernoulli":
        reconstruction = jnp.sum(sigmoid_binary_cross_entropy(output, x), axis=pixels)
    else:
        squares = squared_error(output, x)
        log_stddev = math.log(config.stddev)
        if config.learned_stddev:
            log_stddev = params["log_stddev"].astype(squares.dtype)
        log_density = -0.5 * squares * jnp.exp(-2 * log_stddev) - log_stddev - _LOG_ROOT_TAU
        reconstruction = -jnp.sum(log_density, axis=pixels)
    kl = jnp.sum(gaussian_kl(mean, log_variance), axis=latent)
    return reconstruction + beta * kl, {"reconstruction": reconstruction, "kl": kl}


def sample_vae(params: Params, config: VAEConfig, key: Key, shape: Shape = ()) -> Array:
    """Mean images of the decoder for `z ~ N(0, 1)`, `[*shape, height, width, channels]`.

    The mean of a pixel given z, not a draw of it, which would be noise on top.
    """
    dtype = config.nets.dtype or jnp.float32
    z = jax.random.normal(key, (*shape, config.nets.latent), dtype)
    output = decode_image(params, config.nets, z)
    return jax.nn.sigmoid(output) if config.likelihood == "bernoulli" else output
