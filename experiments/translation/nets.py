"""The transformer and the LSTM as the same four functions of their parameters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import models
from jaxnets.models.decode import Advance
from jaxnets.types import Array, Key, Params, PyTree

Kind = Literal["transformer", "lstm"]


class Net(NamedTuple):
    """A model of translation."""

    init: Callable[[Key], Params]
    forward: Callable[..., Array]
    """`forward(params, source, target, length, key) -> logits [..., T, vocabulary]`."""
    start: Callable[[Params, Array, Array, int], tuple[Advance, PyTree]]
    """`start(params, source, length, steps) -> (advance, caches)`, for `decode`."""
    look: Callable[..., Array]
    """`look(params, source, target, length) -> [..., T, S]`, mean over heads of the last block."""


def make(
    kind: Kind,
    *,
    vocabulary: int,
    features: int,
    depth: int,
    heads: int,
    dropout: float,
    longest: int,
) -> Net:
    """A net whose languages share a vocabulary, its table and its logits."""
    if kind == "lstm":
        return _lstm(
            models.RecurrentSeq2SeqConfig(
                vocabulary, vocabulary, features, features, depth, shared=True, dropout_rate=dropout
            )
        )
    one = models.TransformerConfig(
        vocabulary, depth, features, heads, max_length=longest, dropout_rate=dropout
    )
    return _transformer(models.Seq2SeqConfig(one, replace(one), shared=True))


def _transformer(config: models.Seq2SeqConfig) -> Net:
    def forward(params: Params, source: Array, target: Array, length: Array, key: Any) -> Array:
        return models.seq2seq(params, config, source, target, lengths=length, key=key)

    def start(params: Params, source: Array, length: Array, steps: int) -> tuple[Advance, PyTree]:
        memory = models.seq2seq_memory(params, config, source, lengths=length)

        def advance(ids: Array, caches: PyTree, start: Any) -> tuple[Array, PyTree]:
            return models.continue_seq2seq(params, config, ids, caches, start, memory)

        return advance, models.seq2seq_caches(config, steps + 1)

    def look(params: Params, source: Array, target: Array, length: Array) -> Array:
        weights = models.cross_attention(params, config, source, target, lengths=length)
        return jnp.mean(weights[..., -1, :, :, :], -3)

    return Net(lambda key: models.init_seq2seq(key, config), forward, start, look)


def _lstm(config: models.RecurrentSeq2SeqConfig) -> Net:
    def forward(params: Params, source: Array, target: Array, length: Array, key: Any) -> Array:
        return models.recurrent_seq2seq(params, config, source, target, lengths=length, key=key)

    def start(params: Params, source: Array, length: Array, steps: int) -> tuple[Advance, PyTree]:
        memory, states = models.recurrent_memory(params, config, source, lengths=length)

        def advance(ids: Array, states: PyTree, start: Any) -> tuple[Array, PyTree]:
            return models.continue_recurrent_seq2seq(params, config, ids, states, memory)

        return advance, states

    def look(params: Params, source: Array, target: Array, length: Array) -> Array:
        return models.recurrent_attention(params, config, source, target, lengths=length)

    return Net(lambda key: models.init_recurrent_seq2seq(key, config), forward, start, look)


def size(net: Net) -> int:
    """How many parameters it has."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return sum(int(leaf.size) for leaf in jax.tree.leaves(shapes))
