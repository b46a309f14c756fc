"""What was measured, and what its seeds say of one method beside another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from experiments.claims.verdict import Arm, Comparison, Judged, judge
from experiments.transfer.held_out import Learned

SCRATCH = "scratch"
FROZEN = "frozen"
"""With features of those depths that held-out labels chose, where there is a choice."""
TO_THE_END = "all steps"
"""Of a method that is tuned: whatever its held-out labels say against it."""
MARGIN = 0.005
"""The smallest difference of accuracies that counts."""

Found = Mapping[str, Mapping[int, Sequence[Learned]]]
"""By method and number of labels, of each seed; tuned methods may have only the first seeds."""


def values(results: Sequence[Learned], field: str) -> list[float]:
    """A number of each seed's."""
    return [getattr(result, field) for result in results]


def beside(found: Found, method: str, other: str) -> dict[int, Judged]:
    """How much more accurate the method is, by the same seeds, at each number of labels."""
    compared = {}
    for n, results in found[method].items():
        controls = found[other][n][: len(results)]
        compared[n] = judge(
            Comparison(
                f"with {n:,} labels", "accuracy",
                Arm(method, values(results, "accuracy")), Arm(other, values(controls, "accuracy")),
                "more", MARGIN,
            )
        )  # fmt: skip
    return compared


def said(judged: Judged) -> str:
    """In points, with its interval and what the seeds decide: `+1.2 (+0.3 to +2.1): more`.

    Where no seed was tuned there is nothing to decide: `the same`.
    """
    effect, low, high = (100 * x for x in (judged.effect, judged.low, judged.high))
    if not np.isfinite(low):
        return f"{effect:+.1f} (one seed)"
    if effect == low == high == 0:
        return "the same"
    word = {True: "more", False: "not more", None: "undecided"}[judged.as_claimed]
    return f"{effect:+.1f} ({low:+.1f} to {high:+.1f}): {word}"


def settled(results: Sequence[Learned]) -> str:
    """What each seed's held-out labels chose, or what was fixed as there were too few to choose."""
    counts = Counter(map(_settled, results))
    return "; ".join(what if len(results) == 1 else f"{what} ({n})" for what, n in counts.items())


def _settled(result: Learned) -> str:
    choice = result.choice
    if "kind" in choice:
        what = f"{choice['kind']}, C {choice['strength']:g}"
    elif choice["share"] == 0:
        what = "not tuned"
    else:
        steps = Fraction(choice["share"]).limit_denominator(10)
        what = f"rate {choice['rate']:g}, {'all' if steps == 1 else steps} of the steps"
    return what if choice["chosen"] else f"fixed, not chosen: {what}"


def declined(results: Sequence[Learned]) -> str:
    """How many seeds chose not to tune, of those that had labels to choose by."""
    shares = [r.choice["share"] for r in results if r.choice["chosen"]]
    if not shares:
        return "none could: too few labels"
    return f"{sum(share == 0 for share in shares)} of {len(shares)}"
