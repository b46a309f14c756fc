"""What is measured of activations and error signals, given as rows of units."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.gradients.unit_rows import UnitRows, some_of
from jaxnets.types import Array

BINS = 32
LOWEST, STEP = -12.0, 0.5
"""Bins of histograms are half decades from 1e-12 to 1e4, with all beyond in the outer ones."""
SAMPLE = 256
"""How many values a histogram is of at most."""
FLAT = 0.1
"""A unit is saturated if its mean slope is below this share of the largest that it can have."""
BOUNDED = ("tanh", "sigmoid")
"""Nonlinearities whose units saturate."""


class Spread(NamedTuple):
    """Of values: mean, standard deviation, extremes, and how large they are.

    Extremes are of all values, the rest of rows of them, if not all are asked for.
    """

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


def _histogram(rows: Array) -> Array:
    values = jnp.abs(some_of(rows.ravel(), SAMPLE))
    places = jnp.floor((jnp.log10(jnp.maximum(values, 10**LOWEST)) - LOWEST) / STEP)
    places = jnp.clip(places, 0, BINS - 1)
    return jnp.mean((places[:, None] == jnp.arange(BINS)[None]).astype(rows.dtype), 0)


def measure(seen: UnitRows, kind: str = "", rank_rows: int = 0) -> Measures:
    """Of the rows of a site; extremes, and which units are dead, of all that it made."""
    rows, low, high = seen
    least, most = jnp.min(low), jnp.max(high)
    largest = jnp.maximum(most, -least)
    # neither sums nor squares overflow or vanish, nor does 1 / size
    limits = np.finfo(rows.dtype)
    size = jnp.clip(jnp.where(jnp.isfinite(largest), largest, 1), 8 * limits.tiny, limits.max / 16)
    scaled = rows / size
    # sums go along the first axis first, which is the fast order on CPUs
    mean = jnp.mean(jnp.mean(scaled, 0))
    variance = jnp.mean(jnp.mean(jnp.square(scaled - mean), 0))
    spread = Spread(size * mean, size * jnp.sqrt(variance), least, most, _histogram(rows))
    dead = jnp.mean(((low == 0) & (high == 0)).astype(rows.dtype))
    saturated = jnp.full((), jnp.nan, rows.dtype)
    if kind in BOUNDED:
        slope = 1 - jnp.square(rows) if kind == "tanh" else 4 * rows * (1 - rows)
        saturated = jnp.mean((jnp.mean(slope, 0) < FLAT).astype(rows.dtype))
    some = some_of(scaled, 8)
    apart = jnp.mean(jnp.square(some - jnp.mean(some, 1, keepdims=True)))
    square = jnp.mean(jnp.square(some))
    differing = jnp.where(square == 0, 0, apart / jnp.where(square == 0, 1, square))
    if rows.shape[1] == 1:
        differing = jnp.full_like(differing, jnp.nan)
    rank = jnp.full((), jnp.nan, rows.dtype)
    if rank_rows:
        rank = effective_rank(some_of(scaled, rank_rows))
    return Measures(spread, dead, saturated, differing, rank, jnp.asarray(rows.shape[1]))


def measure_each(asked: Sequence[tuple[UnitRows, str, int]]) -> list[Measures]:
    """`measure` of each `(seen, kind, rank_rows)`, turn by turn; of the same rows, once."""

    def key(seen: UnitRows, kind: str) -> tuple[int, str]:
        return id(seen.rows), kind if kind in BOUNDED else ""

    ranks: dict[int, int] = {}
    for seen, _, rank_rows in asked:
        ranks[id(seen.rows)] = max(ranks.get(id(seen.rows), 0), rank_rows)
    found: dict[tuple[int, str], Measures] = {}
    for seen, kind, _ in asked:
        if key(seen, kind) not in found:
            one = partial(measure, kind=kind, rank_rows=ranks[id(seen.rows)])
            for _ in seen.rows.shape[:-2]:
                one = jax.vmap(one)
            found[key(seen, kind)] = one(seen)
    return [found[key(seen, kind)] for seen, kind, _ in asked]


def example_norms(error: Array, depth: int = 0) -> Array:
    """`‖δᵢ‖ [turns …, B]` of `[turns …, B, …]`, with so many axes of turns.

    Squares that vanish or overflow are computed again, scaled.
    """
    flat = error.reshape(*error.shape[: depth + 1], prod(error.shape[depth + 1 :]))
    flat = jnp.abs(flat) if jnp.iscomplexobj(flat) else flat
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    if not flat.size:
        return jnp.zeros(flat.shape[:-1], flat.dtype)
    limits = np.finfo(flat.dtype)
    squares = jnp.sum(jnp.square(flat), -1)
    sound = jnp.all((squares > limits.tiny / limits.eps**2) & jnp.isfinite(squares))

    def scaled() -> Array:
        largest = jnp.max(jnp.abs(flat), -1, keepdims=True)
        size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return size[..., 0] * jnp.sqrt(jnp.sum(jnp.square(flat / size), -1))

    norms: Array = lax.cond(sound, lambda: jnp.sqrt(squares), scaled)
    return norms


def effective_rank(rows: Array) -> Array:
    """`(Σ σ²)² / Σ σ⁴` of singular values: about in how many directions the rows lie; 0 for zeros.

    The exponential of Rényi's entropy of order 2 of the shares `σ² / Σ σ²`; that of Shannon's
    (Roy and Vetterli, 2007) would need the singular values themselves, which take longer than the
    rest of what is measured. Here both sums are of the Gram matrix: its trace, and its squares.
    """
    gram = rows @ rows.T
    squares = jnp.sum(jnp.square(gram))
    total = jnp.sum(jnp.square(rows))
    return jnp.where(squares == 0, 0, jnp.square(total) / jnp.where(squares == 0, 1, squares))
