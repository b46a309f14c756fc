"""Arms by name: what is compared with what, and which of an arm's strengths is taken."""

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
    """Each seed's best setting, of `losses [seeds, settings]`; what is not finite is the worst.

    For what held-out data choose; rates are chosen by other seeds (`rates.best_of_others`).
    """
    values = np.asarray(losses, np.float64)
    return np.asarray(np.argmin(np.where(np.isfinite(values), values, np.inf), 1))


def taken(values: ArrayLike, best: np.ndarray) -> np.ndarray:
    """Of `values [seeds, settings, …]` each seed's `best`."""
    return np.asarray(np.asarray(values)[np.arange(len(best)), best])
