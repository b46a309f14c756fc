"""Attention: each query's mean of the values, weighted by how well their keys match it.

`y_t = Σ_s softmax_s(q_t · k_s / √d) v_s`, over heads. Several queries' heads may share one head of
keys and values. Logits and weights are float32 (float64 for float64); products with values are in
the values' dtype.
"""

import math
from collections.abc import Callable
from operator import index
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import concrete, require_real
from jaxnets.nn.blocked_attention import blocked_attention
from jaxnets.nn.initializers import lecun_normal, zeros
from jaxnets.nn.position import alibi
from jaxnets.types import Array, ArrayLike, DTypeLike, Initializer, Key, Params, Shape

Rotate = Callable[[Array], Array]
Implementation = Literal["plain", "blocked", "cudnn", "xla"]

_LONG = 512
"""Queries and keys from which on tiles are faster than all logits at once, on CPUs."""


def _check(query: Array, key: Array, value: Array) -> None:
    require_real("attention", query=query, key=key, value=value)
    fits = (
        query.ndim == key.ndim == value.ndim >= 3
        and query.shape[:-3] == key.shape[:-3]
        and key.shape[:-1] == value.shape[:-1]
        and query.shape[-1] == key.shape[-1]
        and query.shape[-2] % key.shape[-2] == 0
    )
    if not fits:
        raise ValueError(
            "attention: query must be [..., T, heads, d], key [..., S, kv_heads, d] and value "
            "[..., S, kv_heads, e], with kv_heads dividing heads, got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )


def visible(
    query_positions: Array, key_positions: Array, *, causal: bool, window: int | None
) -> Array | None:
    """`[T, S]`: whether a query sees a key by their positions; `None` if every one does."""
    distance = query_positions[:, None] - key_positions[None, :]
    seen = distance >= 0 if causal else None
    if window is not None:
        near = jnp.abs(distance) < window
        seen = near if seen is None else seen & near
    return seen


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    causal: bool = False,
    window: int | None = None,
    start: ArrayLike = 0,
    key_mask: Array | None = None,
    mask: Array | None = None,
    slopes: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """`softmax(scale · Q Kᵀ + bias) V` over the keys that each query sees (Vaswani et al., 2017).

    Query head h meets head `h // (heads / kv_heads)` of keys and values: as many of these as of
    queries is multi-head, fewer grouped-query (Ainslie et al., 2023), one multi-query attention.
    A query that sees no key gives 0.

    Args:
      query: `[..., T, heads, d]`.
      key: `[..., S, kv_heads, d]`.
      value: `[..., S, kv_heads, e]`.
      causal: whether a query sees only keys at its own position and before.
      window: if given, only keys less than this far from a query's position.
      start: the position of the first query; keys are at 0, 1, ….
      key_mask: `[..., S]`, which keys are there; the others are padding.
      mask: `[..., T, S]` or `[..., heads, T, S]`, which query sees which key.
      slopes: `[heads]`, for ALiBi: `-slope |i - j|` is added to the logits.
      bias: `[heads, T, S]`, or with the leading axes, added to the logits.
      scale: `1 / √d` by default.
      implementation: `"plain"` holds all logits `[heads, T, S]`; `"blocked"` one tile of them at a
        time, in the backward pass too, and skips tiles that are not seen, for a known `start`,
        without `mask` and `bias`, in reverse mode only. By default blocked, where it can be, from
        512 keys and queries on. `"cudnn"` and `"xla"` are those of `jax.nn.dot_product_attention`,
        the first for NVIDIA GPUs in half precision.

    Returns:
      `[..., T, heads, e]` in the values' dtype.

    Raises:
      ValueError: if the shapes do not fit, `window` is not positive, or the implementation cannot
        do what is asked.
      TypeError: if query, key or value is not real and floating.
    """
    _check(query, key, value)
    if window is not None and index(window) < 1:
        raise ValueError(f"attention: window must be positive, got {window}")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    t, s = query.shape[-3], key.shape[-3]
    first = concrete(start)
    tileable = mask is None and bias is None and first is not None
    if implementation is None:
        implementation = "blocked" if tileable and min(t, s) >= _LONG else "plain"
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"attention: implementation must be one of {get_args(Implementation)}, got "
            f"{implementation!r}"
        )
    if implementation == "blocked":
        if not tileable or first is None:
            raise ValueError(
                "attention: implementation='blocked' takes no mask, bias or traced start"
            )
        if key_mask is not None and key_mask.shape[-1:] != (s,):
            raise ValueError(f"attention: key_mask must be [..., {s}], got {list(key_mask.shape)}")
        return blocked_attention(
            query, key, value, causal=causal, window=window, start=int(first),
            key_mask=key_mask, slopes=slopes, scale=scale,
        )  # fmt: skip
    wide = jnp.promote_types(query.dtype, jnp.float32)
    *lead, _, heads, _ = query.shape
    kv_heads = key.shape[-2]
    grouped = (*lead, kv_heads, heads // kv_heads, t, s)

    positions = jnp.asarray(start) + jnp.arange(t), jnp.arange(s)
    if slopes is not None:
        bias = _sum(bias, alibi(slopes, *positions))
    logits_bias = None if bias is None else _over_heads("bias", bias, grouped)
    seen = visible(*positions, causal=causal, window=window)
    seen = None if seen is None else jnp.broadcast_to(seen, grouped)
    if key_mask is not None:
        seen = _and(seen, _over_heads("key_mask", key_mask[..., None, None, :], grouped))
    if mask is not None:
        if mask.ndim in (2, len(lead) + 2):
            mask = jnp.expand_dims(mask, -3)
        seen = _and(seen, _over_heads("mask", mask, grouped))
    if implementation != "plain":
        return _by_jax(query, key, value, logits_bias, seen, scale, implementation)

    # heads lead, and the queries that share keys are rows of one product
    q = jnp.moveaxis(query, -3, -2).reshape(*lead, kv_heads, heads // kv_heads * t, -1)
    k = jnp.moveaxis(key, -3, -2)
    v = jnp.moveaxis(value, -3, -2)
    logits = jnp.einsum("...td,...sd->...ts", q, k, preferred_element_type=wide)
    logits = logits.reshape(grouped) * scale
    if logits_bias is not None:
        logits += logits_bias.astype(wide)
    weights = _softmax(logits, seen).astype(value.dtype)
    y = weights.reshape(*lead, kv_heads, -1, s) @ v
    return jnp.moveaxis(y.reshape(*lead, heads, t, -1), -2, -3)


def _by_jax(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    seen: Array | None,
    scale: float,
    implementation: Any,
) -> Array:
    """By `jax.nn.dot_product_attention`, with 0 for queries that see nothing."""

    def flat(x: Array | None) -> Array | None:
        return None if x is None else x.reshape(-1, query.shape[-2], *x.shape[-2:])

    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    bias = flat(bias)
    y = jax.nn.dot_product_attention(
        q, k, v, None if bias is None else bias.astype(q.dtype), flat(seen), scale=scale,
        implementation=implementation,
    ).reshape(*query.shape[:-1], value.shape[-1])  # fmt: skip
    if seen is None:
        return y
    some = jnp.moveaxis(seen.any(-1).reshape(*query.shape[:-3], -1, query.shape[-3]), -2, -1)
    return jnp.where(jnp.broadcast_to(some[..., None], y.shape), y, 0)


def _sum(a: Array | None, b: Array) -> Array:
    return b if a is None else a + jnp.broadcast_to(b, a.shape)


def _and(a: Array | None, b: Array) -> Array:
    return b if a is None else a & b


def _over_heads(name: str, x: Array, grouped: Shape) -> Array:
    """`[..., heads or 1, T or 1, S]` in the shape of the logits, whose heads are in groups."""
    *lead, kv_heads, group, t, s = grouped
    try:
        x = jnp.broadcast_to(x, (*lead, x.shape[-3], t, s))
        if x.shape[-3] == 1:
            return jnp.broadcast_to(jnp.expand_dims(x, -3), grouped)
        return x.reshape(grouped)
    except (ValueError, TypeError, IndexError):
        raise ValueError(
            f"attention: {name} must fit logits {[*lead, kv_heads * group, t, s]}, got "
            f"{list(x.shape)}"
        ) from None


def _softmax(logits: Array, seen: Array | None) -> Array:
    if seen is None:
        return jax.nn.softmax(logits, -1)
    # finite, so that where nothing is seen neither value nor derivative is NaN
    logits = jnp.where(seen, logits, float(jnp.finfo(logits.dtype).min))  # type: ignore[no-untyped-call]
    return jnp.where(seen, jax.nn.softmax(logits, -1), 0)


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
    kernel = params["kernel"].astype(x.dtype)
    n_in, heads, head_dim = kernel.shape
    if x.ndim < 2 or x.shape[-1] != n_in:
        raise ValueError(
            f"multi_head_attention: the input must be [..., T, {n_in}] to meet a kernel "
            f"{list(kernel.shape)}, got {list(x.shape)}"
        )
    y = x @ kernel.reshape(n_in, heads * head_dim)
    if "bias" in params:
        y += jnp.broadcast_to(params["bias"].astype(x.dtype).reshape(-1), y.shape)
    split: Array = y.reshape(*x.shape[:-1], heads, head_dim)
    return split


def _merge(params: Params, y: Array) -> Array:
    """`[..., heads, head_dim]` to `[..., features]`."""
    kernel = params["kernel"].astype(y.dtype)
    heads, head_dim, features = kernel.shape
    y = y.reshape(*y.shape[:-2], heads * head_dim) @ kernel.reshape(-1, features)
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
      ValueError: if a shape does not fit, or a known position is outside of the cache. A traced one
        is not checked: behind the end it overwrites the last positions.
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
    return y, cache
