"""A recurrent net: layers of cells over time, in one direction or both, and a linear readout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets.models.mlp import layer_key
from jaxnets.nn import (
    dense,
    dropout,
    embedding,
    gru_cell,
    init_dense,
    init_embedding,
    init_gru_cell,
    init_lstm_cell,
    init_rnn_cell,
    lstm_cell,
    rnn_cell,
    unroll,
    zero_carry,
)
from jaxnets.nn.initializers import lecun_normal
from jaxnets.nn.recurrent import Carry, Cell, output
from jaxnets.types import Array, DTypeLike, Initializer, Key, Params, PyTree, Shape

CELLS: dict[str, tuple[Callable[..., Params], Cell]] = {
    "vanilla": (init_rnn_cell, rnn_cell),
    "lstm": (init_lstm_cell, lstm_cell),
    "gru": (init_gru_cell, gru_cell),
}
_DIRECTIONS = ("forward", "backward")


@jax.tree_util.register_static
@dataclass(frozen=True)
class RNNConfig:
    """A recurrent net's shape; static, so it crosses `jit` like any argument.

    Attributes:
      n_in: size of the input vector of a step; with `vocabulary`, of the embedding.
      n_out: number of outputs (logits).
      cell: `"lstm"`, `"gru"` or `"vanilla"`.
      hidden: features of each layer, first to last; in both directions, of each.
      bidirectional: whether each layer runs in both directions.
      readout: what the outputs are made of: `"last"`, each direction's state after its last step;
        `"mean"`, the mean of the last layer's outputs over time; `"each"`, those of each step.
      vocabulary: if not 0, inputs are integers below it, and looked up in an embedding.
      dropout_rate: in `[0, 1]`, of the outputs of each layer.
      window: truncated backpropagation through time, see `jaxnets.nn.unroll`; `None` for all.
      kernel_init: for the kernels of inputs and readout; recurrent ones are orthogonal.
      dtype: of the computation; `None` is the input's own, or the embedding's.
      param_dtype: of the parameters.
    """

    n_in: int
    n_out: int
    cell: Literal["lstm", "gru", "vanilla"] = "lstm"
    hidden: tuple[int, ...] = (128,)
    bidirectional: bool = False
    readout: Literal["last", "mean", "each"] = "last"
    vocabulary: int = 0
    dropout_rate: float = 0.0
    window: int | None = None
    kernel_init: Initializer = lecun_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if not self.hidden or min(self.n_in, self.n_out, *self.hidden) < 1 or self.vocabulary < 0:
            raise ValueError(
                f"RNNConfig: there must be a layer, and every size be positive, got {self}"
            )
        if self.cell not in CELLS:
            raise ValueError(f"RNNConfig: cell must be one of {list(CELLS)}, got {self.cell!r}")
        if self.readout not in ("last", "mean", "each"):
            raise ValueError(
                f"RNNConfig: readout must be 'last', 'mean' or 'each', got {self.readout!r}"
            )


def _directions(config: RNNConfig) -> tuple[str, ...]:
    return _DIRECTIONS if config.bidirectional else _DIRECTIONS[:1]


def init_rnn(key: Key, config: RNNConfig) -> Params:
    """`{"embedding", "layers": [{"forward", "backward"}, …], "head"}`.

    `"embedding"` with a vocabulary, `"backward"` with `bidirectional` only.
    """
    init_cell, _ = CELLS[config.cell]
    directions, dtype = _directions(config), config.param_dtype
    table_key, head_key, *keys = jax.random.split(key, len(config.hidden) + 2)
    layers, n_in = [], config.n_in
    for k, features in zip(keys, config.hidden, strict=True):
        layers.append(
            {
                name: init_cell(d, n_in, features, kernel_init=config.kernel_init, dtype=dtype)
                for name, d in zip(directions, jax.random.split(k, len(directions)), strict=True)
            }
        )
        n_in = features * len(directions)
    params = {
        "layers": layers,
        "head": init_dense(
            head_key, n_in, config.n_out, kernel_init=config.kernel_init, dtype=dtype
        ),
    }
    if config.vocabulary:
        params["embedding"] = init_embedding(table_key, config.vocabulary, config.n_in, dtype=dtype)
    return params


def zero_rnn_carry(params: Params, config: RNNConfig, shape: Shape = ()) -> PyTree:
    """The state of every layer before the first step, zeros: what `rnn_with_carry` starts from.

    Args:
      params: from `init_rnn`.
      config: the same as there.
      shape: the leading axes of the inputs, as `(batch,)`.
    """
    dtype = config.param_dtype if config.dtype is None else config.dtype
    _, cell = CELLS[config.cell]
    return [
        {name: zero_carry(cell, p, shape, dtype) for name, p in layer.items()}
        for layer in params["layers"]
    ]


def rnn(
    params: Params,
    config: RNNConfig,
    x: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Logits of a recurrent net.

    Args:
      params: from `init_rnn`.
      config: the same as there.
      x: `[..., T, n_in]`, or integers `[..., T]` with a vocabulary.
      lengths: integers `[...]`, how many steps each sequence has; the rest is padding, which
        changes nothing, and has logits of the bias alone. `None` is T. A mean over no step is 0.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., n_out]`, or `[..., T, n_out]` for each step, in the dtype of the computation.

    Raises:
      ValueError, TypeError: as `jaxnets.nn.unroll` and `jaxnets.nn.embedding`.
    """
    return _run(params, config, x, None, lengths, key)[0]


def rnn_with_carry(
    params: Params,
    config: RNNConfig,
    x: Array,
    carry: PyTree,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> tuple[Array, PyTree]:
    """`rnn` on the next part of a stream: the carry goes in and comes out.

    Parts one after the other give what the whole gives (but for a mean, which is each part's).
    Derivatives go through the carry; `stop_gradient` on it ends them there.

    Args:
      params, config, x, lengths, key: as for `rnn`.
      carry: from `zero_rnn_carry`, or the part before.

    Returns:
      As `rnn`, and the carry after the last step.

    Raises:
      ValueError: if the net is bidirectional, so that it has to see the end first; and as `rnn`.
      TypeError: as `rnn`.
    """
    if config.bidirectional:
        raise ValueError("rnn_with_carry: a bidirectional net has no carry from part to part")
    return _run(params, config, x, carry, lengths, key)


def _run(
    params: Params,
    config: RNNConfig,
    x: Array,
    carry: PyTree,
    lengths: Array | None,
    key: Key | None,
) -> tuple[Array, PyTree]:
    x = embedding(params["embedding"], x) if config.vocabulary else jnp.asarray(x)
    x = x if config.dtype is None else x.astype(config.dtype)
    _, cell = CELLS[config.cell]
    steps, after = x.shape[-2:-1], []
    for index, layer in enumerate(params["layers"]):
        outputs: list[Array] = []
        lasts: dict[str, Carry] = {}
        for name in _directions(config):
            first = None if carry is None else carry[index][name]
            y, lasts[name] = unroll(
                cell, layer[name], x, first,
                lengths=lengths, reverse=name == "backward", window=config.window,
            )  # fmt: skip
            outputs.append(y)
        after.append(lasts)
        x = jnp.concatenate(outputs, -1)
        if index < len(params["layers"]) - 1 or config.readout != "last":
            x = dropout(x, config.dropout_rate, key=layer_key(key, index))
    if config.readout == "last":
        x = jnp.concatenate([output(last) for last in after[-1].values()], -1)
        x = dropout(x, config.dropout_rate, key=layer_key(key, len(after) - 1))
    if config.readout == "mean":
        x = mean_over_time(x, steps[0] if lengths is None else lengths)
    return dense(params["head"], x), after


def mean_over_time(x: Array, lengths: Any) -> Array:
    """`Σ_t x_t / lengths` of `x [..., T, n]` that is 0 in the padding; 0 of no step.

    Summed in float32 at least.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.sum(x, -2, dtype=wide)
    n = jnp.broadcast_to(jnp.maximum(jnp.asarray(lengths), 1)[..., None], total.shape)
    return (total / n.astype(wide)).astype(x.dtype)
