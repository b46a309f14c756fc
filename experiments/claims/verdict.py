"""From measurements to a verdict: does a sentence hold, not hold, or only under some conditions?

A sentence is tested by comparisons: the same quantity with and without what the sentence speaks of,
by the same seeds. Each is judged by the 95 % interval (Student's t) of its differences by seed.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95

Expected = Literal["less", "more", "same", "not less", "not more"]


class Arm(NamedTuple):
    """One side of a comparison."""

    name: str
    values: ArrayLike
    """`[seeds]`"""


class Comparison(NamedTuple):
    """A quantity under one condition, treated and not, by seed."""

    condition: str
    """As it ends a sentence that begins with "holds only": "with tanh, 20 layers"."""
    quantity: str
    treated: Arm
    control: Arm
    expected: Expected
    """What the sentence says of the treated beside the control."""
    margin: float
    """The smallest difference that counts (for "same", "not more" and "not less": the largest that
    does not); with `ratio` as a factor above 1."""
    ratio: bool = False
    """Whether differences are factors: for quantities that are positive and span decades."""


class Judged(NamedTuple):
    """A comparison's effect, treated minus (or, as a ratio, divided by) control."""

    comparison: Comparison
    effect: float
    low: float
    high: float
    """The ends of the interval; NaN for a single seed."""
    as_claimed: bool | None
    """None where the seeds do not decide it."""


class Verdict(NamedTuple):
    """Of one sentence."""

    word: Literal["holds", "does not hold", "holds only", "undecided"]
    conditions: str
    """For `holds only`: where it does, where not, and where that is undecided."""
    judged: Sequence[Judged]

    def __str__(self) -> str:
        return f"{self.word} {self.conditions}".strip()


def judge(comparison: Comparison) -> Judged:
    """The effect, its interval, and whether the comparison came out as claimed.

    A difference is as claimed if its interval excludes 0 and its mean is `margin` or more, and is
    not if the interval excludes one of `margin`. "Same" is as claimed if the whole interval lies
    within the margin to both sides, "not more" and "not less" if it lies on the right side of the
    margin to one; they are not if the interval lies beyond. Otherwise, or where a value is not
    finite, the seeds do not decide: let a quantity that can diverge be cut off before.

    Raises:
      ValueError: for arms of different or no seeds, values that are not positive as a ratio, or a
        margin that is out of range.
    """
    treated, control = (
        np.asarray(arm.values, np.float64) for arm in (comparison.treated, comparison.control)
    )
    if treated.shape != control.shape or treated.ndim != 1 or not treated.size:
        raise ValueError(
            f"{comparison.condition}: each arm needs one value for each seed, got "
            f"{treated.shape} and {control.shape}"
        )
    if comparison.margin < (1 if comparison.ratio else 0):
        raise ValueError(f"{comparison.condition}: margin is out of range: {comparison.margin}")
    margin = comparison.margin
    if comparison.ratio:
        if np.any(treated <= 0) or np.any(control <= 0):
            raise ValueError(f"{comparison.condition}: a ratio needs positive values")
        treated, control, margin = np.log(treated), np.log(control), float(np.log(margin))
    effect, low, high = _interval(treated - control)
    as_claimed = _as_claimed(comparison.expected, effect, low, high, margin)
    if comparison.ratio:
        effect, low, high = (float(np.exp(x)) for x in (effect, low, high))
    return Judged(comparison, effect, low, high, as_claimed)


def _as_claimed(
    expected: Expected, effect: float, low: float, high: float, margin: float
) -> bool | None:
    if expected == "same":
        if -margin <= low and high <= margin:
            return True
        return False if low > margin or high < -margin else None
    if expected in ("less", "not less"):
        effect, low, high = -effect, -high, -low
    if expected in ("not less", "not more"):
        if high <= margin:
            return True
        return False if low > margin else None
    if low > 0 and effect >= margin:
        return True
    return False if high < margin else None


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and the ends of its interval; NaN ends where no spread is known."""
    from scipy.stats import t

    n, mean = len(differences), float(np.mean(differences))
    if n < 2 or not np.isfinite(mean):
        return mean, np.nan, np.nan
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def verdict(comparisons: Sequence[Comparison]) -> Verdict:
    """Of the sentence that all of the comparisons test.

    Raises:
      ValueError: if there is none.
    """
    if not comparisons:
        raise ValueError("a verdict needs at least one comparison")
    judged = [judge(c) for c in comparisons]

    def where(as_claimed: bool | None) -> str:
        return "; ".join(j.comparison.condition for j in judged if j.as_claimed is as_claimed)

    words = {j.as_claimed for j in judged}
    if words == {True}:
        return Verdict("holds", "", judged)
    if True in words:
        parts = (where(True), f"not {where(False)}", f"undecided {where(None)}")
        shown = [
            part for part, word in zip(parts, (True, False, None), strict=True) if word in words
        ]
        return Verdict("holds only", "; ".join(shown), judged)
    return Verdict("does not hold" if False in words else "undecided", "", judged)


def effect_text(judged: Judged) -> str:
    """`×0.31 (0.25 to 0.38)` or `-0.042 (-0.05 to -0.034)`."""
    sign = "×" if judged.comparison.ratio else ""
    plus = "" if judged.comparison.ratio else "+"
    effect, low, high = (f"{x:{plus}.3g}" for x in (judged.effect, judged.low, judged.high))
    return f"{sign}{effect}" + (f" ({low} to {high})" if np.isfinite(judged.low) else "")
