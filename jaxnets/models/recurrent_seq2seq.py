"""Recurrent encoder-decoders with attention: states that read, and states that write.

    H = bidirectional(source)                        the memory, a vector for each source token
    s_t = cell(s_{t-1}, y_{t-1})                     the decoder's state, from H's last
    a_t = softmax(score(s, H)),  c_t = a_t H         what it looks at
    p(y_t) = softmax(E tanh(W [c_t, s_t]))

With `"luong"` the state looks once it is there, `score(s_t, h) = s_t W h`, and looks are taken for
all steps at once (Luong, Pham and Manning, 2015). With `"bahdanau"` it looks before, from its last
step, `score(s_{t-1}, h) = v · tanh(W s_{t-1} + U h)`, and is told what it saw:
`s_t = cell(s_{t-1}, [y_{t-1}, c_t])` (Bahdanau, Cho and Bengio, 2015).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxnets.models.mlp import layer_key
from jaxnets.models.rnn import CELLS
from jaxnets.nn import (
    attend,
    bidirectional,
    dense,
    dropout,
    embedding,
    init_dense,
    init_embedding,
    unroll,
)
from jaxnets.nn.attention import masked_softmax
from jaxnets.nn.initializers import lecun_normal
from jaxnets.nn.recurrent import Carry, output
from jaxnets.nn.unroll import within_lengths
from jaxnets.types import Array, DTypeLike, Initializer, Key, Params

Attention = Literal["luong", "bahdanau"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class RecurrentSeq2SeqConfig:
    """A recurrent encoder-decoder's shape; static, so it crosses `jit` like any argument.

    Attributes:
      source_vocabulary: number of token ids of the source.
      target_vocabulary: of the target.
      features: size of the embeddings, and of what the logits are made of.
      hidden: size of a decoder's state, even; each direction of an encoder has half of it.
      layers: of the encoder and of the decoder.
      cell: `"lstm"`, `"gru"` or `"vanilla"`.
      attention: `"luong"` or `"bahdanau"`, of the last layer's states or the first's.
      shared: whether both languages have one table of embeddings.
      tied: whether the logits come from the target's own table.
      dropout_rate: in `[0, 1]`, of embeddings, of each layer's outputs, and before the logits.
      kernel_init: for the kernels; recurrent ones are orthogonal.
      dtype: of the computation; `None` is the parameters' own.
      param_dtype: of the parameters.
    """

    source_vocabulary: int
    target_vocabulary: int
    features: int = 256
    hidden: int = 256
    layers: int = 1
    cell: Literal["lstm", "gru", "vanilla"] = "lstm"
    attention: Attention = "luong"
    shared: bool = False
    tied: bool = True
    dropout_rate: float = 0.0
    kernel_init: Initializer = lecun_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        sizes = (self.source_vocabulary, self.target_vocabulary, self.features, self.layers)
        if min(*sizes, self.hidden) < 1 or self.hidden % 2:
            raise ValueError(
                f"RecurrentSeq2SeqConfig: every size must be positive, and hidden even, got {self}"
            )
        for name, allowed in (("cell", tuple(CELLS)), ("attention", get_args(Attention))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"RecurrentSeq2SeqConfig: {name} must be one of {allowed}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.shared and self.source_vocabulary != self.target_vocabulary:
            raise ValueError(
                "RecurrentSeq2SeqConfig: vocabularies must be equal to share a table, got "
                f"{self.source_vocabulary} and {self.target_vocabulary}"
            )


class RecurrentMemory(NamedTuple):
    """A source as the decoder sees it."""

    keys: Array
    """`[..., S, hidden]`, what states are compared with."""
    values: Array
    """`[..., S, hidden]`, the encoder's outputs."""
    mask: Array | None
    """`[..., S]`, true where there is a token; `None` for everywhere."""


def init_recurrent_seq2seq(key: Key, config: RecurrentSeq2SeqConfig) -> Params:
    """`{"source", ("target"), "encoder", "decoder", "attention", "combine", ("head")}`.

    `"source"` and `"target"` are embeddings; `"encoder"` is a list of `{"forward", "backward"}`
    and `"decoder"` of cells, first to last.
    """
    tables, cells, linear = jax.random.split(key, 3)
    init_cell, _ = CELLS[config.cell]
    hidden, features, dtype = config.hidden, config.features, config.param_dtype

    def table(index: int, n: int) -> Params:
        return init_embedding(jax.random.fold_in(tables, index), n, features, dtype=dtype)

    def cell(index: int, n_in: int, n_out: int) -> Params:
        k = jax.random.fold_in(cells, index)
        return init_cell(k, n_in, n_out, kernel_init=config.kernel_init, dtype=dtype)

    def layer(index: int, n_in: int, n_out: int, bias: bool = True) -> Params:
        k = jax.random.fold_in(linear, index)
        return init_dense(k, n_in, n_out, bias=bias, kernel_init=config.kernel_init, dtype=dtype)

    additive = config.attention == "bahdanau"
    below = [features, *[hidden] * (config.layers - 1)]
    directions = tuple(enumerate(("forward", "backward")))
    params = {
        "source": table(0, config.source_vocabulary),
        "encoder": [
            {name: cell(3 * i + j, n, hidden // 2) for j, name in directions}
            for i, n in enumerate(below)
        ],
        "decoder": [
            cell(3 * i + 2, n + hidden if additive and not i else n, hidden)
            for i, n in enumerate(below)
        ],
        "attention": {"query": layer(0, hidden, hidden, bias=additive)},
        "combine": layer(1, 2 * hidden, features),
    }  # fmt: skip
    if additive:
        params["attention"]["key"] = layer(2, hidden, hidden, bias=False)
        params["attention"]["score"] = layer(3, hidden, 1, bias=False)
    if not config.shared:
        params["target"] = table(1, config.target_vocabulary)
    if not config.tied:
        params["head"] = layer(4, features, config.target_vocabulary, bias=False)
    return params


def _embed(params: Params, config: RecurrentSeq2SeqConfig, ids: Array, key: Key | None) -> Array:
    x = embedding(params, ids)
    x = x if config.dtype is None else x.astype(config.dtype)
    return dropout(x, config.dropout_rate, key=layer_key(key, config.layers))


def recurrent_memory(
    params: Params,
    config: RecurrentSeq2SeqConfig,
    source: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> tuple[RecurrentMemory, list[Carry]]:
    """The encoder: the memory, and each decoder layer's first state.

    A first state is the last of the encoder layer beside it, both directions side by side.

    Args:
      params: from `init_recurrent_seq2seq`.
      config: the same as there.
      source: integers `[..., S]`.
      lengths: integers `[...]` in `[0, S]`, how many of them are there; the rest is padding, seen
        by none. `None` is S.
      key: randomness for dropout; `None` is evaluation.

    Raises:
      ValueError: if `lengths` do not fit.
    """
    source = jnp.asarray(source)
    mask = None if lengths is None else within_lengths("recurrent_seq2seq", lengths, source.shape)
    _, cell = CELLS[config.cell]
    x, states = _embed(params["source"], config, source, key), []
    for index, layer in enumerate(params["encoder"]):
        x, lasts = bidirectional(cell, layer, x, lengths=lengths)
        states.append(jax.tree.map(lambda *both: jnp.concatenate(both, -1), *lasts))
        x = dropout(x, config.dropout_rate, key=layer_key(key, index))
    keys = dense(params["attention"]["key"], x) if "key" in params["attention"] else x
    return RecurrentMemory(keys, x, mask), states


def _looks(params: Params, h: Array, memory: RecurrentMemory) -> Array:
    """`[..., T, S]`: how much each of the states `h [..., T, hidden]` looks at each position."""
    query = dense(params["query"], h)
    if "score" in params:
        pairs = (*query.shape[:-1], *memory.keys.shape[-2:])
        both = jnp.broadcast_to(query[..., None, :], pairs) + memory.keys[..., None, :, :]
        scores = dense(params["score"], jnp.tanh(both))[..., 0]
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    else:
        wide = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum("...td,...sd->...ts", query, memory.keys, preferred_element_type=wide)
    seen = None
    if memory.mask is not None:
        seen = jnp.broadcast_to(memory.mask[..., None, :], scores.shape)
    return masked_softmax(scores, seen)


def _look(params: Params, h: Array, memory: RecurrentMemory) -> Array:
    """`[..., T, hidden]`: what the states `h` see."""
    return _looks(params, h, memory).astype(memory.values.dtype) @ memory.values


def _decode(
    params: Params,
    config: RecurrentSeq2SeqConfig,
    ids: Array,
    states: list[Carry],
    memory: RecurrentMemory,
    key: Key | None,
) -> tuple[Array, Array, list[Carry]]:
    """`[c, s]` of all steps, the states that looked, and the last states."""
    _, cell = CELLS[config.cell]
    table = params["source" if config.shared else "target"]
    x, after = _embed(table, config, ids, key), []
    before = config.attention == "bahdanau"

    def told(params: Params, carry: Carry, x: Array) -> Carry:
        """A step of the first cell, which looks from the state before; its output is `[c, s]`."""
        state, _ = carry
        c = _look(params["attention"], output(state)[..., None, :], memory)[..., 0, :]
        state = cell(params["cell"], state, jnp.concatenate([x, c], -1))
        return state, jnp.concatenate([c, output(state)], -1)

    for index, (layer, state) in enumerate(zip(params["decoder"], states, strict=True)):
        if index == 0 and before:
            h = output(state)
            both = {"cell": layer, "attention": params["attention"]}
            y, (last, _) = unroll(told, both, x, (state, jnp.concatenate([h, h], -1)))
            context, x = jnp.split(y, 2, -1)
            looking = jnp.concatenate([h[..., None, :], x[..., :-1, :]], -2)
        else:
            x, last = unroll(cell, layer, x, state)
        after.append(last)
        x = dropout(x, config.dropout_rate, key=layer_key(key, index))
    if not before:
        looking, context = x, _look(params["attention"], x, memory)
    return jnp.concatenate([context, x], -1), looking, after


def continue_recurrent_seq2seq(
    params: Params,
    config: RecurrentSeq2SeqConfig,
    ids: Array,
    states: list[Carry],
    memory: RecurrentMemory,
    *,
    key: Key | None = None,
) -> tuple[Array, list[Carry]]:
    """`recurrent_seq2seq` of the target's next part: the states go in and come out.

    For `decode`, `advance = lambda ids, states, start: continue_recurrent_seq2seq(params, config,
    ids, states, memory)`; a prompt must not be padded, as padding would change the states.

    Args:
      params: from `init_recurrent_seq2seq`.
      config: the same as there.
      ids: integers `[..., T]`.
      states: from `recurrent_memory`, or as they were returned.
      memory: from `recurrent_memory`.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      logits `[..., T, target_vocabulary]`, and the states.
    """
    y, _, states = _decode(params, config, ids, states, memory, key)
    x = jnp.tanh(dense(params["combine"], y))
    x = dropout(x, config.dropout_rate, key=layer_key(key, config.layers + 1))
    if not config.tied:
        return dense(params["head"], x), states
    return attend(params["source" if config.shared else "target"], x), states


def recurrent_seq2seq(
    params: Params,
    config: RecurrentSeq2SeqConfig,
    source: Array,
    target: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Logits of the next token of the target at each position, given those up to it: all at once.

    Arguments, result and errors are those of `seq2seq`, for this config and its parameters.
    """
    there, back = (None, None) if key is None else jax.random.split(key)
    memory, states = recurrent_memory(params, config, source, lengths=lengths, key=there)
    return continue_recurrent_seq2seq(params, config, target, states, memory, key=back)[0]


def recurrent_attention(
    params: Params,
    config: RecurrentSeq2SeqConfig,
    source: Array,
    target: Array,
    *,
    lengths: Array | None = None,
) -> Array:
    """`[..., T, S]`: how much each position of the target looks at each of the source.

    Arguments and errors as for `recurrent_seq2seq`.
    """
    memory, states = recurrent_memory(params, config, source, lengths=lengths)
    _, looking, _ = _decode(params, config, target, states, memory, None)
    return _looks(params["attention"], looking, memory)
