"""The multilayer perceptron: `x ← φ(x Wₗ + bₗ)` for each hidden layer, then a linear one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnets.nn import dense, dropout, init_dense, relu
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params


@jax.tree_util.register_static
@dataclass(frozen=True)
class MLPConfig:
    """An MLP's shape; static, so it crosses `jit` like any argument.

    Attributes:
      n_in: size of the input vector.
      n_out: number of outputs (logits).
      hidden: sizes of the hidden layers, first to last.
      activation: applied after each hidden layer.
      dropout_rate: in `[0, 1]`, after each hidden layer's activation.
      kernel_init: for every kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    n_in: int
    n_out: int
    hidden: tuple[int, ...] = (128, 128)
    activation: Activation = relu
    dropout_rate: float = 0.0
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if min(self.n_in, self.n_out, *self.hidden) < 1:
            raise ValueError(f"MLPConfig: every size must be positive, got {self}")


def init_mlp(key: Key, config: MLPConfig) -> Params:
    """`{"layers": [{"kernel", "bias"}, …]}`, hidden layers first and the output layer last."""
    sizes = (config.n_in, *config.hidden, config.n_out)
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        "layers": [
            init_dense(k, n_in, n_out, kernel_init=config.kernel_init, dtype=config.param_dtype)
            for k, n_in, n_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
    }


def mlp(params: Params, config: MLPConfig, x: Array, *, key: Key | None = None) -> Array:
    """Logits of an MLP.

    Args:
      params: from `init_mlp`.
      config: the same as there.
      x: `[..., n_in]`.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., n_out]`, in the dtype of the computation.
    """
    *hidden, last = params["layers"]
    x = x if config.dtype is None else x.astype(config.dtype)
    for index, layer in enumerate(hidden):
        x = config.activation(dense(layer, x))
        x = dropout(x, config.dropout_rate, key=layer_key(key, index))
    return dense(last, x)


def layer_key(key: Key | None, index: int) -> Key | None:
    """The key of one layer's randomness; none where there is none."""
    return None if key is None else jax.random.fold_in(key, index)
