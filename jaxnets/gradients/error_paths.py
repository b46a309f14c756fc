"""How error signals grow and shrink on their way back, through depth and through loops."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnets.gradients.activations import NONLINEARITIES
from jaxnets.gradients.finding import Finding
from jaxnets.gradients.site_flow import About, SiteFlow
from jaxnets.gradients.uses import PRODUCTS
from jaxnets.types import Array

GONE = 1e-3
"""Of an error signal on its way back, from where on it has vanished (or, inverted, exploded): a
layer whose steps are a thousandth of another's does not train beside it."""


class _Layer(NamedTuple):
    name: str
    most: float
    """The largest error signal, over turns that are no layers."""
    least: float
    """The smallest, of turns that have any."""
    before: frozenset[int]
    """Numbers of the layers whose results its own is made of."""


def through_depth(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
    """Along the ways that results take: what stands beside, as another head, is not compared."""
    layers = _layers(sites)
    behind = [[k for k, x in enumerate(layers) if i in x.before] for i in range(len(layers))]
    ends = [
        max([k for k in later if not behind[k]] or [i], key=lambda k: layers[k].most)
        for i, later in enumerate(behind)
    ]
    exploding = [i for i, x in enumerate(layers) if x.least * GONE > layers[ends[i]].most]
    if exploding:
        at = max(exploding, key=lambda i: layers[i].least)
        far, near = layers[at], layers[ends[at]]
        steps = _between(layers, at, ends[at])
        yield Finding(
            "exploding", far.name,
            f"the error signal grows from {near.most:.2g} at {near.name} to {far.least:.2g} "
            f"({_gain(far.least, near.most, steps)})",
            "Draw smaller weights (He, Xavier), normalize, or clip gradients",
        )  # fmt: skip
        return
    for at in reversed(range(len(layers))):
        here, before = layers[at], sorted(layers[at].before)
        if not behind[at]:
            continue
        end = max(behind[at], key=lambda k: layers[k].most)
        near = layers[end]
        if max(here.most, *(layers[i].most for i in before), 0) < GONE * near.most:
            first = min(before, default=at)
            far, steps = layers[first], _between(layers, first, end)
            there = "" if first == at else f"to {here.most:.2g} there and "
            yield Finding(
                "vanishing", here.name,
                f"the error signal shrinks from {near.most:.2g} behind it {there}"
                f"to {far.most:.2g} at {far.name} ({_gain(far.most, near.most, steps)})",
                "Draw larger weights (He, Xavier), or use relu, residual connections, "
                "normalization",
            )  # fmt: skip
            return


def _layers(sites: dict[str, SiteFlow]) -> list[_Layer]:
    """Those to which anything arrives, in the order of the forward pass."""
    products = {n: s for n, s in sites.items() if s.about.kind in PRODUCTS}
    # where it is not known which axis is that of examples, rows stand for them
    unknown = any(np.isnan(s.error_norm).any() for s in products.values())
    size = _of_a_row if unknown else _of_an_example
    sizes = {n: np.asarray(size(s), np.float64) for n, s in products.items()}
    # to where nothing at all arrives, something else is wrong than depth
    reached = {n: s for n, s in products.items() if np.any(sizes[n] > 0)}
    layers: list[_Layer] = []
    numbers: dict[tuple[int, ...], list[int]] = {}
    for i, (name, site) in enumerate(reached.items()):
        arrived = sizes[name][sizes[name] > 0]
        turn = len(numbers.get(site.about.place, ()))
        before = frozenset(
            j
            for place in site.about.made_of
            for own, j in enumerate(numbers.get(place, ()))
            if own == turn or not _turns_apart(site.about, place)
        )
        layers.append(_Layer(name, float(arrived.max()), float(arrived.min()), before))
        numbers.setdefault(site.about.place, []).append(i)
    return layers


def _turns_apart(about: About, place: tuple[int, ...]) -> bool:
    """Whether both stand in loops over layers, of whose turns none follows from another, as over
    the members of an ensemble."""
    layered = [x for x, layers in zip(about.carried, about.sliced, strict=True) if layers]
    return bool(layered) and not any(layered) and place[:-1] == about.place[:-1]


def _of_an_example(site: SiteFlow) -> Array:
    return site.error_norm


def _of_a_row(site: SiteFlow) -> Array:
    return np.hypot(site.error.mean, site.error.std) * np.sqrt(site.units)  # type: ignore


def _between(layers: list[_Layer], far: int, near: int) -> int:
    """How many steps it is from one layer back to another."""
    return sum(far in layers[k].before for k in layers[near].before) + (far != near)


def _gain(far: float, near: float, steps: int) -> str:
    if steps == 0:
        return "at once"
    return f"{(far / near) ** (1 / steps):.2g} times at each of {steps}"


def through_turns(sites: dict[str, SiteFlow]) -> Iterator[Finding]:
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
    return _of_loop(site, "carried")


def _of_loop(site: SiteFlow, what: str) -> bool:
    """Of the one loop whose turns are still an axis: it is not one over layers."""
    told: tuple[bool, ...] = getattr(site.about, what)
    return next(x for x, layers in zip(told, site.about.sliced, strict=True) if not layers)
