"""Attention tile by tile: neither pass holds more of the logits than one tile of each head.

The softmax is online (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022): a row's
maximum m, sum l and output o so far are corrected when a tile raises the maximum,
`o ← o exp(m - m') + exp(x - m') V`. The derivative computes each tile's weights again, from the
log-sum-exp of the rows. Tiles in which no query sees a key are left out of both loops.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array

_LOW = -1e30
"""A logit of what is not seen: finite, so that differences of two are no NaN."""


class Tiling(NamedTuple):
    """What is static about a computation in tiles."""

    rows: int
    """Queries in a tile."""
    columns: int
    """Keys in a tile."""
    causal: bool
    window: int | None
    start: int
    """Of the queries' positions."""
    keys: int
    """How many there are, without what fills the last tile."""
    scale: float


def _pairs(tiling: Tiling, n_rows: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles some query of which sees some key, row by row."""
    rows, columns, causal, window, start, *_ = tiling
    first = start + rows * np.arange(n_rows)[:, None]
    key = columns * np.arange(n_columns)[None]
    seen = np.ones((n_rows, n_columns), bool)
    if causal:
        seen &= key <= first + rows - 1
    if window is not None:
        seen &= key + columns - 1 > first - window
        seen &= key < first + rows - 1 + window
    i, j = np.nonzero(seen)
    return i.astype(np.int32), j.astype(np.int32)


def blocked_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    causal: bool,
    window: int | None,
    start: int,
    key_mask: Array | None,
    slopes: Array | None,
    scale: float,
    rows: int = 128,
    columns: int = 128,
) -> Array:
    """`attention`, whose arguments these are, in tiles of `rows × columns` logits."""
    *lead, t, heads, _ = query.shape
    s, kv_heads = key.shape[-3:-1]
    group, n = heads // kv_heads, int(np.prod(lead)) * kv_heads
    wide = jnp.promote_types(query.dtype, jnp.float32)
    rows, columns = min(rows, t), min(columns, s)
    tiling = Tiling(rows, columns, causal, window, start, s, scale)

    def in_tiles(x: Array, size: int, groups: int) -> Array:
        """`[..., T, heads, d]` as `[tiles, n, groups · size, d]`."""
        x = jnp.moveaxis(x, -3, -2).reshape(n, groups, x.shape[-3], x.shape[-1])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % size), (0, 0)))
        x = jnp.moveaxis(x.reshape(n, groups, -1, size, x.shape[-1]), 2, 0)
        return x.reshape(-1, n, groups * size, x.shape[-1])

    if key_mask is not None:
        key_mask = jnp.broadcast_to(key_mask[..., None, :], (*lead, kv_heads, s)).reshape(n, s)
        key_mask = jnp.pad(key_mask, ((0, 0), (0, -s % columns)))
        key_mask = jnp.moveaxis(key_mask.reshape(n, -1, columns), 1, 0)
    if slopes is not None:
        slopes = slopes.astype(wide).reshape(kv_heads, group)
        slopes = jnp.broadcast_to(slopes, (*lead, kv_heads, group)).reshape(n, group)
    y = _tiled(
        tiling, in_tiles(query, rows, group), in_tiles(key, columns, 1),
        in_tiles(value, columns, 1), key_mask, slopes,
    )  # fmt: skip
    e = value.shape[-1]
    y = jnp.moveaxis(y.reshape(-1, n, group, rows, e), 0, 2).reshape(n, group, -1, e)[:, :, :t]
    return jnp.moveaxis(y.reshape(*lead, heads, t, e), -2, -3).astype(value.dtype)


def _product(equation: str, a: Array, b: Array) -> Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    y: Array = jnp.einsum(equation, a, b.astype(a.dtype), preferred_element_type=wide)
    return y


def _logits(
    tiling: Tiling,
    q: Array,
    k: Array,
    there: Array | None,
    slopes: Array | None,
    i: Array,
    j: Array,
) -> tuple[Array, Array, Array]:
    """One tile's logits `[n, group, rows, columns]`, `_LOW` where not seen; seen; and distances."""
    rows, columns, causal, window, start, keys, scale = tiling
    n = q.shape[0]
    query = start + i * rows + jnp.arange(rows)
    key = j * columns + jnp.arange(columns)
    distance = query[:, None] - key[None, :]
    seen = jnp.broadcast_to((key < keys)[None], distance.shape)
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= jnp.abs(distance) < window
    logits = _product("nrd,ncd->nrc", q, k).reshape(n, -1, rows, columns) * scale
    seen = jnp.broadcast_to(seen, logits.shape)
    if there is not None:
        seen &= jnp.broadcast_to(there[:, None, None, :], logits.shape)
    far = jnp.abs(distance).astype(logits.dtype)[None, None]
    if slopes is not None:
        logits -= slopes[:, :, None, None] * far
    return jnp.where(seen, logits, _LOW), seen, far


def _at(x: Any, i: Array) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, keepdims=False), x)


def _put(x: Array, y: Array, i: Array) -> Array:
    updated: Array = lax.dynamic_update_index_in_dim(x, y, i, 0)
    return updated


def _scan(
    tiling: Tiling, q: Array, k: Array, body: Callable[[Any, Array, Array], Any], carry: Any
) -> Any:
    """`carry ← body(carry, i, j)` over all tiles in which something is seen."""
    pairs = tuple(map(jnp.asarray, _pairs(tiling, len(q), len(k))))
    return lax.scan(lambda carry, ij: (body(carry, *ij), None), carry, pairs)[0]


def _forward(
    tiling: Tiling, q: Array, k: Array, v: Array, there: Array | None, slopes: Array | None
) -> tuple[Array, Array]:
    """The output and the log-sum-exp of each row of logits (0 where nothing is seen)."""
    n_rows, n, rows, _ = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def body(carry: Any, i: Array, j: Array) -> Any:
        o, m, total = (_at(x, i) for x in carry)
        logits, seen, _ = _logits(tiling, _at(q, i), _at(k, j), _at(there, j), slopes, i, j)
        logits, seen = (x.reshape(n, rows, -1) for x in (logits, seen))
        largest = jnp.maximum(m, logits.max(-1))
        weights = jnp.where(seen, jnp.exp(logits - largest[..., None]), 0)
        kept = jnp.exp(m - largest)
        o = o * kept[..., None] + _product("nrc,nce->nre", weights.astype(v.dtype), _at(v, j))
        new = o, largest, total * kept + weights.sum(-1)
        return tuple(_put(x, y, i) for x, y in zip(carry, new, strict=True))

    rows_of = (n_rows, n, rows)
    o = jnp.zeros((*rows_of, v.shape[-1]), wide)
    m, total = jnp.full(rows_of, _LOW, wide), jnp.zeros(rows_of, wide)
    o, m, total = _scan(tiling, q, k, body, (o, m, total))
    some = total > 0
    total = jnp.where(some, total, 1)
    return o / total[..., None], jnp.where(some, m + jnp.log(total), 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(
    tiling: Tiling, q: Array, k: Array, v: Array, there: Array | None, slopes: Array | None
) -> Array:
    return _forward(tiling, q, k, v, there, slopes)[0]


def _tiled_forward(tiling: Tiling, *operands: Any) -> tuple[Array, Any]:
    o, normalizer = _forward(tiling, *operands)
    return o, (operands, o, normalizer)


def _tiled_backward(tiling: Tiling, residuals: Any, do: Array) -> tuple[Any, ...]:
    """With `w` the weights and `dw = do · v`: `dx = w (dw - Σ w dw)`, and `Σ w dw = o · do`."""
    (q, k, v, there, slopes), o, normalizer = residuals
    n, rows = q.shape[1:3]
    mean = jnp.sum(o * do, -1)
    wide = do.dtype

    def body(carry: Any, i: Array, j: Array) -> Any:
        dq, dk, dv, dslopes = carry
        q_i, k_j, v_j, do_i = _at(q, i), _at(k, j), _at(v, j), _at(do, i)
        logits, seen, far = _logits(tiling, q_i, k_j, _at(there, j), slopes, i, j)
        logits, seen = (x.reshape(n, rows, -1) for x in (logits, seen))
        weights = jnp.where(seen, jnp.exp(logits - _at(normalizer, i)[..., None]), 0)
        do_i = do_i.astype(v.dtype)
        dlogits = weights * (_product("nre,nce->nrc", do_i, v_j) - _at(mean, i)[..., None])
        if slopes is not None:
            by_head = dlogits.reshape(n, -1, tiling.rows, tiling.columns)
            dslopes -= jnp.sum(by_head * far, (-2, -1))
        dlogits = (dlogits * tiling.scale).astype(q.dtype)
        new_dq = _at(dq, i) + _product("nrc,ncd->nrd", dlogits, k_j)
        new_dk = _at(dk, j) + _product("nrc,nrd->ncd", dlogits, q_i)
        new_dv = _at(dv, j) + _product("nrc,nre->nce", weights.astype(v.dtype), do_i)
        return _put(dq, new_dq, i), _put(dk, new_dk, j), _put(dv, new_dv, j), dslopes

    zeros = [jnp.zeros(x.shape, wide) for x in (q, k, v)]
    dslopes = None if slopes is None else jnp.zeros_like(slopes)
    dq, dk, dv, dslopes = _scan(tiling, q, k, body, (*zeros, dslopes))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dslopes


_tiled.defvjp(_tiled_forward, _tiled_backward)
