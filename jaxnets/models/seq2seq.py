"""Encoder-decoder transformers: a sequence from another one (Vaswani et al., 2017).

The encoder's features are the memory that each block of the decoder attends to, besides the target
so far. Decoding computes its keys and values once:

    memory = seq2seq_memory(params, config, source)
    advance = lambda ids, caches, start: continue_seq2seq(
        params, config, ids, caches, start, memory
    )
    decode.generate(advance, seq2seq_caches(config, 20), jnp.array([begin]), 20, stop=end)
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.models.transformer import (
    embed,
    encoder,
    init_encoder,
    init_transformer,
    position_options,
    run_decoder,
    transformer_caches,
)
from jaxnets.models.transformer_block import TransformerConfig, block, normalize
from jaxnets.nn import attention_weights, keys_and_values
from jaxnets.nn.unroll import within_lengths
from jaxnets.types import Array, ArrayLike, Key, Params, PyTree, Shape


@jax.tree_util.register_static
@dataclass(frozen=True)
class Seq2SeqConfig:
    """An encoder-decoder's shape; static, so it crosses `jit` like any argument.

    Attributes:
      encoder: of the source.
      decoder: of the target. It may differ in all but the dtype of the computation.
      shared: whether both have one table of embeddings, for a vocabulary that both languages share.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    shared: bool = False

    def __post_init__(self) -> None:
        names = ("dtype", "vocabulary", "features") if self.shared else ("dtype",)
        for name in names:
            ours, theirs = getattr(self.encoder, name), getattr(self.decoder, name)
            if ours != theirs:
                raise ValueError(
                    f"Seq2SeqConfig: encoder and decoder must have the same {name}"
                    f"{' to share a table' if self.shared else ''}, got {ours} and {theirs}"
                )


class Memory(NamedTuple):
    """A source as the decoder sees it."""

    contexts: PyTree
    """Each block's keys and values, as the blocks are: a list, or stacked."""
    mask: Array | None
    """`[..., S]`, true where there is a token; `None` for everywhere."""


def init_seq2seq(key: Key, config: Seq2SeqConfig) -> Params:
    """`{"encoder", "decoder"}`: as from `init_encoder` and `init_transformer`.

    The decoder's blocks have `"cross_attention"` and its norm besides, and no embedding of their
    own where the table is shared.
    """
    there, back = jax.random.split(key)
    decoder = init_transformer(back, config.decoder, cross=config.encoder.features)
    if config.shared:
        del decoder["embedding"]
    return {"encoder": init_encoder(there, config.encoder), "decoder": decoder}


def _decoder(params: Params, config: Seq2SeqConfig) -> Params:
    if not config.shared:
        return params["decoder"]
    return params["decoder"] | {"embedding": params["encoder"]["embedding"]}


def seq2seq_memory(
    params: Params,
    config: Seq2SeqConfig,
    source: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> Memory:
    """The encoder, and what each block of the decoder makes of its features.

    Args:
      params: from `init_seq2seq`.
      config: the same as there.
      source: integers `[..., S]`.
      lengths: integers `[...]` in `[0, S]`, how many of them are there; the rest is padding, seen
        by none. `None` is S.
      key: randomness for dropout; `None` is evaluation.

    Raises:
      ValueError: if `lengths` do not fit, or there are more positions than were learned.
    """
    source = jnp.asarray(source)
    mask = None if lengths is None else within_lengths("seq2seq", lengths, source.shape)
    features = encoder(params["encoder"], config.encoder, source, mask=mask, key=key)
    blocks = params["decoder"]["blocks"]
    if config.decoder.scan:
        context = jax.vmap(keys_and_values, (0, None))(blocks["cross_attention"], features)
    else:
        context = [keys_and_values(one["cross_attention"], features) for one in blocks]
    return Memory(context, mask)


def seq2seq(
    params: Params,
    config: Seq2SeqConfig,
    source: Array,
    target: Array,
    *,
    lengths: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Logits of the next token of the target at each position, given those up to it: all at once.

    Args:
      params: from `init_seq2seq`.
      config: the same as there.
      source: integers `[..., S]`.
      target: integers `[..., T]`, from a token that stands for its beginning on. Padding at the end
        changes nothing before it.
      lengths: of the sources without padding, see `seq2seq_memory`.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., T, vocabulary]`, in the dtype of the computation.

    Raises:
      ValueError: as `seq2seq_memory`.
    """
    there, back = (None, None) if key is None else jax.random.split(key)
    memory = seq2seq_memory(params, config, source, lengths=lengths, key=there)
    return _decode(params, config, target, memory, key=back)[0]


def _decode(
    params: Params,
    config: Seq2SeqConfig,
    ids: Array,
    memory: Memory,
    *,
    caches: Params | None = None,
    start: ArrayLike = 0,
    key: Key | None = None,
) -> tuple[Array, Params | None]:
    return run_decoder(
        _decoder(params, config), config.decoder, ids, caches=caches, start=start, key=key,
        contexts=memory.contexts, context_mask=memory.mask,
    )  # fmt: skip


def seq2seq_caches(config: Seq2SeqConfig, length: int, *, lead: Shape = ()) -> Params:
    """Empty caches of `length` positions of the target: `transformer_caches` of the decoder."""
    return transformer_caches(config.decoder, length, lead=lead)


def continue_seq2seq(
    params: Params,
    config: Seq2SeqConfig,
    ids: Array,
    caches: Params,
    start: ArrayLike,
    memory: Memory,
) -> tuple[Array, Params]:
    """`seq2seq` of the target's positions from `start` on, with those before in the caches.

    Args:
      params: from `init_seq2seq`.
      config: the same as there.
      ids: integers `[..., T]`.
      caches: from `seq2seq_caches`, or as they were returned.
      start: the position of the first id; may be traced.
      memory: from `seq2seq_memory`.

    Returns:
      logits `[..., T, vocabulary]`, and the caches.

    Raises:
      ValueError: as `continue_transformer`.
    """
    return _decode(params, config, ids, memory, caches=caches, start=start)


def cross_attention(
    params: Params,
    config: Seq2SeqConfig,
    source: Array,
    target: Array,
    *,
    lengths: Array | None = None,
) -> Array:
    """How each position of the target looks at those of the source: `[..., depth, heads, T, S]`.

    Arguments and errors as for `seq2seq`.
    """
    memory = seq2seq_memory(params, config, source, lengths=lengths)
    decoder, form = _decoder(params, config), config.decoder
    x = embed(decoder, form, target)
    options = {"causal": True, **position_options(form, x)}
    weights = []
    for index in range(form.depth):
        one, context = (
            jax.tree.map(lambda leaf: leaf[index], tree) if form.scan else tree[index]  # noqa: B023
            for tree in (decoder["blocks"], memory.contexts)
        )
        own = {name: one[name] for name in ("attention", "attention_norm")}
        query, _ = block(own, form, x, **options)
        if form.pre_norm:
            query = normalize(one["cross_attention_norm"], form, query)
        cross = one["cross_attention"]
        weights.append(attention_weights(cross, query, context, key_mask=memory.mask))
        x, _ = block(one, form, x, context=context, context_mask=memory.mask, **options)
    return jnp.stack(weights, -4)
