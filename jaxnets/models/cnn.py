"""A convolutional net: blocks of convolution, batch norm, activation, pooling; then an MLP."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnets.models.mlp import MLPConfig, init_mlp, layer_key, mlp
from jaxnets.nn import (
    batch_norm,
    conv,
    init_batch_norm,
    init_conv,
    max_pool,
    relu,
    spatial_dropout,
)
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params, Shape


@jax.tree_util.register_static
@dataclass(frozen=True)
class CNNConfig:
    """A CNN's shape; static, so it crosses `jit` like any argument.

    Attributes:
      image: `(height, width, channels)` of the input.
      n_out: number of outputs (logits).
      channels: output channels of each convolution, first to last.
      window: side of every convolution's square window.
      pool: side and stride of the max-pooling after each convolution; 1 for none.
      batch_norm: whether to normalize between convolution and activation.
      hidden: sizes of the dense hidden layers on top.
      activation: after each convolution and each hidden layer.
      conv_dropout_rate: of whole channels, after each pooling.
      dropout_rate: after each dense hidden layer.
      kernel_init: for every kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    image: Shape
    n_out: int
    channels: tuple[int, ...] = (32, 64)
    window: int = 3
    pool: int = 2
    batch_norm: bool = True
    hidden: tuple[int, ...] = (128,)
    activation: Activation = relu
    conv_dropout_rate: float = 0.0
    dropout_rate: float = 0.0
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if len(self.image) != 3:
            raise ValueError(
                f"CNNConfig: image must be (height, width, channels), got {self.image}"
            )
        if min(self.n_out, self.window, self.pool, *self.image, *self.channels, *self.hidden) < 1:
            raise ValueError(f"CNNConfig: every size must be positive, got {self}")


def _head(config: CNNConfig) -> MLPConfig:
    """The dense layers' config; their input is what the convolutions leave of the image."""
    height, width, channels = config.image
    for channels in config.channels:  # noqa: B007 (the last one is what remains)
        height, width = height // config.pool, width // config.pool
    if height < 1 or width < 1:
        raise ValueError(
            f"CNNConfig: {len(config.channels)} poolings by {config.pool} leave nothing of an "
            f"image {config.image}; use fewer channels or a smaller pool"
        )
    return MLPConfig(
        n_in=height * width * channels,
        n_out=config.n_out,
        hidden=config.hidden,
        activation=config.activation,
        dropout_rate=config.dropout_rate,
        kernel_init=config.kernel_init,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
    )


def init_cnn(key: Key, config: CNNConfig) -> tuple[Params, Params]:
    """`(params, state)`: `{"blocks": [{"conv", "norm"}, …], "head": …}` and the running moments.

    Raises:
      ValueError: if pooling leaves nothing of the image.
    """
    head_key, *keys = jax.random.split(key, len(config.channels) + 1)
    window = (config.window, config.window)
    blocks, moments = [], []
    n_in = config.image[-1]
    for k, n_out in zip(keys, config.channels, strict=True):
        init, dtype = config.kernel_init, config.param_dtype
        # batch norm's own bias makes the convolution's redundant
        bias = not config.batch_norm
        block = {
            "conv": init_conv(k, window, n_in, n_out, bias=bias, kernel_init=init, dtype=dtype)
        }
        if config.batch_norm:
            block["norm"], running = init_batch_norm(n_out, dtype=dtype)
            moments.append(running)
        blocks.append(block)
        n_in = n_out
    return {"blocks": blocks, "head": init_mlp(head_key, _head(config))}, {"moments": moments}


def cnn(
    params: Params,
    config: CNNConfig,
    x: Array,
    *,
    state: Params,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, Params]:
    """Logits of a CNN, and its state.

    Args:
      params: from `init_cnn`.
      config: the same as there.
      x: `[..., height, width, channels]`.
      state: batch norm's running moments, from `init_cnn`.
      train: whether batch norm uses, and moves the running moments by, this batch's.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      logits `[..., n_out]` in the computation's dtype, and the state (as it was, unless `train`).

    Raises:
      ValueError: if x's last axes are not `config.image`.
    """
    if x.shape[-3:] != config.image:
        raise ValueError(f"cnn: x must be [..., {config.image}], got {list(x.shape)}")
    x = x if config.dtype is None else x.astype(config.dtype)
    moments = []
    for index, block in enumerate(params["blocks"]):
        x = conv(block["conv"], x)
        if config.batch_norm:
            x, running = batch_norm(block["norm"], state["moments"][index], x, train=train)
            moments.append(running)
        x = config.activation(x)
        x = max_pool(x, config.pool, config.pool)
        x = spatial_dropout(x, config.conv_dropout_rate, key=layer_key(key, index))
    x = x.reshape(*x.shape[:-3], -1)
    head_key = layer_key(key, len(params["blocks"]))
    return mlp(params["head"], _head(config), x, key=head_key), {"moments": moments}
