"""What is wrong with a run, told from its losses and the sizes of its steps."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxnets.gradients.site_flow import Flow
from jaxnets.gradients.step_findings import Finding, layers_of

WHOLE_STEP, LARGE_STEP, SMALL_STEP = 1.0, 0.1, 1e-5
"""Of a parameter's norm: one step replaces it; ten do, if all are so; a hundred thousand do. Usual
is 1e-3."""
FELL = 0.05
"""By which share of itself a loss must fall over a run not to be said to stand still."""
ROSE = 0.2
"""By which share of its best a held-out loss may be worse at the end (Prechelt, 1998), as long as
that is less than `FELL` of what it was at the start."""
FEWEST = 8
"""Steps that a run must have for its losses to be judged."""

_Numbers = NDArray[np.float64]


def _quarters(values: _Numbers) -> tuple[float, float]:
    """Medians of the first and last quarter, which single batches do not sway."""
    size = max(1, len(values) // 4)
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def _steps(history: Flow | None) -> tuple[float, float]:
    """Median and maximum over time of the largest update ratio of a layer; NaN if not known.

    Not of layers that start at 0, as heads and adapters do: their first steps are all there is.
    """
    if history is None:
        return float("nan"), float("nan")
    known = [
        s.update_ratio.reshape(len(s.update_ratio), -1).max(1)
        for s in layers_of(history.sites).values()
        if np.isfinite(s.update_ratio).any() and np.all(s.weight_norm[0] > 0)
    ]
    if not known:
        return float("nan"), float("nan")
    largest = np.max(known, 0)
    return float(np.nanmedian(largest)), float(np.nanmax(largest))


def findings_of_run(
    history: Flow | None, losses: _Numbers, held_out: _Numbers
) -> Iterator[Finding]:
    """Rates first: what comes of steps that are too large is not judged besides."""
    step, worst = _steps(history)
    if step > LARGE_STEP or worst > WHOLE_STEP:
        yield Finding(
            "learning rate too high", "the run",
            f"a step changes a layer by {step:.2g} of its norm, and once by {worst:.2g} "
            "(usual is 0.001)",
            "Lower it, or warm up",
        )  # fmt: skip
        return
    if len(losses) < FEWEST or not np.isfinite(losses).all():
        return
    start, end = _quarters(losses)
    stands = f"the loss goes from {losses[0]:.3g} to {end:.3g} in {len(losses)} steps"
    if end > losses[0] + ROSE * abs(losses[0]) and end > start:
        yield Finding(
            "learning rate too high", "the run",
            f"the loss rises from {losses[0]:.3g} to {end:.3g}", "Lower it, or warm up",
        )  # fmt: skip
    elif start - end < FELL * abs(start) and losses[0] - end < FELL * abs(losses[0]):
        if step < SMALL_STEP:
            yield Finding(
                "learning rate too low", "the run",
                f"{stands}, and a step changes a layer by {step:.2g} of its norm (usual is 0.001)",
                "Raise it",
            )  # fmt: skip
        else:
            yield Finding(
                "plateau", "the run", stands,
                "See whether inputs and labels belong together, and whether it can fit ten "
                "examples; then momentum, or another start",
            )  # fmt: skip
    if len(held_out) >= FEWEST and np.isfinite(held_out).all():
        best = int(np.argmin(held_out))
        _, now = _quarters(held_out)
        then = losses[round(best / (len(held_out) - 1) * (len(losses) - 1))]
        rise = now - held_out[best]
        if rise > max(ROSE * abs(held_out[best]), FELL * abs(held_out[0])) and end < then:
            yield Finding(
                "overfitting", "the run",
                f"held-out loss was best, {held_out[best]:.3g}, at {best + 1} of {len(held_out)} "
                f"and is {now:.3g}, while that of training fell from {then:.3g} to {end:.3g}",
                "Stop there, regularize (weight decay, dropout, augmentation), or get more data",
            )  # fmt: skip
