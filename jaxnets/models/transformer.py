"""Transformers over tokens: a decoder, which predicts the next one, and an encoder."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete, require_same_shape
from jaxnets.models.mlp import layer_key
from jaxnets.models.transformer_block import (
    TransformerConfig,
    init_blocks,
    init_norm_of,
    normalize,
    run_blocks,
)
from jaxnets.nn import (
    alibi_slopes,
    attend,
    dense,
    dropout,
    embedding,
    init_cache,
    init_dense,
    init_embedding,
    rotary,
    rotary_angles,
    sinusoidal,
)
from jaxnets.types import Array, ArrayLike, Key, Params, Shape


def init_body(key: Key, config: TransformerConfig, cross: int | None = None) -> Params:
    """Embeddings, blocks and norms: everything but a head."""
    keys = jax.random.split(key, 4)
    table = partial(init_embedding, features=config.features, dtype=config.param_dtype)
    params = {"embedding": table(keys[0], config.vocabulary)}
    if config.positions == "learned":
        params["positions"] = table(keys[1], config.max_length)
    if config.token_types:
        params["token_types"] = table(keys[2], config.token_types)
    if config.embedding_norm:
        params["embedding_norm"] = init_norm_of(config)
    params["blocks"] = init_blocks(keys[3], config, cross)
    if config.pre_norm:
        params["norm"] = init_norm_of(config)
    return params


def embed(
    params: Params,
    config: TransformerConfig,
    ids: Array,
    *,
    start: ArrayLike = 0,
    token_types: Array | None = None,
    key: Key | None = None,
) -> Array:
    """`[..., T, features]`: the sum of what is known of each position.

    Raises:
      ValueError: if there are more positions than were learned, or token types without embeddings.
    """
    ids = jnp.asarray(ids)
    if ids.ndim < 1:
        raise ValueError(f"transformer: ids must be [..., T], got {list(ids.shape)}")
    t, known = ids.shape[-1], concrete(start)
    x = embedding(params["embedding"], ids)
    x = x if config.dtype is None else x.astype(config.dtype)
    if config.embedding_scale != 1:
        x *= config.embedding_scale
    positions = jnp.asarray(start) + jnp.arange(t)
    added = []
    if config.positions == "learned":
        last = t if known is None else int(known) + t
        if last > config.max_length:
            raise ValueError(
                f"transformer: {last} positions are more than max_length {config.max_length}"
            )
        added.append(embedding(params["positions"], positions))
    if config.positions == "sinusoidal":
        wide = jnp.promote_types(x.dtype, jnp.float32)
        added.append(sinusoidal(positions, config.features, theta=config.theta, dtype=wide))
    if config.token_types:
        kinds = jnp.zeros_like(ids) if token_types is None else jnp.asarray(token_types)
        require_same_shape("transformer", ids=ids, token_types=kinds)
        added.append(embedding(params["token_types"], kinds))
    elif token_types is not None:
        raise ValueError("transformer: token_types were given, but config.token_types is 0")
    for y in added:
        x += jnp.broadcast_to(y.astype(x.dtype), x.shape)
    if config.embedding_norm:
        x = normalize(params["embedding_norm"], config, x)
    return dropout(x, config.dropout_rate, key=layer_key(key, config.depth))


def position_options(config: TransformerConfig, x: Array, start: ArrayLike = 0) -> dict[str, Any]:
    """What attention needs to know of positions, the same for all blocks."""
    if config.positions == "alibi":
        return {"slopes": alibi_slopes(config.heads)}
    if config.positions.startswith("rotary"):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        positions = jnp.asarray(start) + jnp.arange(x.shape[-2])
        angles = rotary_angles(positions, config.size_of_head, theta=config.theta, dtype=wide)
        interleaved = config.positions == "rotary_interleaved"
        return {"rotate": partial(rotary, angles=angles, interleaved=interleaved)}
    return {}


def init_transformer(key: Key, config: TransformerConfig, cross: int | None = None) -> Params:
    """`{"embedding", ("positions"), "blocks", ("norm"), ("head")}`; no head where it is tied.

    With `cross`, the blocks attend to a context of so many features too.
    """
    params = init_body(key, config, cross)
    if not config.tied:
        params["head"] = init_dense(
            jax.random.fold_in(key, 1), config.features, config.vocabulary, bias=False,
            kernel_init=config.kernel_init, dtype=config.param_dtype,
        )  # fmt: skip
    return params


def logits_of(params: Params, config: TransformerConfig, x: Array) -> Array:
    """The last norm, and logits over the vocabulary."""
    if config.pre_norm:
        x = normalize(params["norm"], config, x)
    return attend(params["embedding"], x) if config.tied else dense(params["head"], x)


def run_decoder(
    params: Params,
    config: TransformerConfig,
    ids: Array,
    *,
    caches: Params | None = None,
    start: ArrayLike = 0,
    key: Key | None = None,
    **memory: Any,
) -> tuple[Array, Params | None]:
    """Logits, and the caches; `memory` is what the blocks attend to besides, for `run_blocks`."""
    x = embed(params, config, ids, start=start, key=key)
    options = position_options(config, x, start)
    x, caches = run_blocks(
        params["blocks"], config, x,
        caches=caches, start=start, causal=True, key=key, **options, **memory,
    )  # fmt: skip
    return logits_of(params, config, x), caches


def transformer(
    params: Params, config: TransformerConfig, ids: Array, *, key: Key | None = None
) -> Array:
    """Logits of the next token at each position, each from the positions up to it.

    Args:
      params: from `init_transformer`.
      config: the same as there.
      ids: integers `[..., T]` in `[0, vocabulary)`. Padding at the end changes nothing before it.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., T, vocabulary]`, in the dtype of the computation.

    Raises:
      ValueError: if there are more positions than were learned.
    """
    return run_decoder(params, config, ids, key=key)[0]


def transformer_caches(config: TransformerConfig, length: int, *, lead: Shape = ()) -> Params:
    """Empty caches of `length` positions: a list, one for each block, or stacked for a scan.

    `lead` are the leading axes of the ids that will come.
    """
    if config.scan:
        lead = (config.depth, *lead)
    dtype = config.param_dtype if config.dtype is None else config.dtype
    caches = [
        init_cache(length, config.n_kv_heads, config.size_of_head, lead=lead, dtype=dtype)
        for _ in range(1 if config.scan else config.depth)
    ]
    return caches[0] if config.scan else caches


def continue_transformer(
    params: Params, config: TransformerConfig, ids: Array, caches: Params, start: ArrayLike
) -> tuple[Array, Params]:
    """`transformer` of the positions from `start` on, with those before in the caches.

    A prompt at once with `start=0` (prefill), then token by token: the logits are those of the full
    pass.

    Args:
      params: from `init_transformer`.
      config: the same as there.
      ids: integers `[..., T]`.
      caches: from `transformer_caches`, or as they were returned.
      start: the position of the first id; may be traced.

    Returns:
      logits `[..., T, vocabulary]`, and the caches.

    Raises:
      ValueError: if a known position is outside of the caches or of what was learned. A traced one
        behind what was learned gives NaN.
    """
    return run_decoder(params, config, ids, caches=caches, start=start)


def init_encoder(key: Key, config: TransformerConfig) -> Params:
    """`{"embedding", ("positions"), ("token_types"), ("embedding_norm"), "blocks", ("norm")}`."""
    return init_body(key, config)


def encoder(
    params: Params,
    config: TransformerConfig,
    ids: Array,
    *,
    mask: Array | None = None,
    token_types: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Features of each position, from all positions.

    Args:
      params: from `init_encoder`.
      config: the same as there; `tied` has no meaning.
      ids: integers `[..., T]` in `[0, vocabulary)`.
      mask: `[..., T]`, true where there is a token; the others are padding, seen by none.
      token_types: integers `[..., T]` in `[0, config.token_types)`; 0 by default.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., T, features]`, in the dtype of the computation.

    Raises:
      ValueError: if there are more positions than were learned, or token types without embeddings.
    """
    x = embed(params, config, ids, token_types=token_types, key=key)
    options = position_options(config, x)
    x, _ = run_blocks(params["blocks"], config, x, key_mask=mask, key=key, **options)
    return normalize(params["norm"], config, x) if config.pre_norm else x
