"""What is wrong with a net at one step, told from its flow."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.gradients.activations import NONLINEARITIES
from jaxnets.gradients.measures import Spread
from jaxnets.gradients.site_flow import Flow, SiteFlow
from jaxnets.gradients.turns import turn_by_turn
from jaxnets.types import Array

GONE = 1e-3
"""Of an error signal on its way back, from where on it has vanished (or, inverted, exploded): a
layer whose steps are a thousandth of another's does not train beside it."""
ALIKE = 1e-10
"""Share of squares, below which what differs between units is rounding of float32."""

_LAYERS = ("dot", "conv")


class Finding(NamedTuple):
    """One trouble; as a string, a sentence."""

    trouble: str
    """`non-finite`, `symmetric`, `dead units`, `saturation`, `exploding`, `vanishing`,
    `no gradient`, `learning rate too high`, `learning rate too low`, `plateau` or `overfitting`."""
    where: str
    """The site, or what of the run."""
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.trouble} at {self.where}: {self.evidence}. {self.advice}."


def _largest(values: ArrayLike) -> float:
    """Over turns."""
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else float("nan")


def layers_of(sites: Mapping[str, SiteFlow]) -> dict[str, SiteFlow]:
    """Matrix products and convolutions with parameters."""
    return {n: s for n, s in sites.items() if s.about.kind in _LAYERS}


def findings_of_step(flow: Flow) -> Iterator[Finding]:
    """Causes before what follows from them."""
    sites = dict(turn_by_turn(flow, layers_only=True))
    if broken := _non_finite(sites, flow.loss):
        yield broken
        return
    parts = (_symmetric, _dead, _saturated, _through_depth, _through_turns)
    found = [finding for part in parts for finding in part(sites)]
    yield from found
    yield from _without_gradient(sites, explained=bool(found))


def _finite(spread: Spread, masks: bool = False) -> bool:
    """Whether all values are, or, where `masks` are let pass, are not NaN or +inf."""
    low = ~np.isnan(spread.min) if masks else np.isfinite(spread.min)
    return bool(low.all() and np.isfinite(spread.max).all())


def _non_finite(sites: dict[str, SiteFlow], loss: Array) -> Finding | None:
    # -inf is how one leaves out what softmax is not to see, as long as nothing comes of it
    masks = bool(np.isfinite(loss)) and all(_finite(site.error) for site in sites.values())
    for name, site in sites.items():
        if site.about.kind in _LAYERS and not _finite(site.entering, masks):
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
    for name, site in layers_of(sites).items():
        units = int(_largest(site.units))
        # behind units that are all dead nothing arrives, in which others could differ
        fed = np.any(site.entering.max != 0) or np.any(site.entering.min != 0)
        if units > 1 and fed and _largest(site.differing) < ALIKE:
            yield Finding(
                "symmetric", name,
                f"all {units} units have the same activation and the same error signal, so that "
                "they stay one unit",
                "Draw the weights at random",
            )  # fmt: skip
            return


def _hidden(sites: dict[str, SiteFlow]) -> Iterator[tuple[str, SiteFlow]]:
    """Sites up to the last parameter: behind it is the loss, of which a hinge that is 0 is no dead
    unit, and a probability near 0 or 1 no saturated one."""
    trained = [i for i, s in enumerate(sites.values()) if s.about.path is not None]
    return islice(sites.items(), max(trained, default=-1) + 1)


def _dead(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    for name, site in _hidden(sites):
        if site.about.kind != "relu":
            continue
        units, dead = int(_largest(site.units)), float(np.nanmin(site.dead))
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
            units = int(_largest(site.units))
            yield Finding(
                "saturation", name,
                f"{share:.0%} of {units} units have less than a tenth of the largest slope",
                "Draw smaller weights, scale the inputs, or normalize before it",
            )  # fmt: skip
            return


def _through_depth(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    # to where nothing at all arrives, something else is wrong than depth: see `_without_gradient`
    reached = [(size, name) for size, name in map(max, _parallel(layers_of(sites))) if size > 0]
    if len(reached) < 2:
        return
    sizes, names = np.array([size for size, _ in reached]), [name for _, name in reached]
    before = np.maximum.accumulate(sizes)[:-1]
    behind = np.maximum.accumulate(sizes[::-1])[::-1][1:]
    if sizes.max() > sizes[-1] / GONE:
        at = int(sizes.argmax())
        yield Finding(
            "exploding", names[at],
            f"the error signal grows from {sizes[-1]:.2g} at {names[-1]} to {sizes[at]:.2g} "
            f"({_gain(sizes[at], sizes[-1], len(sizes) - 1 - at)})",
            "Draw smaller weights (He, Xavier), normalize, or clip gradients",
        )  # fmt: skip
    elif (gone := np.flatnonzero(before < GONE * behind)).size:
        at = int(gone[-1])
        yield Finding(
            "vanishing", names[at],
            f"the error signal shrinks from {behind[at]:.2g} behind it to {sizes[at]:.2g} there "
            f"and {sizes[0]:.2g} at {names[0]} "
            f"({_gain(sizes[0], sizes[-1], len(sizes) - 1)})",
            "Draw larger weights (He, Xavier), or use relu, residual connections, normalization",
        )  # fmt: skip


def _parallel(layers: dict[str, SiteFlow]) -> list[list[tuple[float, str]]]:
    """Sizes of error signals and names, of layers that the same value enters together."""
    groups: list[list[tuple[float, str]]] = []
    beside: tuple[int, ...] | None = None
    places: set[tuple[int, ...]] = set()
    # where it is not known which axis is that of examples, rows stand for them
    size = _of_a_row if any(np.isnan(s.error_norm).any() for s in layers.values()) else _of_examples
    for name, site in layers.items():
        about = site.about
        if about.beside != beside or about.place in places:
            groups, beside, places = [*groups, []], about.beside, set()
        places.add(about.place)
        groups[-1].append((_largest(size(site)), name))
    return groups


def _of_examples(site: SiteFlow) -> Array:
    return site.error_norm


def _of_a_row(site: SiteFlow) -> Array:
    return np.hypot(site.error.mean, site.error.std) * np.sqrt(site.units)  # type: ignore


def _gain(far: float, near: float, steps: int) -> str:
    if steps == 0:
        return "at once"
    return f"{(far / near) ** (1 / steps):.2g} times at each of {steps}"


def _through_turns(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    """Of the site that has the strongest signal, in a loop whose turns follow from each other."""
    looped = {
        n: s for n, s in sites.items()
        if s.error_norm.ndim == 1 and s.about.kind not in NONLINEARITIES and _carried(s)
    }  # fmt: skip
    looped = {n: s for n, s in looped.items() if len(s.error_norm) > 2 and s.error_norm.max() > 0}
    if not looped:
        return
    name = max(looped, key=lambda n: float(looped[n].error_norm.max()))
    sizes = looped[name].error_norm
    # without error signal at all is what comes before the data, as padding
    turns = np.flatnonzero(sizes > 0)
    if _of_loop(looped[name], "reverse"):
        turns = turns[::-1]
    first, last = int(turns[0]), int(turns[-1])
    gain = _gain(float(sizes[first]), float(sizes[last]), abs(last - first))
    told = f"from {sizes[last]:.2g} at turn {last} to {sizes[first]:.2g} at turn {first} ({gain})"
    if sizes[first] < GONE * sizes.max():
        yield Finding(
            "vanishing", name, f"through the loop the error signal shrinks {told}",
            "Start recurrent weights orthogonal, use gates (LSTM, GRU) or residual connections",
        )  # fmt: skip
    elif sizes.max() > sizes[last] / GONE:
        yield Finding(
            "exploding", name, f"through the loop the error signal grows {told}",
            "Clip gradients, start recurrent weights orthogonal",
        )  # fmt: skip


def _carried(site: SiteFlow) -> bool:
    return _of_loop(site, "carries")


def _of_loop(site: SiteFlow, what: str) -> bool:
    """Of the one loop whose turns are still an axis: it is not one over layers."""
    told: tuple[bool, ...] = getattr(site.about, what)
    return next(x for x, layers in zip(told, site.about.sliced, strict=True) if not layers)


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
    # a last layer that starts at 0 lets nothing through in the first step
    if explained or any(np.any(s.weight_norm == 0) for s in layers.values()):
        return
    silent = [n for n, s in layers.items() if np.all(s.error.min == 0) and np.all(s.error.max == 0)]
    if silent:
        more = f", and to {len(silent) - 1} more" if len(silent) > 1 else ""
        yield Finding(
            "no gradient", silent[-1], f"its error signal is exactly 0: nothing comes back{more}",
            "If that is not meant, as of a frozen part: see whether the loss depends on its result",
        )  # fmt: skip
