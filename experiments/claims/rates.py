"""The best of many learning rates, by seeds that are not the one it is used for."""

import numpy as np
from numpy.typing import ArrayLike

SLACK = 1.05
"""By what factor a grid's end must be better than all within it to be worth an error."""


class GridEndError(ValueError):
    """What was looked for may lie beyond the grid, so that nothing is said of it."""


def best_of_others(rates: ArrayLike, scores: ArrayLike, of: str = "") -> np.ndarray:
    """For each seed, which rate has the least geometric mean of the other seeds' scores.

    So a seed's score at its rate is not the least of many draws, which would be too low by chance,
    the more so the more chaotic they are. Every claim takes its rates from here.

    Args:
      rates: `[rates]`, ascending.
      scores: `[seeds, rates]`, positive and finite; less is better.
      of: what is run at them, for the error.

    Raises:
      GridEndError: if an end of the grid is the best, so that a better one may lie beyond.
    """
    logs = np.log(np.asarray(scores, np.float64))
    require_inside(rates, np.exp(logs.mean(0)), of)
    # among the inner ones, so that a tie of all, such as at a cap, is no end
    return np.asarray(1 + np.argmin((logs.sum(0) - logs)[:, 1:-1], 1))


def at_best(rates: ArrayLike, scores: ArrayLike, of: str = "") -> np.ndarray:
    """`[seeds]`: each seed's score at the rate of `best_of_others`."""
    best = best_of_others(rates, scores, of)
    return np.asarray(np.asarray(scores)[np.arange(len(best)), best])


def require_inside(
    rates: ArrayLike, scores: ArrayLike, of: str = "", *, kind: str = "rate"
) -> None:
    """Refuse a grid whose end is better than all within it, by more than `SLACK`.

    Args:
      rates: `[rates]`, ascending.
      scores: `[rates]`; less is better.
      of: what is run at them, for the error.
      kind: what they are, where not rates.

    Raises:
      GridEndError: naming the end, and what it lacks.
    """
    rates, scores = np.asarray(rates), np.asarray(scores)
    if len(scores) < 3:
        raise ValueError(f"a best {kind} needs neighbours on both sides, got {len(scores)} {kind}s")
    inner = scores[1:-1].min() / SLACK
    for end, side in ((0, "least"), (-1, "highest")):
        if scores[end] < inner:
            raise GridEndError(
                f"{_named(of)}the {side} {kind} of the grid, {rates[end]:.3g}, is its best one: "
                "widen the grid"
            )


def highest(rates: ArrayLike, losses: np.ndarray, *, below: float, of: str = "") -> np.ndarray:
    """Each seed's highest rate at which the loss ends below a bound.

    Args:
      rates: `[rates]`, ascending.
      losses: `[seeds, rates]`.
      below: the bound.
      of: what is run at them, for the error.

    Raises:
      GridEndError: if it is an end of the grid, or none is below, for any seed.
    """
    fine = losses < below
    last = fine.shape[1] - 1 - np.argmax(fine[:, ::-1], 1)
    found = np.asarray(np.asarray(rates)[np.where(fine.any(1), last, 0)])
    require_within(rates, found, of)
    return found


def require_within(rates: ArrayLike, found: ArrayLike, of: str = "") -> None:
    """Refuse what was found at an end of its grid, such as a highest rate that still works.

    Raises:
      GridEndError: naming what lies at an end.
    """
    rates, found = np.asarray(rates), np.asarray(found)
    outside = (found <= rates[0]) | (found >= rates[-1])
    if np.any(outside):
        raise GridEndError(
            f"{_named(of)}found at an end of the grid from {rates[0]:.3g} to {rates[-1]:.3g}: "
            f"{', '.join(f'{rate:.3g}' for rate in found[outside])}; widen it"
        )


def shifted(chosen: np.ndarray, by: int, n: int) -> np.ndarray:
    """Indices so many rates further.

    Raises:
      GridEndError: where that is outside of the `n` rates, since the last one would be less far.
    """
    moved = chosen + by
    if np.any((moved < 0) | (moved >= n)):
        raise GridEndError(
            f"rate {by:+d} from {chosen.tolist()} is outside of the {n} rates: widen the grid"
        )
    return moved


def _named(of: str) -> str:
    return f"{of}: " if of else ""
