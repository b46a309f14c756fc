"""What the seeds say: estimates beside the truth, searches beside the random one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.claims.verdict import Arm, Comparison, Judged, judge
from experiments.selection.cost import Cost
from experiments.selection.estimates import FOLDS, Estimated
from experiments.selection.searches import Result

BASELINE = "random"
MARGIN_LOSS, MARGIN_ERROR = 0.01, 0.005
"""The smallest differences that count, in nats and as a share of wrong predictions."""


class Results(NamedTuple):
    """All that was measured."""

    seeds: list[int]
    estimated: list[Estimated]
    """Of each seed."""
    searched: list[dict[str, Result]]
    """Of each seed, by search."""
    costs: dict[str, Cost]


def gaps(results: Results) -> dict[str, NDArray[np.float64]]:
    """Estimates less the true loss of what cross-validation chose, `[seeds]` each."""
    true, best, nested = np.array(
        [(e.truth, e.rows[0].mean, e.nested.mean) for e in results.estimated]
    ).T
    return {"the best of cross-validation": best - true, "nested cross-validation": nested - true}


def column(results: Results, field: str) -> dict[str, NDArray[np.float64]]:
    """A number of each search's results, `[seeds]`."""
    return {
        name: np.array([getattr(found[name], field) for found in results.searched], np.float64)
        for name in results.searched[0]
    }


def compared(results: Results, field: str, margin: float) -> dict[str, Judged]:
    """Each search beside the random one, by seed: less is better."""
    values = column(results, field)
    return {
        name: judge(
            Comparison(
                f"{name} beside {BASELINE}", field,
                Arm(name, values[name]), Arm(BASELINE, values[BASELINE]), "less", margin,
            )
        )
        for name in values
        if name != BASELINE
    }  # fmt: skip


def said(judged: Judged) -> str:
    """A comparison with the random search in words; worse is judged as better is, mirrored."""
    if judged.as_claimed:
        return "better"
    c = judged.comparison
    if judge(c._replace(expected="more")).as_claimed:
        return "worse"
    if -c.margin <= judged.low and judged.high <= c.margin:
        return f"no different by {c.margin:g} or more"
    return "undecided"


def interval(values: NDArray[np.float64]) -> Judged:
    """Of a mean over seeds, beside 0."""
    zero = np.zeros(len(values))
    return judge(Comparison("", "", Arm("", values), Arm("", zero), "more", 0.0))


def direction(judged: Judged) -> str:
    """Whether an estimate is off, by its interval."""
    if judged.low > 0:
        return "too high"
    return "too low" if judged.high < 0 else "undecided"


def told_apart(results: Results) -> int:
    """Of how many seeds the best two of cross-validation differ, at 5 %."""
    from scipy.stats import t

    limit = float(t.ppf(0.975, FOLDS - 1))
    return sum(abs(e.two.t) > limit for e in results.estimated)
