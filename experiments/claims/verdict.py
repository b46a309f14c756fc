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

Word = Literal[
    "holds",
    "holds weakly",
    "holds only",
    "decided in part",
    "does not hold",
    "undecided",
    "untested",
]
"""`holds weakly`: in all comparisons the effect is in the claimed direction and sure, but smaller
than the margin; `holds only`: by its margin in some comparisons, and in others weakly or not;
`decided in part`: as claimed in some comparisons, and undecided in all others; `untested`: there
was no case to compare."""

Answer = Literal["yes", "weakly", "no", "undecided"]
"""Of one comparison."""


class Arm(NamedTuple):
    """One side of a comparison."""

    name: str
    values: ArrayLike
    """`[seeds]`"""
    floor: float = -np.inf
    """Where measurement ends: a value at or below says "at most this"."""
    cap: float = np.inf
    """A value at or above says "at least this"."""


class Comparison(NamedTuple):
    """A quantity under one condition, treated and not, by seed."""

    condition: str
    """As it ends a sentence that begins with "holds only": "with tanh and 20 layers"."""
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
    """The ends of the interval; NaN for a single seed. Where a value is at its arm's floor or cap
    the effect is a bound, and the end beyond it infinite (of a factor, 0 or infinite)."""
    as_claimed: bool | None
    """None where the seeds do not decide it."""
    weakly: bool
    """Whether the effect is in the claimed direction and sure, but smaller than the margin; so is
    none that is `as_claimed`."""


class Verdict(NamedTuple):
    """Of one sentence."""

    word: Word
    conditions: str
    """Where only some comparisons come out as claimed: which do, which not, which are undecided; or
    why there is none."""
    judged: Sequence[Judged]

    def __str__(self) -> str:
        colon = " " if self.word == "holds only" else ": "
        return f"{self.word}{colon}{self.conditions}" if self.conditions else self.word


def judge(comparison: Comparison) -> Judged:
    """The effect, its interval, and whether the comparison came out as claimed.

    A difference is as claimed if its interval excludes 0 and its mean is `margin` or more, weakly
    so if the mean is less, and is not if the interval excludes one of `margin`. "Same" is as
    claimed if the whole interval lies within the margin to both sides, "not more" and "not less" if
    it lies on the right side of the margin to one; they are not if the interval lies beyond.
    Otherwise, or where a value is not finite, the seeds do not decide: let a quantity that can
    diverge be cut off before, and say where (`Arm.floor`, `Arm.cap`), so that nothing is concluded
    from what lies beyond.

    Raises:
      ValueError: for arms of different or no seeds, values that are not positive as a ratio, or a
        margin that is out of range.
    """
    arms = comparison.treated, comparison.control
    treated, control = (np.asarray(arm.values, np.float64) for arm in arms)
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
    (treated_low, treated_high), (control_low, control_high) = map(_beyond, arms)
    if treated_low or control_high:
        low = -np.inf
    if treated_high or control_low:
        high = np.inf
    as_claimed = _as_claimed(comparison.expected, effect, low, high, margin)
    weakly = as_claimed is not True and _weakly(comparison.expected, effect, low, high, margin)
    if comparison.ratio:
        effect, low, high = (float(np.exp(x)) for x in (effect, low, high))
    return Judged(comparison, effect, low, high, as_claimed, weakly)


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


def _weakly(expected: Expected, effect: float, low: float, high: float, margin: float) -> bool:
    if expected not in ("less", "more"):
        return False
    if expected == "less":
        effect, low, high = -effect, -high, -low
    # where the effect is but a bound, the true one may be of any size
    return bool(low > 0 and effect < margin and np.isfinite(high))


def _beyond(arm: Arm) -> tuple[bool, bool]:
    """Whether a true value may be below its measured one, and above."""
    values = np.asarray(arm.values, np.float64)
    values = values[np.isfinite(values)]
    return bool(np.any(values <= arm.floor)), bool(np.any(values >= arm.cap))


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
    found = {answer(j) for j in judged}
    if found == {"yes"}:
        return Verdict("holds", "", judged)
    if found == {"weakly"}:
        return Verdict("holds weakly", _too_little(judged), judged)
    if not found & {"yes", "weakly"}:
        return Verdict("does not hold" if "no" in found else "undecided", "", judged)
    before: dict[Answer, str] = {
        "yes": "",
        "weakly": "weakly ",
        "no": "not ",
        "undecided": "undecided ",
    }
    conditions = "; ".join(how + _where(judged, a) for a, how in before.items() if a in found)
    if "no" in found or {"yes", "weakly"} <= found:
        return Verdict("holds only", conditions, judged)
    return Verdict("decided in part", f"holds {conditions}", judged)


def answer(judged: Judged) -> Answer:
    """How a comparison came out."""
    if judged.as_claimed:
        return "yes"
    if judged.weakly:
        return "weakly"
    return "undecided" if judged.as_claimed is None else "no"


def _where(judged: Sequence[Judged], kind: Answer) -> str:
    return "; ".join(j.comparison.condition for j in judged if answer(j) == kind)


def _too_little(judged: Sequence[Judged]) -> str:
    margins = dict.fromkeys(margin_text(j.comparison) for j in judged if j.weakly)
    return (
        "the effect is in the claimed direction and sure, but smaller than the margin of "
        f"{' or '.join(margins)} set beforehand"
    )


def margin_text(comparison: Comparison) -> str:
    """`×1.5` or `0.005`"""
    return f"{'×' if comparison.ratio else ''}{comparison.margin:g}"


def effect_text(judged: Judged) -> str:
    """`×0.31 (0.25 to 0.38)` or `-0.042 (-0.05 to -0.034)`; `≤ ×0.31 (at most 0.38)` as a bound."""
    ratio = judged.comparison.ratio
    sign, plus = ("×", "") if ratio else ("", "+")
    effect, low, high = (f"{x:{plus}.3g}" for x in (judged.effect, judged.low, judged.high))
    no_low, no_high = judged.low == (0 if ratio else -np.inf), judged.high == np.inf
    if no_low and no_high:
        return "not measured: out of range"
    if no_low or no_high:
        other, bound = (f"at most {high}", "≤") if no_low else (f"at least {low}", "≥")
        return f"{bound} {sign}{effect} ({other})"
    return f"{sign}{effect}" + (f" ({low} to {high})" if np.isfinite(judged.low) else "")
