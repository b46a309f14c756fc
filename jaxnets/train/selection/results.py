"""What was found, as a table: rankings with their errors, and two configurations compared."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Row(NamedTuple):
    """A configuration and how it did."""

    number: int
    """Where it stands in what was searched."""
    config: Mapping[str, Any]
    mean: float
    """Over the folds; smaller is better."""
    standard_error: float
    """`s / √folds`; NaN of a single fold. Folds share training data, so it is too small rather than
    too large (Bengio and Grandvalet, 2004)."""
    scores: tuple[float, ...]
    """Of each fold."""


class Comparison(NamedTuple):
    """Two configurations on the same folds: the first's score minus the second's."""

    difference: float
    standard_error: float
    """Corrected for shared training data."""
    t: float
    """`difference / standard_error`, to be held against Student's t of `folds - 1` degrees."""


def rank(configs: Sequence[Mapping[str, Any]], scores: ArrayLike) -> list[Row]:
    """Rows from best to worst by mean score, smaller being better; what is not finite comes last.

    Args:
      configs: one for each row of `scores`: of `train.table`, or, where it has several seeds of
        each, of `over_seeds`.
      scores: `[configs]` or `[configs, folds]`.

    Raises:
      ValueError: where the numbers of configurations differ, or there is none.
    """
    values = np.asarray(scores, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != len(configs) or not values.size:
        raise ValueError(
            f"rank: scores must be [{len(configs)}] or [{len(configs)}, folds], "
            f"got shape {np.shape(scores)}"
        )
    folds = values.shape[1]
    rows = []
    for index, (config, row) in enumerate(zip(configs, values, strict=True)):
        error = float(np.std(row, ddof=1)) / math.sqrt(folds) if folds > 1 else math.nan
        rows.append(Row(index, config, float(np.mean(row)), error, tuple(row.tolist())))
    return sorted(rows, key=lambda row: row.mean if math.isfinite(row.mean) else math.inf)


def best(rows: Sequence[Row]) -> Row:
    """The row of the smallest mean.

    Raises:
      ValueError: if no mean is finite.
    """
    finite = [row for row in rows if math.isfinite(row.mean)]
    if not finite:
        raise ValueError("best: no configuration has a finite score")
    return min(finite, key=lambda row: row.mean)


def compare(first: ArrayLike, second: ArrayLike, *, held_out_share: float) -> Comparison:
    """The paired difference over folds with Nadeau and Bengio's corrected error (2003).

    `se² = (1/J + ρ / (1 - ρ)) s²`, with `s²` the variance of the `J` differences and `ρ` the share
    held out: without the second term it would be taken that folds are independent.

    `t` is that of two configurations named before their scores were seen. The first two of a
    ranking are not: the best of many is partly the luckiest, and its lead, so tested, too large.

    Args:
      first, second: `[J]`, scores of the same folds, in the same order.
      held_out_share: `1 / k` of k folds.

    Raises:
      ValueError: where shapes differ, for fewer than two folds, or a share outside (0, 1).
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(
            f"compare: wants two lists of as many scores, two at least, got {a.shape} and {b.shape}"
        )
    if not 0 < held_out_share < 1:
        raise ValueError(f"compare: held_out_share must be in (0, 1), got {held_out_share}")
    differences = a - b
    correction = 1 / len(a) + held_out_share / (1 - held_out_share)
    error = math.sqrt(correction * float(np.var(differences, ddof=1)))
    mean = float(np.mean(differences))
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return Comparison(mean, error, t)
