"""What was found, as a table: rankings with their errors, and two configurations compared."""

import math
from collections.abc import Iterable, Mapping, Sequence
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
    return sorted_rows(
        row(index, config, scores.tolist())
        for index, (config, scores) in enumerate(zip(configs, values, strict=True))
    )


def row(number: int, config: Mapping[str, Any], scores: Sequence[float]) -> Row:
    """One configuration's, of `[folds]` scores; of none, mean and error are NaN."""
    folds = len(scores)
    # of runs that diverged: infinities less infinities
    with np.errstate(invalid="ignore"):
        error = float(np.std(scores, ddof=1)) / math.sqrt(folds) if folds > 1 else math.nan
        mean = float(np.mean(scores)) if folds else math.nan
    return Row(number, config, mean, error, tuple(scores))


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """From best to worst by mean; what is not finite comes last."""
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


def described(config: Mapping[str, Any]) -> str:
    """`learning_rate 0.01, l2 0.0001`: a configuration in a line, without its seed."""
    return ", ".join(f"{name} {_plain(v)}" for name, v in config.items() if name != "seed")


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[Row], *, most: int | None = None) -> str:
    """A table in Markdown: a line for each row, its configuration, mean and standard error.

    The mean is written to two digits of its error (four digits where it has none). Columns are
    the names of all configurations, in the order in which they come first.

    Args:
      rows: as `rank` returns them.
      most: so many of them; by default all.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.config))
    header = ["number", *names, "mean", "standard error"]
    lines = [header, ["---"] * len(header)]
    for row in rows[:most]:
        settings = [_plain(row.config[name]) if name in row.config else "" for name in names]
        lines.append([str(row.number), *settings, *_measured(row)])
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _measured(row: Row) -> tuple[str, str]:
    error = row.standard_error
    if not (math.isfinite(error) and error > 0 and math.isfinite(row.mean)):
        return f"{row.mean:.4g}", f"{error:.2g}" if math.isfinite(error) else ""
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{row.mean:.{digits}f}", f"{error:.{digits}f}"
