"""Which learning rate did best, and how good that is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4


class Best(NamedTuple):
    """The best of the swept rates on one function."""

    rate_index: int
    rate: float
    steps: int | None
    """To `TOLERANCE`, for good; `None` if it was not reached."""
    late: float
    """The mean loss of the last tenth of the steps."""
    at_edge: bool
    """Whether the rate is the grid's first or last: a better one may lie beyond."""


def steps_to(values: NDArray[np.float64], tolerance: float) -> int | None:
    """The first step from which all values are at most `tolerance`, if they are in the last tenth.

    Passing through does not count.
    """
    above = np.flatnonzero(~(values <= tolerance))
    first = int(above[-1]) + 1 if above.size else 0
    return first if first <= len(values) - _tenth(values) else None


def _tenth(values: NDArray[np.float64]) -> int:
    return max(1, len(values) // 10)


def late_mean(values: NDArray[np.float64]) -> float:
    """The mean of the last tenth, infinite where one of them is not finite."""
    tail = values[-_tenth(values) :]
    with np.errstate(over="ignore"):
        return float(tail.mean()) if np.isfinite(tail).all() else float("inf")


def best(values: NDArray[np.float64], rates: NDArray[np.float64], noisy: bool) -> Best:
    """The rate that reaches the tolerance first, or, where none does, ends lowest.

    Args:
      values: `[rates, steps + 1]`.
      rates: `[rates]`, rising.
      noisy: whether the lowest end decides alone: with a fixed rate, noise lets none arrive.
    """
    reached = [None if noisy else steps_to(row, TOLERANCE) for row in values]
    late = [late_mean(row) for row in values]
    steps = [np.inf if step is None else step for step in reached]
    index = min(range(len(rates)), key=lambda i: (steps[i], late[i]))
    return Best(
        rate_index=index,
        rate=float(rates[index]),
        steps=reached[index],
        late=late[index],
        at_edge=index in (0, len(rates) - 1),
    )
