"""What is measured of activations and error signals, given as rows of units.

Of many sites at once: what reads rows is done for one after the other, and what follows, for all
side by side, on the last axis. On a number each, an operation costs more than what it does.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

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


class Measures(NamedTuple):
    """Of `S` sites in one step, `[turns …, S]`; histograms `[turns …, 32, S]`."""

    spread: Spread
    dead: Array
    saturated: Array
    """NaN where that does not apply."""
    differing: Array
    rank: Array
    """Effective rank of some rows; NaN if it is not asked for."""
    units: Array


def histogram_edges() -> np.ndarray:
    """The bounds of the bins, `[33]`."""
    return 10 ** (LOWEST + STEP * np.arange(BINS + 1))


def measure(seen: Sequence[UnitRows], kinds: Sequence[str], rank_rows: Sequence[int]) -> Measures:
    """Of the rows of sites; extremes, and which units are dead, of all that these made.

    Args:
      seen: of each site, all with the same axes of turns before those of rows and units.
      kinds: of nonlinearity, for whether units are saturated.
      rank_rows: how many rows the effective rank is of; 0 for NaN.
    """
    every = [one.rows for one in seen]
    least = _side_by_side(jnp.min(one.low, -1) for one in seen)
    most = _side_by_side(jnp.max(one.high, -1) for one in seen)
    size = _size(least, most, every)
    scaled = [rows / size[..., i, None, None] for i, rows in enumerate(every)]
    mean = _means(scaled)
    variance = _means(
        [jnp.square(rows - mean[..., i, None, None]) for i, rows in enumerate(scaled)]
    )
    spread = Spread(size * mean, size * jnp.sqrt(variance), least, most, _histograms(every))
    extremes = [
        jnp.stack([one.low, one.high], -2) / size[..., i, None, None] for i, one in enumerate(seen)
    ]
    return Measures(
        spread,
        _side_by_side(_share((one.low == 0) & (one.high == 0)) for one in seen),
        _side_by_side(map(_saturated, every, kinds)),
        _differing(scaled, extremes),
        _ranks(scaled, rank_rows),
        each_turn([rows.shape[-1] for rows in every], least),
    )


def _side_by_side(values: Any) -> Array:
    return jnp.stack(list(values), -1)


def each_turn(values: Any, like: Array) -> Array:
    """A number for each site, `[turns …, S]`."""
    return jnp.broadcast_to(jnp.asarray(values), like.shape)


def _means(every: Sequence[Array]) -> Array:
    sums = _side_by_side(jnp.sum(rows, (-2, -1)) for rows in every)
    counts = np.array([prod(rows.shape[-2:]) for rows in every], sums.dtype)
    return sums / each_turn(counts, sums)


def _share(of: Array) -> Array:
    return jnp.mean(of.astype(jnp.float32), -1)


def _size(least: Array, most: Array, every: Sequence[Array]) -> Array:
    """By which neither sums nor squares overflow or vanish, nor does 1 / size."""
    largest = jnp.maximum(most, -least)
    limits = [np.finfo(rows.dtype) for rows in every]
    lowest, highest = [8 * x.tiny for x in limits], [x.max / 16 for x in limits]
    whole = jnp.where(jnp.isfinite(largest), largest, 1)
    return jnp.clip(whole, each_turn(np.stack(lowest), whole), each_turn(np.stack(highest), whole))


def _histograms(every: Sequence[Array]) -> Array:
    values = [rows.reshape(*rows.shape[:-2], prod(rows.shape[-2:])) for rows in every]
    counts = [min(x.shape[-1], SAMPLE) for x in values]
    # -1 is in no bin
    samples = _side_by_side(
        _filled_up(jnp.abs(some_of(x[..., None], n)[..., 0]), max(counts))
        for x, n in zip(values, counts, strict=True)
    )
    places = jnp.floor((jnp.log10(jnp.maximum(samples, 10**LOWEST)) - LOWEST) / STEP)
    places = jnp.where(samples < 0, -1, jnp.clip(places, 0, BINS - 1)).astype(int)
    numbers = jnp.sum(jax.nn.one_hot(places, BINS, dtype=samples.dtype, axis=-2), -3)
    return numbers / each_turn(np.array(counts, samples.dtype), numbers)


def _filled_up(x: Array, count: int) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count - x.shape[-1])], constant_values=-1)


def _saturated(rows: Array, kind: str) -> Array:
    if kind not in SLOPES:
        return jnp.full(rows.shape[:-2], jnp.nan, rows.dtype)
    return _share(jnp.mean(SLOPES[kind](rows), -2) < FLAT)


def _differing(scaled: Sequence[Array], extremes: Sequence[Array]) -> Array:
    # rows alone could all be padding; beside others extremes count for little
    few = [
        jnp.concatenate([some_of(rows, 8), 1e-3 * both], -2)
        for rows, both in zip(scaled, extremes, strict=True)
    ]
    apart = _means([jnp.square(rows - jnp.mean(rows, -1, keepdims=True)) for rows in few])
    square = _means([jnp.square(rows) for rows in few])
    single = np.array([rows.shape[-1] == 1 for rows in few])
    return jnp.where(each_turn(single, apart), jnp.nan, _share_of_squares(apart, square))


def _share_of_squares(part: Array, whole: Array) -> Array:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _ranks(scaled: Sequence[Array], rank_rows: Sequence[int]) -> Array:
    """`(Σ σ²)² / Σ σ⁴` of singular values: about in how many directions rows lie; 0 for zeros.

    The exponential of Rényi's entropy of order 2 of the shares `σ² / Σ σ²`; that of Shannon's
    (Roy and Vetterli, 2007) would need the singular values themselves, which take longer than the
    rest of what is measured. Here both sums are of the Gram matrix: its trace, and its squares.
    """
    totals: list[Array] = []
    squares: list[Array] = []
    for rows, count in zip(scaled, rank_rows, strict=True):
        if not count:
            unknown = jnp.full(rows.shape[:-2], jnp.nan, rows.dtype)
            totals, squares = [*totals, unknown], [*squares, unknown]
            continue
        some = some_of(rows, count)
        gram = jnp.einsum("...iu,...ju->...ij", some, some)
        totals.append(jnp.sum(jnp.square(some), (-2, -1)))
        squares.append(jnp.sum(jnp.square(gram), (-2, -1)))
    return _share_of_squares(jnp.square(_side_by_side(totals)), _side_by_side(squares))


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
