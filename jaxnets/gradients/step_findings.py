"""What is wrong with a net at one step, told from its flow."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxnets.gradients.error_paths import through_depth, through_turns
from jaxnets.gradients.finding import LAYERS, Finding, largest, layers_of
from jaxnets.gradients.measures import Spread
from jaxnets.gradients.site_flow import Flow, SiteFlow
from jaxnets.gradients.turns import turn_by_turn
from jaxnets.types import Array

ALIKE = 1e-10
"""Share of squares, below which what differs between units is rounding of float32."""


def findings_of_step(flow: Flow) -> Iterator[Finding]:
    """Causes before what follows from them."""
    sites = dict(turn_by_turn(flow, layers_only=True))
    if broken := _non_finite(sites, flow.loss):
        yield broken
        return
    parts = (_symmetric, _dead, _saturated, through_depth, through_turns)
    found = [finding for part in parts for finding in part(sites)]
    yield from found
    yield from _without_gradient(sites, explained=bool(found))


def _finite(spread: Spread, masks: bool = False, steps: bool = False) -> Any:
    """Whether all values are, or, where `masks` are let pass, are not NaN or +inf.

    Of one step, or of each of a first axis of `steps`.
    """
    low = ~np.isnan(spread.min) if masks else np.isfinite(spread.min)
    finite = low & np.isfinite(spread.max)
    return np.all(finite, tuple(range(1, finite.ndim)) if steps else None)


def finite_steps(history: Flow) -> NDArray[np.bool_]:
    """In which steps everything is, but for masks of -inf."""
    finite = np.isfinite(history.loss)
    for site in history.sites.values():
        finite = finite & _finite(site.error, steps=True)
        finite = finite & _finite(site.activation, masks=True, steps=True)
        if site.about.kind in LAYERS:
            finite = finite & _finite(site.entering, masks=True, steps=True)
    return finite


def _non_finite(sites: dict[str, SiteFlow], loss: Array) -> Finding | None:
    # -inf is how one leaves out what softmax is not to see, as long as nothing comes of it
    masks = bool(np.isfinite(loss)) and all(_finite(site.error) for site in sites.values())
    for name, site in sites.items():
        if site.about.kind in LAYERS and not _finite(site.entering, masks):
            return Finding(
                "non-finite", f"what enters {name}",
                "it is not finite, while the results of all sites before it are",
                "Look at the data, and at what is done to it before",
            )  # fmt: skip
        if not _finite(site.activation, masks):
            return Finding(
                "non-finite", name, "its result is not finite, while all before it are",
                "Look for overflow, log or division of 0 there; lower the learning rate",
            )  # fmt: skip
    for name, site in reversed(sites.items()):
        if not _finite(site.error):
            return Finding(
                "non-finite", name, "its error signal is not finite, while all behind it are",
                "Look for a derivative that is infinite there, as of sqrt or norm at 0",
            )  # fmt: skip
    if not np.isfinite(loss):
        return Finding("non-finite", "the loss", f"it is {loss}", "Look at its last terms")
    return None


def _symmetric(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    opening = _opening(sites)
    for name, site in layers_of(sites).items():
        units = int(largest(site.units))
        if opening and _all_zero(site.activation) and _all_zero(site.error):
            continue
        # behind units that are all dead nothing arrives, in which others could differ
        fed = np.any(site.entering.max != 0) or np.any(site.entering.min != 0)
        if units > 1 and fed and largest(site.differing) < ALIKE:
            yield Finding(
                "symmetric", name,
                f"all {units} units have the same activation and the same error signal, so that "
                "they stay one unit",
                "Draw the weights at random",
            )  # fmt: skip
            return


def _opening(sites: dict[str, SiteFlow]) -> bool:
    """Whether a factor that is 0 gets a gradient, as last layers, scales of residual branches and
    gates that start at 0: it lets nothing through in this step, and does in the next."""
    return any(
        np.any((s.weight_norm == 0) & (s.gradient_norm != 0)) and _all_zero(s.activation)
        for s in sites.values()
        if not s.about.is_term
    )


def _all_zero(spread: Spread) -> bool:
    return bool(np.all(spread.min == 0) and np.all(spread.max == 0))


def _hidden(sites: dict[str, SiteFlow]) -> Iterator[tuple[str, SiteFlow]]:
    """Sites up to the last parameter: behind it is the loss, of which a hinge that is 0 is no dead
    unit, and a probability near 0 or 1 no saturated one."""
    trained = [i for i, s in enumerate(sites.values()) if s.about.path is not None]
    return islice(sites.items(), max(trained, default=-1) + 1)


def _dead(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    for name, site in _hidden(sites):
        if site.about.kind != "relu":
            continue
        units, dead = int(largest(site.units)), float(np.nanmin(site.dead))
        # at random half are off for one example, and for all if these are much alike
        # though few, through none of which anything passes
        if dead == 1 or dead > 0.5 + 3 * np.sqrt(0.25 / units):
            yield Finding(
                "dead units", name,
                f"{dead:.0%} of {units} units are 0 for every example (by chance half could be)",
                "Lower the learning rate, or start biases at 0; a leaky relu keeps a slope",
            )  # fmt: skip
            return


def _saturated(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    for name, site in _hidden(sites):
        if np.isnan(site.saturated).all():
            continue
        share = float(np.median(site.saturated))
        if share > 0.5:
            units = int(largest(site.units))
            yield Finding(
                "saturation", name,
                f"{share:.0%} of {units} units have less than a tenth of the largest slope",
                "Draw smaller weights, scale the inputs, or normalize before it",
            )  # fmt: skip
            return


def _without_gradient(sites: dict[str, SiteFlow], explained: bool) -> Iterator[Finding]:
    """To a layer, as long as nothing on the way back is 0 on purpose."""
    trained = {n: s for n, s in sites.items() if s.about.path is not None}
    layers = layers_of(sites)
    if not any(np.any(s.gradient_norm != 0) for s in trained.values()):
        yield Finding(
            "no gradient", "all parameters", "the gradient of each is exactly 0",
            "See whether the loss depends on them: a stop_gradient, a cast to integers, an argmax, "
            "or units that are all dead or saturated",
        )  # fmt: skip
        return
    if explained or _opening(sites):
        return
    silent = [n for n, s in layers.items() if _all_zero(s.error)]
    if silent:
        more = f", and to {len(silent) - 1} more" if len(silent) > 1 else ""
        yield Finding(
            "no gradient", silent[-1], f"its error signal is exactly 0: nothing comes back{more}",
            "If it is not meant, as of a frozen part: see whether the loss depends on its result, "
            "and whether the units behind it are off for every example",
        )  # fmt: skip
