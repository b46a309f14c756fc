"""A generator of images and their discriminator, small and convolutional, and the game they play.

As Radford et al., "Unsupervised representation learning with deep convolutional generative
adversarial networks", 2015, but with group norm in the generator, which mixes no examples, and no
norm in the discriminator, which a gradient penalty asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets import losses
from jaxnets.nn import (
    conv,
    conv_transpose,
    dense,
    group_norm,
    init_conv,
    init_dense,
    init_norm,
    leaky_relu,
    relu,
)
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Array, ArrayLike, DTypeLike, Initializer, Key, Params, Shape

Game = Literal["non_saturating", "hinge", "wasserstein"]
WINDOW = (4, 4)
"""Twice the stride, so that an upsampled image's pixels all see as many positions."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class GANConfig:
    """A generator's and a discriminator's shape; static, so it crosses `jit` like any argument.

    Attributes:
      image: `(height, width, channels)`; height and width are divisible by 2 for each convolution.
      latent: the size of the generator's input.
      channels: of the discriminator's convolutions, first to last, each of which halves the image;
        the generator's are the same backwards.
      groups: of the generator's group norms.
      kernel_init: for every kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    image: Shape
    latent: int = 64
    channels: tuple[int, ...] = (64, 128)
    groups: int = 8
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if len(self.image) != 3:
            raise ValueError(
                f"GANConfig: image must be (height, width, channels), got {self.image}"
            )
        if not self.channels or min(self.latent, self.groups, *self.image, *self.channels) < 1:
            raise ValueError(f"GANConfig: every size must be positive, got {self}")
        factor = 2 ** len(self.channels)
        if self.image[0] % factor or self.image[1] % factor:
            raise ValueError(
                f"GANConfig: {len(self.channels)} halvings need a height and width divisible by "
                f"{factor}, got an image {self.image}"
            )
        if any(c % self.groups for c in self.channels):
            raise ValueError(
                f"GANConfig: groups must divide all channels {self.channels}, got {self.groups}"
            )

    @property
    def smallest(self) -> Shape:
        """The generator's first and the discriminator's last map, `(height, width, channels)`."""
        factor = 2 ** len(self.channels)
        return self.image[0] // factor, self.image[1] // factor, self.channels[-1]


def init_generator(key: Key, config: GANConfig) -> Params:
    """`{"dense", "norms": [norm, …], "convs": [conv, …]}`."""
    dense_key, *keys = jax.random.split(key, 1 + len(config.channels))
    init, dtype = config.kernel_init, config.param_dtype
    sizes = (*config.channels[::-1], config.image[-1])
    smallest = prod(config.smallest)
    return {
        "dense": init_dense(dense_key, config.latent, smallest, kernel_init=init, dtype=dtype),
        "norms": [init_norm(n, dtype=dtype) for n in sizes[:-1]],
        "convs": [
            init_conv(k, WINDOW, n_in, n_out, kernel_init=init, dtype=dtype)
            for k, n_in, n_out in zip(keys, sizes, sizes[1:], strict=False)
        ],
    }


def generator(params: Params, config: GANConfig, z: Array) -> Array:
    """The image of a latent vector: `x ← up(relu(norm(x)))` for each convolution, then tanh.

    Args:
      params: from `init_generator`.
      config: the same as there.
      z: `[..., latent]`, usually standard normal.

    Returns:
      `[..., height, width, channels]`, in [-1, 1].

    Raises:
      ValueError: if z's last axis is not `config.latent`.
    """
    if z.ndim < 1 or z.shape[-1] != config.latent:
        raise ValueError(f"generator: z must be [..., {config.latent}], got {list(z.shape)}")
    z = z if config.dtype is None else z.astype(config.dtype)
    x = dense(params["dense"], z).reshape(*z.shape[:-1], *config.smallest)
    for norm, kernel in zip(params["norms"], params["convs"], strict=True):
        x = relu(group_norm(norm, x, groups=config.groups))
        x = conv_transpose(kernel, x, stride=2)
    return jnp.tanh(x)


def init_discriminator(key: Key, config: GANConfig) -> Params:
    """`{"convs": [conv, …], "dense"}`."""
    dense_key, *keys = jax.random.split(key, 1 + len(config.channels))
    init, dtype = config.kernel_init, config.param_dtype
    sizes = (config.image[-1], *config.channels)
    return {
        "convs": [
            init_conv(k, WINDOW, n_in, n_out, kernel_init=init, dtype=dtype)
            for k, n_in, n_out in zip(keys, sizes, sizes[1:], strict=False)
        ],
        "dense": init_dense(dense_key, prod(config.smallest), 1, kernel_init=init, dtype=dtype),
    }


def discriminator(params: Params, config: GANConfig, x: Array) -> Array:
    """The score of an image: the larger, the more it looks real.

    Args:
      params: from `init_discriminator`.
      config: the same as there.
      x: `[..., height, width, channels]`.

    Returns:
      `[...]`, of any real values.

    Raises:
      ValueError: if x's last axes are not `config.image`.
    """
    if x.shape[-3:] != config.image:
        raise ValueError(f"discriminator: x must be [..., {config.image}], got {list(x.shape)}")
    x = x if config.dtype is None else x.astype(config.dtype)
    for kernel in params["convs"]:
        x = leaky_relu(conv(kernel, x, stride=2), 0.2)
    return dense(params["dense"], x.reshape(*x.shape[:-3], -1))[..., 0]


_LOSSES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "non_saturating": (
        losses.non_saturating_generator_loss,
        losses.non_saturating_discriminator_loss,
    ),
    "hinge": (losses.wasserstein_generator_loss, losses.hinge_discriminator_loss),
    "wasserstein": (losses.wasserstein_generator_loss, losses.wasserstein_discriminator_loss),
}


def gan_losses(
    config: GANConfig, game: Game = "non_saturating", *, penalty: ArrayLike = 10.0
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Both players' losses of one image, `loss(params, others_params, image, key) -> scalar`.

    The generator's does not look at the image: it is there so that both are called alike.

    Args:
      config: the nets' shape.
      game: which pair of losses.
      penalty: what the gradient penalty is multiplied by, in the Wasserstein game.

    Returns:
      `(generator_loss, discriminator_loss)`, as `jaxnets.train.gan_step` takes them.

    Raises:
      ValueError: if there is no such game.
    """
    if game not in _LOSSES:
        raise ValueError(f"gan_losses: game must be one of {[*_LOSSES]}, got {game!r}")
    generator_score_loss, discriminator_score_loss = _LOSSES[game]

    def fake(params: Params, image: Array, key: Key) -> Array:
        return generator(params, config, jax.random.normal(key, (config.latent,), image.dtype))

    def generator_loss(params: Params, others: Params, image: Array, key: Key) -> Any:
        return generator_score_loss(discriminator(others, config, fake(params, image, key)))

    def discriminator_loss(params: Params, others: Params, image: Array, key: Key) -> Any:
        latent_key, between_key = jax.random.split(key)
        made = fake(others, image, latent_key).astype(image.dtype)
        score = partial(discriminator, params, config)
        loss = discriminator_score_loss(score(image), score(made))
        if game != "wasserstein":
            return loss
        return loss + penalty * losses.gradient_penalty(score, image, made, between_key)

    return generator_loss, discriminator_loss
