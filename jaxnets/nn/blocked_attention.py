"""Attention tile by tile: neither pass holds more of the logits than one tile of each head.

The softmax is online (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022): a row's
maximum m, sum l and output o so far are corrected when a tile raises the maximum,
`o ← o exp(m - m') + exp(x - m') V`. The derivative computes each tile's weights again, from the
log-sum-exp of the rows. Tiles in which no query sees a key are left out of both loops, and only
those in which some query does not see some key are masked.

A tile holds its logits as `[keys, queries]`: maxima and sums are then over a major axis, which
XLA's CPU backend computes for many queries at a time, where those over the last axis are scalar.
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

_LEAST = -1e20
"""A row's maximum at first: above `_LOW`, whose weight is then 0 in a row that sees nothing too."""


_SIDE, _LONG = 128, 1024
"""A tile's queries and keys, twice as many in long sequences: the fastest sizes on a CPU. Small
tiles leave out more of what a causal mask hides, large ones are fewer."""


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


def _tiles(tiling: Tiling, n_rows: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The tiles in which every query sees every key, and those in which only some do: `[n, 2]`."""
    rows, columns, causal, window, start, keys, _ = tiling
    query = start + rows * np.arange(n_rows)[:, None]
    key = columns * np.arange(n_columns)[None]
    last_query, last_key = query + rows - 1, np.minimum(key + columns, keys) - 1
    some = np.ones((n_rows, n_columns), bool)
    every = np.broadcast_to(key + columns <= keys, some.shape)
    if causal:
        some = some & (key <= last_query)
        every = every & (last_key <= query)
    if window is not None:
        some = some & (last_key > query - window) & (key < last_query + window)
        every = every & (key > last_query - window) & (last_key < query + window)
    return np.argwhere(some & every), np.argwhere(some & ~every)


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
    rows: int | None = None,
    columns: int | None = None,
) -> Array:
    """`attention`, whose arguments these are, in tiles of `rows × columns` logits."""
    *lead, t, heads, _ = query.shape
    s, kv_heads = key.shape[-3:-1]
    group, n = heads // kv_heads, int(np.prod(lead)) * kv_heads
    wide = jnp.promote_types(query.dtype, jnp.float32)
    side = _SIDE if min(t, s) < _LONG else 2 * _SIDE
    rows, columns = min(rows or side, t), min(columns or side, s)
    if query.dtype == wide:
        # queries are fewer than logits; in half precision these are wider, and scaled there
        query, scale = query * scale, 1.0
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
    masked: bool,
) -> tuple[Array, Array]:
    """One tile's logits `[n, columns, group · rows]`, `_LOW` where not seen; and distances."""
    rows, columns, causal, window, start, keys, scale = tiling
    query = start + i * rows + jnp.arange(rows)
    key = j * columns + jnp.arange(columns)
    distance = query[None, :] - key[:, None]
    flat = _product("ncd,nrd->ncr", k, q)
    flat = flat if scale == 1 else flat * scale
    logits = flat.reshape(*flat.shape[:2], -1, rows)
    far = jnp.abs(distance).astype(logits.dtype)[None, :, None]
    if slopes is not None:
        logits -= slopes[:, None, :, None] * far
    if masked:
        seen = jnp.broadcast_to((key < keys)[:, None], distance.shape)
        if causal:
            seen &= distance >= 0
        if window is not None:
            seen &= jnp.abs(distance) < window
        logits = jnp.where(jnp.broadcast_to(seen[:, None], logits.shape), logits, _LOW)
    if there is not None:
        seen = jnp.broadcast_to(there[:, :, None, None], logits.shape)
        logits = jnp.where(seen, logits, _LOW)
    return logits.reshape(flat.shape), far


def _at(x: Any, i: Array) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, keepdims=False), x)


def _put(x: Array, y: Array, i: Array) -> Array:
    updated: Array = lax.dynamic_update_index_in_dim(x, y, i, 0)
    return updated


def _scan(
    tiling: Tiling, q: Array, k: Array, body: Callable[[Any, Array, Array, bool], Any], carry: Any
) -> Any:
    """`carry ← body(carry, i, j, masked)` over all tiles in which something is seen."""
    for tiles, masked in zip(_tiles(tiling, len(q), len(k)), (False, True), strict=True):

        def step(carry: Any, ij: Array, masked: bool = masked) -> tuple[Any, None]:
            return body(carry, ij[0], ij[1], masked), None

        if len(tiles):
            carry = lax.scan(step, carry, jnp.asarray(tiles, jnp.int32))[0]
    return carry


def _forward(
    tiling: Tiling, q: Array, k: Array, v: Array, there: Array | None, slopes: Array | None
) -> tuple[Array, Array]:
    """The output and the log-sum-exp of each row of logits (0 where nothing is seen)."""
    n_rows, n, rows, _ = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def body(carry: Any, i: Array, j: Array, masked: bool) -> Any:
        o, m, total = (_at(x, i) for x in carry)
        logits, _ = _logits(tiling, _at(q, i), _at(k, j), _at(there, j), slopes, i, j, masked)
        largest = jnp.maximum(m, logits.max(-2))
        weights = jnp.exp(logits - largest[:, None])
        kept = jnp.exp(m - largest)
        o = o * kept[:, None] + _product("nce,ncr->ner", _at(v, j), weights.astype(v.dtype))
        new = o, largest, total * kept + weights.sum(-2)
        return tuple(_put(x, y, i) for x, y in zip(carry, new, strict=True))

    o = jnp.zeros((n_rows, n, v.shape[-1], rows), wide)
    m, total = jnp.full((n_rows, n, rows), _LEAST, wide), jnp.zeros((n_rows, n, rows), wide)
    o, m, total = _scan(tiling, q, k, body, (o, m, total))
    some = total > 0
    total = jnp.where(some, total, 1)
    o = jnp.moveaxis(o / total[:, :, None], -1, -2)
    return o, jnp.where(some, m + jnp.log(total), 0)


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
    mean = jnp.sum(o * do, -1)
    wide = do.dtype

    def body(carry: Any, i: Array, j: Array, masked: bool) -> Any:
        dq, dk, dv, dslopes = carry
        q_i, k_j, v_j = _at(q, i), _at(k, j), _at(v, j)
        do_i = _at(do, i).astype(v.dtype)
        logits, far = _logits(tiling, q_i, k_j, _at(there, j), slopes, i, j, masked)
        weights = jnp.exp(logits - _at(normalizer, i)[:, None])
        dlogits = weights * (_product("nce,nre->ncr", v_j, do_i) - _at(mean, i)[:, None])
        if slopes is not None:
            by_head = dlogits.reshape(*dlogits.shape[:2], -1, tiling.rows)
            dslopes -= jnp.sum(by_head * far, (1, 3))
        dlogits = dlogits.astype(q.dtype)
        new_dq = _at(dq, i) + _product("ncr,ncd->nrd", dlogits, k_j)
        new_dk = _at(dk, j) + _product("ncr,nrd->ncd", dlogits, q_i)
        new_dv = _at(dv, j) + _product("ncr,nre->nce", weights.astype(v.dtype), do_i)
        return _put(dq, new_dq, i), _put(dk, new_dk, j), _put(dv, new_dv, j), dslopes

    zeros = [jnp.zeros(x.shape, wide) for x in (q, k, v)]
    dslopes = None if slopes is None else jnp.zeros_like(slopes)
    dq, dk, dv, dslopes = _scan(tiling, q, k, body, (*zeros, dslopes))
    dq, dk = (x if tiling.scale == 1 else x * tiling.scale for x in (dq, dk))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dslopes


_tiled.defvjp(_tiled_forward, _tiled_backward)
