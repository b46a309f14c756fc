"""What is measured of activations and error signals, given as rows `[examples, units]`."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
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
    gram: Array | None
    """`⟨row, row⟩` of some rows, scaled: the squares of their singular values are its eigenvalues.
    """
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
    gram = None
    if rank_rows:
        picked = _some(rows, rank_rows) / size
        missing = rank_rows - picked.shape[0]
        gram = jnp.pad(picked @ picked.T, ((0, missing), (0, missing)))
    return Measures(spread, dead, saturated, differing, gram, jnp.asarray(rows.shape[1]))


def example_norms(error: Array) -> Array:
    """`‖δᵢ‖ [B]`, of `[B, ...]`."""
    flat = error.reshape(error.shape[0], -1)
    flat = jnp.abs(flat).astype(jnp.promote_types(jnp.abs(flat).dtype, jnp.float32))
    size = _size(flat) if flat.size else 1
    return size * jnp.sqrt(jnp.sum(jnp.square(flat / size), 1))


def effective_rank(grams: Sequence[Array]) -> list[Array]:
    """`exp(-Σ pⱼ log pⱼ)`, `pⱼ = σⱼ / Σσ`, of each; those of all are found in one call."""
    if not grams:
        return []
    flat = [gram.reshape(-1, *gram.shape[-2:]) for gram in grams]
    squares = jnp.maximum(jnp.linalg.eigvalsh(jnp.concatenate(flat)), 0)
    # what is below is rounding of the largest
    noise = np.finfo(squares.dtype).eps * squares.shape[-1] * squares[:, -1:]
    values = jnp.sqrt(jnp.where(squares > noise, squares, 0))
    total = jnp.sum(values, -1, keepdims=True)
    shares = values / jnp.where(total == 0, 1, total)
    entropy = -jnp.sum(jax.scipy.special.xlogy(shares, shares), -1)
    ranks = jnp.where(total[:, 0] == 0, 0, jnp.exp(entropy))
    ends = np.cumsum([len(gram) for gram in flat])[:-1]
    return [
        part.reshape(gram.shape[:-2])
        for part, gram in zip(jnp.split(ranks, ends), grams, strict=True)
    ]
