"""What is wrong with a net that does not train, told from its flow, in words with the numbers.

Thresholds (in `step_findings` and `run_findings`) follow from what they say, and are not fitted;
each is named with its reason.
"""

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxnets.gradients.finding import Finding
from jaxnets.gradients.run_findings import findings_of_run, learned
from jaxnets.gradients.site_flow import Flow
from jaxnets.gradients.step_findings import findings_of_step, finite_steps

_STANDSTILL = {"symmetric", "dead units", "saturation", "vanishing", "no gradient"}
"""Troubles that explain a loss that stands still."""


def diagnose(
    flow: Flow, *, losses: ArrayLike | None = None, held_out: ArrayLike | None = None
) -> list[Finding]:
    """What is wrong, causes before what follows from them; empty if nothing was found.

    Args:
      flow: of one step; or a history, stacked along a first axis of steps, of which the first is
        looked at, and the last, or that from which on something is not finite. What was so at the
        first step and is no longer is left out if the run has learned since. Steps that are not
        finite, but were got over, are told last. Steps that are all 0, where `lax.cond` did not
        look, are left out.
      losses: of the steps of a run, `[n]`; a history's own if not given, which should be those of
        all steps then.
      held_out: losses on data that is not trained on, `[m]`, at equal distances over the run.
        Fewer than 5 of either are not judged.

    Raises:
      ValueError: for a history that looked at no step, or that is stacked along more axes than one;
        for `held_out` of one step without `losses`.

    Example:
      >>> print(*gradients.diagnose(flow), sep="\\n")
      vanishing at 0/kernel: ...
    """
    flow = jax.tree.map(np.asarray, flow)
    if flow.loss.ndim > 1:
        raise ValueError(
            "diagnose: a history has one axis of steps in front, got losses of shape "
            f"{flow.loss.shape}; diagnose each run by itself"
        )
    if flow.loss.ndim == 0 and held_out is not None and losses is None:
        raise ValueError("diagnose: held_out of one step's flow needs the run's losses beside")
    if flow.loss.ndim == 0:
        told = _Told(list(findings_of_step(flow)), set(), [], flow, None)
        run, steps = _run([] if losses is None else losses), 1
    else:
        steps, flow = len(flow.loss), _looked_at(flow)
        run = _run(flow.loss if losses is None else losses)
        told = _of_history(flow, learned(run))
    held = np.asarray([] if held_out is None else held_out, np.float64)
    of_run = list(findings_of_run(told.history, told.last, run, held, max(steps, len(run))))
    if of_run and of_run[0].trouble == "learning rate too high":
        # what large steps broke is not the cause
        found = [f for f in told.found if f.trouble in told.at_first]
        return [*found, *of_run, *told.passing]
    known = {f.trouble for f in told.found}
    explained = {"plateau", "learning rate too low"} if known & _STANDSTILL else set()
    explained |= known & {"non-finite"}
    rest = [f for f in of_run if f.trouble not in explained]
    return [*told.found, *rest, *told.passing]


class _Told(NamedTuple):
    """What the steps tell, apart from the run's losses."""

    found: list[Finding]
    at_first: set[str]
    """Troubles of the first step."""
    passing: list[Finding]
    """Of a step that broke and was got over."""
    last: Flow
    """The step that is judged as the last."""
    history: Flow | None
    """The steps that are finite, if any is."""


def _of_history(flow: Flow, learned: bool) -> _Told:
    finite = finite_steps(flow)
    # from where on nothing is finite
    end = int(np.flatnonzero(finite).max(initial=-1)) + 1
    history = jax.tree.map(lambda x: x[finite], flow) if end else None
    last = _step(flow, min(end, len(finite) - 1))
    now, passing = list(findings_of_step(last)), []
    if end < len(finite):
        now = [_at_step(f, end, len(finite), "") for f in now]
    elif not finite.all():
        bad = int(finite.argmin())
        (broke,) = findings_of_step(_step(flow, bad))
        passing = [_at_step(broke, bad, len(finite), ", and not at the last")]
    before = [] if history is None else list(findings_of_step(_step(history, 0)))
    found, at_first = _of_both(before, now, learned)
    return _Told(found, at_first, passing, last, history)


def _of_both(
    before: list[Finding], now: list[Finding], learned: bool
) -> tuple[list[Finding], set[str]]:
    """What was wrong at the first step, and is at the last: what was so from the start is a cause
    of what came later, and is told even if it is over, unless the net has learned since.
    """
    places = {f.trouble: f.where for f in now}
    causes = []
    for f in before:
        lasting = ""
        if f.trouble in places:
            place = places[f.trouble]
            lasting = ", and so it is at the last" + (f" at {place}" if place != f.where else "")
        # a loss in the thousands, of signals that explode, halves without that anything is learned
        elif learned and f.trouble != "exploding":
            continue
        causes.append(f._replace(evidence=f"at the first step {f.evidence}{lasting}"))
    at_first = {f.trouble for f in before}
    return [*causes, *(f for f in now if f.trouble not in at_first)], at_first


def _run(losses: ArrayLike) -> NDArray[np.float64]:
    """Its losses, without those that were not finite if that has been got over."""
    run = np.asarray(losses, np.float64)
    return run[np.isfinite(run)] if run.size and np.isfinite(run[-1]) else run


def _at_step(finding: Finding, step: int, of: int, besides: str) -> Finding:
    told = f"at step {step + 1} of the {of} that were looked at{besides}, {finding.evidence}"
    return finding._replace(evidence=told)


def _step(history: Flow, i: int) -> Flow:
    step: Flow = jax.tree.map(lambda x: x[i], history)
    return step


def _looked_at(history: Flow) -> Flow:
    """Its steps with any units; all, if there is no site."""
    units = [site.units.reshape(len(history.loss), -1) for site in history.sites.values()]
    looked_at = np.concatenate(units, 1) if units else np.ones((len(history.loss), 1))
    kept = np.any(looked_at, 1)
    if not kept.any():
        raise ValueError(f"diagnose: at none of the {len(kept)} steps was looked")
    looked: Flow = jax.tree.map(lambda x: x[kept], history)
    return looked
