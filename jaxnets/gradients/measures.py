"""What is measured of activations and error signals, given as rows `[examples, units]`."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnets.types import Array

BINS = 32
LOWEST, STEP = -12.0, 0.5
"""Bins of histograms are half decades from 1e-12 to 1e4, with all beyond in the outer ones."""
SAMPLE = 512
"""How many values a histogram is of."""
FLAT = 0.1
"""A unit is saturated if its mean slope is below this share of the largest that it can have."""


class Spread(NamedTuple):
    """Of values: mean, standard deviation, extremes, and how large they are."""

    mean: Array
    std: Array
    min: Array
    max: Array
    histogram: Array
    """Shares of absolute values between `histogram_edges()`, of a sample: `[32]`."""


class Measures(NamedTuple):
    """Of one site in one step."""

    spread: Spread
    dead: Array
    saturated: Array
    differing: Array
    rank: Array
    """Effective rank of some rows; NaN if it is not asked for."""
    units: Array


def histogram_edges() -> np.ndarray:
    """The bounds of the bins, `[33]`."""
    return 10 ** (LOWEST + STEP * np.arange(BINS + 1))


def _size(x: Array) -> Array:
    """The largest absolute value, or 1: squares of what is divided by it neither vanish nor
    overflow."""
    largest = jnp.max(jnp.max(jnp.abs(x), 0))
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)


def _some(rows: Array, count: int) -> Array:
    return rows[:: max(1, -(-rows.shape[0] // count))]


def _histogram(rows: Array) -> Array:
    values = jnp.abs(rows.ravel()[:: max(1, -(-rows.size // SAMPLE))])
    places = jnp.floor((jnp.log10(jnp.maximum(values, 10**LOWEST)) - LOWEST) / STEP)
    places = jnp.clip(places, 0, BINS - 1)
    return jnp.mean((places[:, None] == jnp.arange(BINS)[None]).astype(rows.dtype), 0)


def measure(rows: Array, kind: str, rank_rows: int) -> Measures:
    """Of `rows [N, K]`; sums go along the first axis first, which is the fast order on CPUs."""
    low, high = jnp.min(rows, 0), jnp.max(rows, 0)
    largest = jnp.max(jnp.maximum(high, -low))
    size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    mean = jnp.mean(jnp.mean(rows, 0))
    variance = jnp.mean(jnp.mean(jnp.square((rows - mean) / size), 0))
    spread = Spread(mean, size * jnp.sqrt(variance), jnp.min(low), jnp.max(high), _histogram(rows))
    dead = jnp.mean(((low == 0) & (high == 0)).astype(rows.dtype))
    saturated = jnp.full((), jnp.nan, rows.dtype)
    if kind in ("tanh", "sigmoid"):
        slope = 1 - jnp.square(rows) if kind == "tanh" else 4 * rows * (1 - rows)
        saturated = jnp.mean((jnp.mean(slope, 0) < FLAT).astype(rows.dtype))
    some = _some(rows, 32) / size
    apart = jnp.mean(jnp.square(some - jnp.mean(some, 1, keepdims=True)))
    square = jnp.mean(jnp.square(some))
    differing = jnp.where(square == 0, 0, apart / jnp.where(square == 0, 1, square))
    if rows.shape[1] == 1:
        differing = jnp.full_like(differing, jnp.nan)
    rank = jnp.full((), jnp.nan, rows.dtype)
    if rank_rows:
        rank = effective_rank(_some(rows, rank_rows) / size)
    return Measures(spread, dead, saturated, differing, rank, jnp.asarray(rows.shape[1]))


def example_norms(error: Array) -> Array:
    """`‖δᵢ‖ [B]`, of `[B, ...]`."""
    flat = error.reshape(error.shape[0], -1)
    flat = jnp.abs(flat).astype(jnp.promote_types(jnp.abs(flat).dtype, jnp.float32))
    size = _size(flat) if flat.size else 1
    return size * jnp.sqrt(jnp.sum(jnp.square(flat / size), 1))


def effective_rank(rows: Array) -> Array:
    """`(Σ σ²)² / Σ σ⁴` of singular values: about in how many directions the rows lie; 0 for zeros.

    The exponential of Rényi's entropy of order 2 of the shares `σ² / Σ σ²`; that of Shannon's
    (Roy and Vetterli, 2007) would need the singular values themselves, which take longer than the
    rest of what is measured. Here both sums are of the Gram matrix: its trace, and its squares.
    """
    gram = rows @ rows.T
    squares = jnp.sum(jnp.square(gram))
    total = jnp.sum(jnp.square(rows))
    return jnp.where(squares > 0, jnp.square(total) / jnp.where(squares > 0, squares, 1), 0)
