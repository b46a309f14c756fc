"""Multi-head attention: the kernels around `attention`, a memory to attend to, and a cache.

`y = Σ_h attention(x W_q^h, c W_k^h, c W_v^h) W_o^h + b`, with context `c` (self-attention: `x`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import concrete, require_real
from jaxnets.nn.attention import attention
from jaxnets.nn.dense import matmul
from jaxnets.nn.initializers import lecun_normal, zeros
from jaxnets.types import Array, ArrayLike, DTypeLike, Initializer, Key, Params, Shape

Rotate = Callable[[Array], Array]


def init_attention(
    key: Key,
    features: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    context_features: int | None = None,
    bias: bool = True,
    out_bias: bool | None = None,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Kernels `query`, `key`, `value` `[features, heads, head_dim]`, `out` `[heads, head_dim, features]`.

    The layout is that of `flax.linen.MultiHeadDotProductAttention`, each with its `bias`.

    Args:
      key: the randomness.
      features: of the queries' input and of the output.
      heads: of queries.
      kv_heads: of keys and values, dividing `heads`; as many by default.
      head_dim: `features / heads` by default.
      context_features: of the keys' and values' input, if it is another one.
      bias: whether the first three have biases.
      out_bias: whether `out` has one; as `bias` by default.
      kernel_init: given each kernel as a matrix.
      bias_init: given each bias as a vector.
      dtype: of the parameters.

    Raises:
      ValueError: if `kv_heads` does not divide `heads`, or, without `head_dim`, `heads` not
        `features`.
    """  # noqa: E501
    kv_heads = heads if kv_heads is None else kv_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"init_attention: kv_heads must divide {heads} heads, got {kv_heads}")
    if head_dim is None:
        if features % heads:
            raise ValueError(
                f"init_attention: {heads} heads must divide {features} features, or head_dim be "
                "given"
            )
        head_dim = features // heads
    source = features if context_features is None else context_features
    keys = jax.random.split(key, 4)

    def project(key: Key, n_in: int, n: int) -> Params:
        params = {"kernel": kernel_init(key, (n_in, n * head_dim), dtype)}
        if bias:
            params["bias"] = bias_init(jax.random.fold_in(key, 1), (n * head_dim,), dtype)
        return {name: p.reshape(*p.shape[:-1], n, head_dim) for name, p in params.items()}

    out = {"kernel": kernel_init(keys[3], (heads * head_dim, features), dtype)}
    out["kernel"] = out["kernel"].reshape(heads, head_dim, features)
    if bias if out_bias is None else out_bias:
        out["bias"] = bias_init(jax.random.fold_in(keys[3], 1), (features,), dtype)
    return {
        "query": project(keys[0], features, heads),
        "key": project(keys[1], source, kv_heads),
        "value": project(keys[2], source, kv_heads),
        "out": out,
    }


def _project(params: Params, x: Array) -> Array:
    """`[..., features]` to `[..., heads, head_dim]`."""
    kernel = params["kernel"]
    n_in, heads, head_dim = kernel.shape
    if x.ndim < 2 or x.shape[-1] != n_in:
        raise ValueError(
            f"multi_head_attention: the input must be [..., T, {n_in}] to meet a kernel "
            f"{list(kernel.shape)}, got {list(x.shape)}"
        )
    y = matmul(x, kernel.reshape(n_in, heads * head_dim))
    if "bias" in params:
        y += jnp.broadcast_to(params["bias"].astype(x.dtype).reshape(-1), y.shape)
    split: Array = y.reshape(*x.shape[:-1], heads, head_dim)
    return split


def _merge(params: Params, y: Array) -> Array:
    """`[..., heads, head_dim]` to `[..., features]`."""
    kernel = params["kernel"]
    heads, head_dim, features = kernel.shape
    y = matmul(y.reshape(*y.shape[:-2], heads * head_dim), kernel.reshape(-1, features))
    if "bias" in params:
        y += jnp.broadcast_to(params["bias"].astype(y.dtype), y.shape)
    return y


def keys_and_values(params: Params, context: Array, *, rotate: Rotate | None = None) -> Params:
    """`{"key": [..., S, kv_heads, head_dim], "value": the same}` of a context `[..., S, features]`.

    What `attend_to` attends to: computed once where many queries come one after the other.
    """
    key, value = _project(params["key"], context), _project(params["value"], context)
    return {"key": key if rotate is None else rotate(key), "value": value}


def attend_to(
    params: Params, x: Array, memory: Params, *, rotate: Rotate | None = None, **options: Any
) -> Array:
    """Multi-head attention to keys and values that are there already (`keys_and_values`)."""
    query = _project(params["query"], x)
    query = query if rotate is None else rotate(query)
    return _merge(params["out"], attention(query, memory["key"], memory["value"], **options))


def attention_weights(
    params: Params, x: Array, memory: Params, *, rotate: Rotate | None = None, **options: Any
) -> Array:
    """`[..., heads, T, S]`: what `attend_to` weighs the values by, to be looked at.

    They are what comes out where the value of each position is its own unit vector.
    """
    query = _project(params["query"], x)
    query = query if rotate is None else rotate(query)
    key = memory["key"]
    s = key.shape[-3]
    units = jnp.broadcast_to(jnp.eye(s, dtype=key.dtype)[:, None], (*key.shape[:-1], s))
    return jnp.moveaxis(attention(query, key, units, **options), -2, -3)


def multi_head_attention(
    params: Params,
    x: Array,
    context: Array | None = None,
    *,
    rotate: Rotate | None = None,
    **options: Any,
) -> Array:
    """`Σ_h attention(x Q_h, c K_h, c V_h) O_h`: self-attention, or cross-attention to a context.

    Args:
      params: from `init_attention`.
      x: `[..., T, features]`.
      context: `[..., S, context_features]`, what keys and values are made of; x by default.
      rotate: applied to queries and keys `[..., T, heads, head_dim]`, as `rotary` with its angles.
      **options: for `attention`: `causal`, `window`, `key_mask`, `mask`, `slopes`, `bias`, ….

    Returns:
      `[..., T, features]`, in x's dtype.

    Raises:
      ValueError: if a shape does not fit.
      TypeError: if x is not real and floating.
    """
    require_real("multi_head_attention", x=x)
    memory = keys_and_values(params, x if context is None else context, rotate=rotate)
    return attend_to(params, x, memory, rotate=rotate, **options)


def init_cache(
    length: int,
    kv_heads: int,
    head_dim: int,
    *,
    lead: Shape = (),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"key", "value"}`: zeros `[*lead, length, kv_heads, head_dim]`, a row for each position."""
    shape = (*lead, length, kv_heads, head_dim)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}


def cached_attention(
    params: Params,
    x: Array,
    cache: Params,
    start: ArrayLike,
    *,
    rotate: Rotate | None = None,
    **options: Any,
) -> tuple[Array, Params]:
    """Causal self-attention of new positions to all before them, whose keys are in the cache.

    The new keys and values are written at their positions, `start` to `start + T - 1`, over what is
    there. What is behind a position is never seen from it, so a cache may be continued from any
    earlier position; a prompt may be padded at its end, and decoded from its true length on.

    Args:
      params: from `init_attention`.
      x: the new positions `[..., T, features]`.
      cache: from `init_cache`, or as it was returned.
      start: the position of the first; may be traced. An integer that is known when traced reads
        only the part of the cache that is filled then.
      rotate: applied to the new queries and keys, with the angles of their positions.
      **options: for `attention`: `window`, `slopes`, `scale`.

    Returns:
      `(y [..., T, features], cache)`. Under `jit` give the cache away (`donate_argnums`), or carry
      it in a `lax.scan`: it is then written in place.

    Raises:
      ValueError: if a shape does not fit, or a known position is outside of the cache. Where a
        traced one leaves no room, y is NaN.
    """
    require_real("cached_attention", x=x)
    new = keys_and_values(params, x, rotate=rotate)
    t, length = x.shape[-2], cache["key"].shape[-3]
    known = concrete(start)
    if t > length or (known is not None and not 0 <= known <= length - t):
        raise ValueError(
            f"cached_attention: a cache of length {length} has no positions for {t} from "
            f"start {'' if known is None else known}"
        )

    def write(old: Array, new: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, old.ndim - 3)

    cache = jax.tree.map(write, cache, new)
    end = length if known is None else int(known) + t
    filled = {name: x[..., :end, :, :].astype(new[name].dtype) for name, x in cache.items()}
    y = attend_to(params, x, filled, rotate=rotate, causal=True, start=start, **options)
    if known is None:
        start = jnp.asarray(start)
        y = jnp.where((start >= 0) & (start <= length - t), y, jnp.nan)
    return y, cache
