"""What is wrong with a net that does not train, told from its flow, in words with the numbers.

Thresholds (in `step_findings` and `run_findings`) follow from what they say, and are not fitted;
each is named with its reason.
"""

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxnets.gradients.finding import Finding
from jaxnets.gradients.run_findings import findings_of_run, learned
from jaxnets.gradients.site_flow import Flow
from jaxnets.gradients.step_findings import findings_of_step, first_broken

_STANDSTILL = {"symmetric", "dead units", "saturation", "vanishing", "no gradient"}
"""Troubles that explain a loss that stands still."""


def diagnose(
    flow: Flow, *, losses: ArrayLike | None = None, held_out: ArrayLike | None = None
) -> list[Finding]:
    """What is wrong, causes before what follows from them; empty if nothing was found.

    Args:
      flow: of one step; or a history, stacked along a first axis of steps, of which the first is
        looked at, and the last, or that in which something is not finite for the first time. What
        was so at the first step and is no longer is left out if the run has learned since. Steps
        that are all 0, where `lax.cond` did not look, are left out.
      losses: of the steps of a run, `[n]`; a history's own if not given.
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
    if flow.loss.ndim == 0:
        if held_out is not None and losses is None:
            raise ValueError("diagnose: held_out of one step's flow needs the run's losses beside")
        found = list(findings_of_step(flow))
        history, last = None, flow
    else:
        flow = _looked_at(flow)
        losses = flow.loss if losses is None else losses
        broken = first_broken(flow)
        # what follows from it is not judged
        history = None if broken == 0 else jax.tree.map(lambda x: x[:broken], flow)
        last = _step(flow, -1 if broken is None else broken)
        found, at_first = _of_both(_step(flow, 0), last, learned(np.asarray(losses)))
        if broken:
            where = f"at step {broken + 1} of the {len(flow.loss)} that were looked at "
            found[-1] = found[-1]._replace(evidence=where + found[-1].evidence)
    run = np.asarray([] if losses is None else losses, np.float64)
    held = np.asarray([] if held_out is None else held_out, np.float64)
    of_run = list(findings_of_run(history, last, run, held))
    if of_run and of_run[0].trouble == "learning rate too high":
        # what large steps broke is not the cause
        found = [f for f in found if f.trouble in at_first]
        return [*found, *of_run]
    known = {f.trouble for f in found}
    explained = {"plateau", "learning rate too low"} if known & _STANDSTILL else set()
    explained |= known & {"non-finite"}
    return [*found, *(f for f in of_run if f.trouble not in explained)]


def _of_both(first: Flow, last: Flow, learned: bool) -> tuple[list[Finding], set[str]]:
    """What is wrong at the first step, and at the last: what was so from the start is a cause of
    what came later, and is told even if it is over, unless the net has learned since.
    """
    before, now = list(findings_of_step(first)), list(findings_of_step(last))
    at_first, still = ({f.trouble for f in found} for found in (before, now))
    lasting = {True: ", and so it is at the last", False: ""}
    causes = [
        f._replace(evidence=f"at the first step {f.evidence}{lasting[f.trouble in still]}")
        for f in before
        # a loss in the thousands, of signals that explode, halves without that anything is learned
        if f.trouble in still or f.trouble == "exploding" or not learned
    ]
    return [*causes, *(f for f in now if f.trouble not in at_first)], at_first


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
