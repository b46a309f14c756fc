"""An autoencoder of images: `x ≈ d(e(x))` through a vector z of few numbers.

The encoder is convolutions of stride 2, each of which halves the image, then an MLP; the decoder is
the same backwards. Without convolutions both are MLPs of the image's pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp

from jaxnets.losses import squared_error
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.nn import conv, conv_transpose, init_conv, relu
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params, Shape

Corrupt = Callable[[Key, Array], Array]


@jax.tree_util.register_static
@dataclass(frozen=True)
class AutoencoderConfig:
    """An autoencoder's shape; static, so it crosses `jit` like any argument.

    Attributes:
      image: `(height, width, channels)`; height and width are divisible by 2 for each convolution.
      latent: the size of z.
      channels: output channels of the encoder's convolutions, first to last; `()` for none.
      hidden: sizes of the encoder's dense hidden layers, first to last.
      window: side of every convolution's square window.
      activation: after each layer but the encoder's and the decoder's last.
      kernel_init: for every kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    image: Shape
    latent: int
    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (128,)
    window: int = 4
    activation: Activation = relu
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if len(self.image) != 3:
            raise ValueError(
                f"AutoencoderConfig: image must be (height, width, channels), got {self.image}"
            )
        if min(self.latent, self.window, *self.image, *self.channels, *self.hidden) < 1:
            raise ValueError(f"AutoencoderConfig: every size must be positive, got {self}")
        factor = 2 ** len(self.channels)
        if self.image[0] % factor or self.image[1] % factor:
            raise ValueError(
                f"AutoencoderConfig: {len(self.channels)} halvings need a height and width "
                f"divisible by {factor}, got an image {self.image}"
            )


def smallest_map(config: AutoencoderConfig) -> Shape:
    """What the convolutions leave of the image: `(height, width, channels)`."""
    height, width, channels = config.image
    factor = 2 ** len(config.channels)
    return height // factor, width // factor, (channels, *config.channels)[-1]


def _mlp_config(config: AutoencoderConfig, n_in: int, n_out: int, hidden: Shape) -> MLPConfig:
    return MLPConfig(
        n_in,
        n_out,
        hidden,
        activation=config.activation,
        kernel_init=config.kernel_init,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
    )


def _top(config: AutoencoderConfig, n_out: int) -> MLPConfig:
    """The encoder's dense layers."""
    return _mlp_config(config, prod(smallest_map(config)), n_out, config.hidden)


def _bottom(config: AutoencoderConfig) -> MLPConfig:
    """The decoder's dense layers."""
    return _mlp_config(config, config.latent, prod(smallest_map(config)), config.hidden[::-1])


def init_autoencoder(key: Key, config: AutoencoderConfig, *, n_code: int | None = None) -> Params:
    """`{"encoder": {"convs", "dense"}, "decoder": {"dense", "convs"}}`.

    Args:
      key: the randomness.
      config: the shape.
      n_code: how many numbers the encoder puts out, where that is not `config.latent`.
    """
    n = len(config.channels)
    dense_keys, encoder_keys, decoder_keys = (
        jax.random.split(jax.random.fold_in(key, i), max(size, 1))
        for i, size in enumerate((2, n, n))
    )
    sizes = (config.image[-1], *config.channels)
    window = (config.window, config.window)

    def convolution(key: Key, n_in: int, n_out: int) -> Params:
        init, dtype = config.kernel_init, config.param_dtype
        return init_conv(key, window, n_in, n_out, kernel_init=init, dtype=dtype)

    ups = sizes[::-1]
    return {
        "encoder": {
            "convs": [convolution(encoder_keys[i], sizes[i], sizes[i + 1]) for i in range(n)],
            "dense": init_mlp(dense_keys[0], _top(config, n_code or config.latent)),
        },
        "decoder": {
            "dense": init_mlp(dense_keys[1], _bottom(config)),
            "convs": [convolution(decoder_keys[i], ups[i], ups[i + 1]) for i in range(n)],
        },
    }


def encode_image(params: Params, config: AutoencoderConfig, x: Array) -> Array:
    """The code `z = e(x)`, `[..., latent]` (or as many numbers as `init_autoencoder` was told).

    Args:
      params: from `init_autoencoder`.
      config: the same as there.
      x: `[..., height, width, channels]`.

    Raises:
      ValueError: if x's last axes are not `config.image`.
    """
    if x.shape[-3:] != config.image:
        raise ValueError(f"encode_image: x must be [..., {config.image}], got {list(x.shape)}")
    x = x if config.dtype is None else x.astype(config.dtype)
    for layer in params["encoder"]["convs"]:
        x = config.activation(conv(layer, x, stride=2))
    layers = params["encoder"]["dense"]
    n_code = layers["layers"][-1]["bias"].size
    return mlp(layers, _top(config, n_code), x.reshape(*x.shape[:-3], -1))


def decode_image(params: Params, config: AutoencoderConfig, z: Array) -> Array:
    """The image `d(z)`, `[..., height, width, channels]`, of any real values.

    Args:
      params: from `init_autoencoder`.
      config: the same as there.
      z: `[..., latent]`.

    Raises:
      ValueError: if z's last axis is not `config.latent`.
    """
    if z.ndim < 1 or z.shape[-1] != config.latent:
        raise ValueError(f"decode_image: z must be [..., {config.latent}], got {list(z.shape)}")
    y = mlp(params["decoder"]["dense"], _bottom(config), z)
    y = y.reshape(*z.shape[:-1], *smallest_map(config))
    for layer in params["decoder"]["convs"]:
        y = conv_transpose(layer, config.activation(y), stride=2)
    return y


def autoencoder(params: Params, config: AutoencoderConfig, x: Array) -> Array:
    """The reconstruction `d(e(x))`; arguments and errors as for `encode_image`."""
    return decode_image(params, config, encode_image(params, config, x))


def denoising_loss(
    params: Params, config: AutoencoderConfig, x: Array, key: Key, corrupt: Corrupt
) -> Array:
    """`mean (d(e(x̃)) - x)²` with x̃ a corrupted x (Vincent et al., 2008).

    Args:
      params: from `init_autoencoder`.
      config: the same as there.
      x: `[..., height, width, channels]`.
      key: the randomness of the corruption.
      corrupt: `corrupt(key, x) -> x̃`, such as `gaussian_noise(0.3)` or `masking_noise(0.5)`;
        `lambda key, x: x` for a plain autoencoder.

    Returns:
      `[...]`, in float32 or wider: the mean over each image.
    """
    y = autoencoder(params, config, corrupt(key, x))
    return jnp.mean(squared_error(y, x), axis=(-3, -2, -1))


def gaussian_noise(stddev: float) -> Corrupt:
    """`x̃ = x + σ ε`, `ε ~ N(0, 1)`."""
    return lambda key, x: x + stddev * jax.random.normal(key, x.shape, x.dtype)


def masking_noise(rate: float) -> Corrupt:
    """`x̃`, where each value is 0 with this probability, and the others are as they were."""
    return lambda key, x: jnp.where(jax.random.bernoulli(key, rate, x.shape), 0, x)
