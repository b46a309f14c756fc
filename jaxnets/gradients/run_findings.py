"""What is wrong with a run, told from its losses and the sizes of its steps."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxnets.gradients.finding import Finding, layers_of
from jaxnets.gradients.site_flow import Flow

WHOLE_STEP, LARGE_STEP, SMALL_STEP = 1.0, 0.1, 1e-5
"""Of a parameter's norm: one step replaces it; ten do, if all are so; a hundred thousand do. Usual
is 1e-3."""
MOVED = 0.05
"""Of a parameter's norm: so far all steps must come, at most, for a loss to have had a chance to
fall."""
FELL = 0.05
"""By which share of itself a loss must fall over a run not to be said to stand still."""
ROSE = 0.2
"""By which share of its best a held-out loss may be worse at the end (Prechelt, 1998), as long as
that is less than `FELL` of what it was at the start."""
FEWEST = 5
"""Losses that a run must have for these to be judged."""
SURE = 3
"""Standard errors from which on a difference is more than the scatter of batches."""

_Numbers = NDArray[np.float64]


def _scatter(losses: _Numbers) -> float:
    """Standard deviation from batch to batch: of second differences, which a trend does not sway;
    the middle one of their sizes, which jumps do not."""
    return float(np.median(np.abs(np.diff(losses, 2)))) / 0.6745 / 6**0.5


def _quarters(values: _Numbers) -> tuple[float, float]:
    """Medians of the first and last quarter, which single batches do not sway."""
    size = max(1, len(values) // 4)
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def _steps(history: Flow | None) -> tuple[float, float, float]:
    """Of the layer with the largest: the median over time of update ratios; and the median and the
    largest of steps beside what a layer is that starts as usual, or what it is if that is more.

    Not of layers that start at 0, as heads and adapters do; and those that start near 0 are all new
    after their first steps, without harm. In a usual one each unit's weights have a norm near 1.
    """
    layers = [] if history is None else [
        s for s in layers_of(history.sites).values()
        if np.isfinite(s.update_ratio).any() and np.all(s.weight_norm[0] > 0)
    ]  # fmt: skip
    if not layers:
        return float("nan"), float("nan"), float("nan")
    usual = [s.update_ratio * np.minimum(1, s.weight_norm / np.sqrt(s.units)) for s in layers]
    largest, worst = (
        np.max([x.reshape(len(x), -1).max(1) for x in ratios], 0)
        for ratios in ([s.update_ratio for s in layers], usual)
    )
    return float(np.nanmedian(largest)), float(np.nanmedian(worst)), float(np.nanmax(worst))


def _by_chance(scatter: float, size: int, single: bool) -> float:
    """By how much a median of `size` losses may differ from another, or from a single loss."""
    of_median = 0.5 * np.pi * scatter**2 / size
    return SURE * float(np.sqrt(of_median + (scatter**2 if single else of_median)))


def _falling(losses: _Numbers) -> bool:
    """From the first quarter to the last."""
    start, end = _quarters(losses)
    chance = _by_chance(_scatter(losses), max(1, len(losses) // 4), False)
    return start - end > max(FELL * abs(start), chance)


def _fell(losses: _Numbers) -> bool:
    """Over a whole run; or, for what learns at once, from its first step."""
    _, end = _quarters(losses)
    chance = _by_chance(_scatter(losses), max(1, len(losses) // 4), True)
    return bool(_falling(losses) or losses[0] - end > max(FELL * abs(losses[0]), chance))


def learned(losses: _Numbers) -> bool:
    """Whether a loss has come down to less than half, or was still falling in the second half."""
    if len(losses) < FEWEST or not np.isfinite(losses).all():
        return False
    start, end = _quarters(losses)
    halved = max(start, losses[0]) > 2 * end if end >= 0 else _fell(losses)
    return bool(halved or _falling(losses[len(losses) // 2 :]))


def _guess(last: Flow, losses: _Numbers) -> int | None:
    """Among how many classes, if the loss is a cross-entropy that has come to stand at that of a
    guess, `ln(classes)`."""
    trained = [s for s in last.sites.values() if s.about.path is not None]
    outputs = int(np.max(trained[-1].units, initial=1)) if trained else 1
    # error signals are probabilities less labels, which both sum to 1
    if outputs < 2 or not np.all(abs(trained[-1].error.mean) < 0.01 * trained[-1].error.std):
        return None
    at_guess = abs(_quarters(losses)[1] - np.log(outputs)) < FELL * np.log(outputs)
    later = losses[len(losses) // 2 :]
    return outputs if len(later) >= FEWEST and at_guess and not _falling(later) else None


def findings_of_run(
    history: Flow | None, last: Flow, losses: _Numbers, held_out: _Numbers, steps: int
) -> Iterator[Finding]:
    """Rates first: what comes of steps that are too large is not judged besides.

    `steps` are those that were made, of which not all may have been looked at.
    """
    step, usual, worst = _steps(history)
    judged = len(losses) >= FEWEST
    broken = np.flatnonzero(~np.isfinite(losses))
    fell = judged and not broken.size and _fell(losses)
    if usual > LARGE_STEP or worst > WHOLE_STEP:
        yield Finding(
            "learning rate too high", "the run",
            f"a step changes a layer by {usual:.2g} of its norm, and once by {worst:.2g} "
            "(usual is 0.001)",
            "Lower it, or warm up",
        )  # fmt: skip
        return
    if broken.size:
        yield Finding(
            "non-finite", "the run",
            f"the loss is {losses[broken[0]]} from step {broken[0] + 1} of {len(losses)} on",
            "Lower the learning rate, clip gradients, or look at the flow of that step",
        )  # fmt: skip
        return
    if not judged:
        return
    start, end = _quarters(losses)
    size = max(1, len(losses) // 4)
    rise = max(ROSE * abs(losses[0]), _by_chance(_scatter(losses), size, True))
    stands = f"the loss goes from {losses[0]:.3g} to {end:.3g} in {len(losses)} steps"
    if end > losses[0] + rise and end > start:
        yield Finding(
            "learning rate too high", "the run",
            f"the loss rises from {losses[0]:.3g} to {end:.3g}", "Lower it, or warm up",
        )  # fmt: skip
    elif not fell and step < SMALL_STEP:
        yield Finding(
            "learning rate too low", "the run",
            f"{stands}, and a step changes a layer by {step:.2g} of its norm (usual is 0.001)",
            "Raise it",
        )  # fmt: skip
    elif not usual * steps < MOVED and (not fell or (guess := _guess(last, losses))):
        there = f" and stands there, where a guess among {guess} is" if fell else ""
        yield Finding(
            "plateau", "the run", stands + there,
            "If it has not learned before: see whether inputs and labels belong together, and "
            "whether it can fit ten examples; then momentum, or another start",
        )  # fmt: skip
    yield from _overfitting(losses, held_out)


def _overfitting(losses: _Numbers, held_out: _Numbers) -> Iterator[Finding]:
    if len(held_out) < FEWEST or not np.isfinite(held_out).all():
        return
    best, size = int(np.argmin(held_out)), max(1, len(held_out) // 4)
    _, now = _quarters(held_out)
    _, end = _quarters(losses)
    then = losses[round(best / (len(held_out) - 1) * (len(losses) - 1))]
    least = max(
        ROSE * abs(held_out[best]),
        FELL * abs(held_out[0]),
        _by_chance(_scatter(held_out), size, True),
    )
    # what is best at the end has not risen since
    if best < len(held_out) - size and now - held_out[best] > least and end < then:
        yield Finding(
            "overfitting", "the run",
            f"held-out loss was best, {held_out[best]:.3g}, at {best + 1} of {len(held_out)} "
            f"and is {now:.3g}, while that of training fell from {then:.3g} to {end:.3g}",
            "Stop there, regularize (weight decay, dropout, augmentation), or get more data",
        )  # fmt: skip
