"""Attention: each query's mean of the values, weighted by how well their keys match it.

`y_t = Σ_s softmax_s(q_t · k_s / √d) v_s`, over heads. Several queries' heads may share one head of
keys and values. Logits and weights are float32 (float64 for float64); products with values are in
the values' dtype.
"""

import functools
import math
from operator import index
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete, require_real
from jaxnets.nn.blocked_attention import blocked_attention
from jaxnets.nn.position import alibi
from jaxnets.types import Array, ArrayLike, DTypeLike, Shape

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
      key_mask: bool `[..., S]`, which keys are there; the others are padding, whatever they and
        their values hold.
      mask: bool `[..., T, S]` or `[..., heads, T, S]`, which query sees which key.
      slopes: `[heads]`, for ALiBi: `-slope |i - j|` is added to the logits.
      bias: `[heads, T, S]`, or with the leading axes, added to the logits.
      scale: `1 / √d` by default.
      implementation: `"plain"` holds all logits `[heads, T, S]`; `"blocked"` one tile of them at a
        time, in the backward pass too, and skips tiles that are not seen, for a known `start`,
        without `mask` and `bias`, in reverse mode only. By default on the CPU blocked, where it
        can be, from 512 keys and queries on, else plain. `"cudnn"` and `"xla"` are those of
        `jax.nn.dot_product_attention`, the first for NVIDIA GPUs in half precision.

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
    for name, given in (("key_mask", key_mask), ("mask", mask)):
        if given is not None and (given.dtype != jnp.bool_ or given.shape[-1:] != (s,)):
            raise ValueError(
                f"attention: {name} must be bool [..., {s}], got {given.dtype}{list(given.shape)}"
            )
    if key_mask is not None:
        # what padding holds would reach results and gradients as 0 · nan
        key, value = _where_there(key_mask, key), _where_there(key_mask, value)
    first = concrete(start)
    tileable = mask is None and bias is None and first is not None
    if implementation is None:
        long = min(t, s) >= _LONG and jax.default_backend() == "cpu"
        implementation = "blocked" if tileable and long else "plain"
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
        return blocked_attention(
            query, key, value, causal=causal, window=window, start=int(first),
            key_mask=key_mask, slopes=slopes, scale=scale,
        )  # fmt: skip
    *lead, _, heads, _ = query.shape
    grouped = (*lead, key.shape[-2], heads // key.shape[-2], t, s)
    positions = jnp.asarray(start) + jnp.arange(t), jnp.arange(s)
    if mask is not None and mask.ndim in (2, len(lead) + 2):
        mask = jnp.expand_dims(mask, -3)
    if key_mask is not None:
        key_mask = key_mask[..., None, None, :]
    if slopes is not None:
        slopes = alibi(slopes, *positions)
    added = {"bias": bias, "key_mask": key_mask, "mask": mask, "slopes": slopes}
    for name, x in added.items():
        _require_fit(name, x, (*lead, heads, t, s))
    bias = _sum(bias, slopes)
    near = visible(*positions, causal=causal, window=window)
    masks = [m for m in (key_mask, mask) if m is not None]
    seen = _all([*masks, *([] if near is None else [near])], len(grouped) - 1)

    # cuDNN refuses others
    cudnn_has_window = causal and t <= s and bias is None and not masks
    if implementation == "plain":
        y = _plain(query, key, value, bias, seen, scale)
    elif first == 0 and (implementation == "xla" or window is None or cudnn_has_window):
        reach = None if window is None else (window - 1, 0 if causal else window - 1)
        y = _by_jax(
            query, key, value, bias, _all(masks, len(grouped) - 1), scale=scale,
            is_causal=causal, local_window_size=reach, implementation=implementation,
        )  # fmt: skip
    else:
        y = _by_jax(query, key, value, bias, seen, scale=scale, implementation=implementation)
    sees_itself = not masks and first is not None and 0 <= first <= s - t
    if seen is None or sees_itself:
        return y
    # of the results, not of the weights, where on CPUs it would double the backward pass's time
    some = jnp.moveaxis(seen.any(-1), -2, -1)
    return jnp.where(jnp.broadcast_to(some[..., None], y.shape), y, 0)


def _plain(
    query: Array, key: Array, value: Array, bias: Array | None, seen: Array | None, scale: float
) -> Array:
    """With all logits at once; where nothing is seen, the mean of all values."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    *lead, t, heads, _ = query.shape
    s, kv_heads = key.shape[-3:-1]
    grouped = (*lead, kv_heads, heads // kv_heads, t, s)
    # heads lead, and the queries that share keys are rows of one product
    q = jnp.moveaxis(query, -3, -2).reshape(*lead, kv_heads, heads // kv_heads * t, -1)
    k = jnp.moveaxis(key, -3, -2)
    v = jnp.moveaxis(value, -3, -2)
    logits = jnp.einsum("...td,...sd->...ts", q, k, preferred_element_type=wide)
    logits = logits.reshape(grouped) * scale
    if bias is not None:
        logits += _over_heads(bias, grouped).astype(wide)
    if seen is not None:
        if bias is not None:  # of which -inf must stay above what is not seen
            logits = jnp.maximum(logits, _least(wide) / 2)
        logits = jnp.where(_over_heads(seen, grouped), logits, _least(wide))
    weights = jax.nn.softmax(logits, -1).astype(value.dtype)
    y = weights.reshape(*lead, kv_heads, -1, s) @ v
    return jnp.moveaxis(y.reshape(*lead, heads, t, -1), -2, -3)


def _by_jax(
    query: Array, key: Array, value: Array, bias: Array | None, mask: Array | None, **options: Any
) -> Array:
    """By `jax.nn.dot_product_attention`.

    Bias and mask, `[..., heads or 1, T or 1, S]`, are not repeated over a batch or over heads that
    share them: cuDNN reads them from memory. Of `is_causal` and `local_window_size` it reads none.
    """
    *lead, t, _, _ = query.shape
    s = key.shape[-3]

    def together(x: Array | None) -> Array | None:
        if x is None:
            return None
        *own, rows, _, _ = x.shape
        if all(n == 1 for n in own):
            return jnp.broadcast_to(x.reshape(1, *x.shape[-3:]), (1, rows, t, s))
        return jnp.broadcast_to(x, (*lead, rows, t, s)).reshape(-1, rows, t, s)

    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    if bias is not None:  # whose -inf must stay above what JAX gives to what is not seen
        bias = jnp.maximum(bias, _least(q.dtype) / 4).astype(q.dtype)
    y: Array = jax.nn.dot_product_attention(q, k, v, together(bias), together(mask), **options)
    return y.reshape(*query.shape[:-1], value.shape[-1])


def _where_there(key_mask: Array, x: Array) -> Array:
    there = jnp.broadcast_to(key_mask, x.shape[:-2])
    return jnp.where(there[..., None, None], x, 0)


def _sum(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    return jnp.broadcast_to(a, shape) + jnp.broadcast_to(b, shape)


def _all(masks: list[Array], ndim: int) -> Array | None:
    """All that all of them let see, `[..., heads or 1, T or 1, S]`."""
    if not masks:
        return None
    return functools.reduce(
        jnp.logical_and, (m.reshape((1,) * (ndim - m.ndim) + m.shape) for m in masks)
    )


def _require_fit(name: str, x: Array | None, logits: Shape) -> None:
    try:
        fits = x is None or (x.ndim > 2 and jnp.broadcast_shapes(x.shape, logits) == logits)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"attention: {name} must fit logits {list(logits)}, got {list(x.shape)}"  # type: ignore[union-attr]
        )


def _over_heads(x: Array, grouped: Shape) -> Array:
    """`[..., heads or 1, T or 1, S]` in the shape of the logits, whose heads are in groups."""
    *lead, _, _, t, s = grouped
    x = jnp.broadcast_to(x, (*lead, x.shape[-3], t, s))
    if x.shape[-3] == 1:
        return jnp.broadcast_to(jnp.expand_dims(x, -3), grouped)
    return x.reshape(grouped)


def _least(dtype: DTypeLike) -> float:
    """Finite, so that where nothing is seen neither value nor derivative is NaN."""
    return float(jnp.finfo(dtype).min)  # type: ignore[no-untyped-call]


def masked_softmax(logits: Array, seen: Array | None) -> Array:
    """Over the last axis, of what is seen; where nothing is, 0."""
    if seen is None:
        return jax.nn.softmax(logits, -1)
    logits = jnp.where(seen, logits, _least(logits.dtype))
    return jnp.where(seen, jax.nn.softmax(logits, -1), 0)
