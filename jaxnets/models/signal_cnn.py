"""A convolutional net of signals: blocks of convolution, norm and activation, a mean over time."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnets.models.mlp import layer_key
from jaxnets.models.rnn import mean_over_time
from jaxnets.nn import (
    conv,
    dense,
    dropout,
    init_conv,
    init_dense,
    init_norm,
    layer_norm,
    relu,
)
from jaxnets.nn.initializers import he_normal, lecun_normal
from jaxnets.nn.unroll import within_lengths
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params


@jax.tree_util.register_static
@dataclass(frozen=True)
class SignalCNNConfig:
    """The net's shape; static, so it crosses `jit` like any argument.

    The form is the fully convolutional net of Wang, Yan and Oates ("Time series classification from
    scratch", 2017) with layer norm over a step's channels in batch norm's place: examples do not
    mix, and padding takes no part in any moment.

    Attributes:
      n_in: channels of the signal.
      n_out: number of outputs (logits).
      channels: output channels of each convolution, first to last.
      windows: steps that each convolution sees.
      activation: after each norm.
      dropout_rate: in `[0, 1]`, of the means over time.
      kernel_init: for the convolutions' kernels; the readout's is `lecun_normal()`.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    n_in: int
    n_out: int
    channels: tuple[int, ...] = (128, 256, 128)
    windows: tuple[int, ...] = (8, 5, 3)
    activation: Activation = relu
    dropout_rate: float = 0.0
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        sizes = (self.n_in, self.n_out, *self.channels, *self.windows)
        if not self.channels or min(sizes) < 1:
            raise ValueError(
                f"SignalCNNConfig: there must be a layer, and every size be positive, got {self}"
            )
        if len(self.channels) != len(self.windows):
            raise ValueError(
                f"SignalCNNConfig: there must be a window for each of the {len(self.channels)} "
                f"layers, got {self.windows}"
            )


def init_signal_cnn(key: Key, config: SignalCNNConfig) -> Params:
    """`{"blocks": [{"conv", "norm"}, …], "head"}`."""
    head_key, *keys = jax.random.split(key, len(config.channels) + 1)
    n_in, dtype = config.n_in, config.param_dtype
    blocks = []
    for k, n_out, window in zip(keys, config.channels, config.windows, strict=True):
        kernel_init = config.kernel_init
        block = {"conv": init_conv(k, (window,), n_in, n_out, kernel_init=kernel_init, dtype=dtype)}
        blocks.append({**block, "norm": init_norm(n_out, dtype=dtype)})
        n_in = n_out
    head = init_dense(head_key, n_in, config.n_out, kernel_init=lecun_normal(), dtype=dtype)
    return {"blocks": blocks, "head": head}


def signal_cnn(
    params: Params,
    config: SignalCNNConfig,
    x: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Logits of a signal: `x ← φ(norm(x ∗ Wₗ))` for each layer, then `mean_t(x_t) W + b`.

    Args:
      params: from `init_signal_cnn`.
      config: the same as there.
      x: `[..., T, n_in]`.
      lengths: integers `[...]`, how many steps each signal has; the rest is padding, which changes
        nothing, whatever it holds. `None` is T. The logits of no step are the bias.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., n_out]`, in the dtype of the computation.

    Raises:
      ValueError: if x's last axis is not `n_in`, or lengths do not fit.
    """
    x = jnp.asarray(x) if config.dtype is None else jnp.asarray(x).astype(config.dtype)
    if x.ndim < 2 or x.shape[-1] != config.n_in:
        raise ValueError(f"signal_cnn: x must be [..., T, {config.n_in}], got {list(x.shape)}")
    valid = None
    if lengths is not None:
        valid = within_lengths("signal_cnn", lengths, x.shape[:-1])[..., None]

    def without_padding(x: Array) -> Array:
        return x if valid is None else jnp.where(valid, x, 0)

    for block in params["blocks"]:
        x = conv(block["conv"], without_padding(x))
        x = config.activation(layer_norm(block["norm"], x))
    x = mean_over_time(without_padding(x), x.shape[-2] if lengths is None else lengths)
    return dense(params["head"], dropout(x, config.dropout_rate, key=layer_key(key, 0)))
