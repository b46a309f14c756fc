"""Arms by name: what is compared with what, and which of an arm's settings is taken."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from experiments.claims.verdict import Arm, Comparison, Expected


def between(
    values: Mapping[str, ArrayLike],
    treated: str,
    control: str,
    *,
    where: str,
    quantity: str,
    expected: Expected,
    margin: float,
    ratio: bool = False,
    floor: float = -np.inf,
    cap: float = np.inf,
) -> Comparison:
    """The comparison of two of the named `values [seeds]` of one quantity, whose measurement ends
    at `floor` and `cap`.
    """
    with_it, without = (Arm(name, values[name], floor, cap) for name in (treated, control))
    return Comparison(where, quantity, with_it, without, expected, margin, ratio)


def beside(
    constant: float,
    called: str,
    treated: Arm,
    *,
    where: str,
    quantity: str,
    expected: Expected,
    margin: float,
    ratio: bool = False,
) -> Comparison:
    """The comparison of measured values with a number that is known: 1, or chance."""
    known = Arm(called, np.full(np.shape(treated.values), constant))
    return Comparison(where, quantity, treated, known, expected, margin, ratio)


def least(losses: ArrayLike) -> np.ndarray:
    """Each seed's best setting, of `losses [seeds, settings]`; what is not finite is the worst."""
    values = np.asarray(losses, np.float64)
    return np.asarray(np.argmin(np.where(np.isfinite(values), values, np.inf), 1))


def taken(values: ArrayLike, best: np.ndarray) -> np.ndarray:
    """Of `values [seeds, settings, …]` each seed's `best`."""
    return np.asarray(np.asarray(values)[np.arange(len(best)), best])


def at_the_edge(best: Mapping[str, np.ndarray], settings: int) -> str:
    """A sentence that names the arms whose best setting is an end of its grid, as it may then lie
    beyond; empty if there is none, or no grid.
    """
    ends = {name: int(np.sum((b == 0) | (b == settings - 1))) for name, b in best.items()}
    named = [f"{name} ({n} of {len(best[name])} seeds)" for name, n in ends.items() if n]
    if not named or settings < 2:
        return ""
    return (
        f"At an end of its grid, beyond which it may lie, is the best rate of {', '.join(named)}."
    )
