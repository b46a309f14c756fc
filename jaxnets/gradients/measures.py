"""What is measured of activations and error signals, given as rows of units.

Of many sites at once, those of the same shape side by side: on so few numbers, an operation costs
more than what it does.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.gradients.unit_rows import UnitRows, some_of
from jaxnets.types import Array

BINS = 32
LOWEST, STEP = -12.0, 0.5
"""Bins of histograms are half decades from 1e-12 to 1e4, with all beyond in the outer ones."""
SAMPLE = 256
"""How many values a histogram is of at most."""
FLAT = 0.1
"""A unit is saturated if its mean slope is below this share of the largest that it can have."""
SLOPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - jnp.square(y),
    "sigmoid": lambda y: 4 * y * (1 - y),
}
"""Of nonlinearities whose units saturate: slopes by results, as shares of the largest."""


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


SPREAD = 4 + BINS
"""Numbers of a `Spread`."""
DEAD, SATURATED, DIFFERING, RANK, UNITS = range(SPREAD, SPREAD + 5)
"""Where the others of `measure`'s numbers are, behind those of the `Spread`."""


def spread_of(numbers: Array) -> Spread:
    """Of `[…, numbers]`."""
    mean, std, least, most = (numbers[..., i] for i in range(4))
    return Spread(mean, std, least, most, numbers[..., 4:])


def histogram_edges() -> np.ndarray:
    """The bounds of the bins, `[33]`."""
    return 10 ** (LOWEST + STEP * np.arange(BINS + 1))


def measure(seen: Sequence[UnitRows], kinds: Sequence[str], rank_rows: Sequence[int]) -> Array:
    """Of the rows of sites; extremes, and which units are dead, of all that these made.

    Args:
      seen: of each site, all with the same axes of turns before those of rows and units.
      kinds: of nonlinearity, for whether units are saturated.
      rank_rows: how many rows the effective rank is of; 0 for NaN.

    Returns:
      `[S, turns …, numbers]`: of a `Spread`, of which units are dead (a share), saturated (a share;
      NaN where that does not apply), how much units differ, the effective rank, and how many units.
    """
    alike: dict[Any, list[int]] = {}
    for i, (one, kind, ranked) in enumerate(zip(seen, kinds, rank_rows, strict=True)):
        own = kind if kind in SLOPES else ""
        alike.setdefault((one.rows.shape, one.rows.dtype, own, ranked), []).append(i)
    measured = [
        _measure(jax.tree.map(lambda *x: jnp.stack(x, 0), *(seen[i] for i in numbers)), *how[2:])
        for how, numbers in alike.items()
    ]
    places = np.argsort([i for numbers in alike.values() for i in numbers])
    return jnp.concatenate(measured, 0)[places]


def _measure(seen: UnitRows, kind: str, rank_rows: int) -> Array:
    """Of sites that are alike, on the first axis."""
    rows = seen.rows
    least, most = jnp.min(seen.low, -1), jnp.max(seen.high, -1)
    size = _size(least, most)
    scaled = rows / size[..., None, None]
    extremes = jnp.stack([seen.low, seen.high], -2) / size[..., None, None]
    mean = jnp.mean(scaled, (-2, -1))
    variance = jnp.mean(jnp.square(scaled - mean[..., None, None]), (-2, -1))
    unknown = jnp.full_like(size, jnp.nan)
    spread = size * mean, size * jnp.sqrt(variance), least, most
    others = (
        _share((seen.low == 0) & (seen.high == 0)),
        _share(jnp.mean(SLOPES[kind](rows), -2) < FLAT) if kind else unknown,
        _differing(scaled, extremes),
        _rank(some_of(scaled, rank_rows)) if rank_rows else unknown,
        jnp.full_like(size, rows.shape[-1]),
    )
    return jnp.concatenate([jnp.stack(spread, -1), _histogram(rows), jnp.stack(others, -1)], -1)


def _share(of: Array) -> Array:
    return jnp.mean(of.astype(jnp.float32), -1)


def _size(least: Array, most: Array) -> Array:
    """By which neither sums nor squares overflow or vanish, nor does 1 / size."""
    limits = np.finfo(least.dtype)
    largest = jnp.maximum(most, -least)
    return jnp.clip(jnp.where(jnp.isfinite(largest), largest, 1), 8 * limits.tiny, limits.max / 16)


def _histogram(rows: Array) -> Array:
    values = rows.reshape(*rows.shape[:-2], prod(rows.shape[-2:]), 1)
    sample = jnp.abs(some_of(values, SAMPLE))
    edges = np.r_[0, histogram_edges()[1:-1]].astype(sample.dtype)
    reached = jnp.sum(sample >= edges.reshape(*(1 for _ in rows.shape[:-2]), 1, BINS), -2)
    beyond = jnp.zeros_like(reached[..., :1])
    return -jnp.diff(reached, append=beyond).astype(sample.dtype) / sample.shape[-2]


def _differing(scaled: Array, extremes: Array) -> Array:
    if scaled.shape[-1] == 1:
        return jnp.full(scaled.shape[:-2], jnp.nan, scaled.dtype)
    # rows alone could all be padding; beside others extremes count for little
    few = jnp.concatenate([some_of(scaled, 8), 1e-3 * extremes], -2)
    apart = jnp.square(few - jnp.mean(few, -1, keepdims=True))
    return _share_of_squares(jnp.sum(apart, (-2, -1)), jnp.sum(jnp.square(few), (-2, -1)))


def _share_of_squares(part: Array, whole: Array) -> Array:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _rank(rows: Array) -> Array:
    """`(Σ σ²)² / Σ σ⁴` of singular values: about in how many directions rows lie; 0 for zeros.

    The exponential of Rényi's entropy of order 2 of the shares `σ² / Σ σ²`; that of Shannon's
    (Roy and Vetterli, 2007) would need the singular values themselves, which take longer than the
    rest of what is measured. Here both sums are of the Gram matrix: its trace, and its squares.
    """
    gram = jnp.einsum("...iu,...ju->...ij", rows, rows)
    total = jnp.trace(gram, axis1=-2, axis2=-1)
    return _share_of_squares(jnp.square(total), jnp.sum(jnp.square(gram), (-2, -1)))
