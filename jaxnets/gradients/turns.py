"""A flow's sites turn by turn: loops written out, as if their bodies stood one after the other."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import jax
import numpy as np

from jaxnets.gradients.site_flow import Flow, SiteFlow


def turn_by_turn(
    flow: Flow, *, layers_only: bool = False, steps: bool = False
) -> list[tuple[str, SiteFlow]]:
    """Sites in the order of the forward pass, `name[turn]` where they stand in a loop.

    Args:
      layers_only: to write out only loops over layers, whose turns have weights of their own; of
        the others, as those through time, turns stay an axis.
      steps: whether the flow is a history, with a first axis of steps.
    """
    found = jax.tree.map(np.asarray, flow).sites.items()
    # a loop without turns has nothing to show
    sites = [(name, site, int(steps)) for name, site in found if site.error_norm.size]
    return [(name, site) for name, site, _ in _written_out(sites, 0, layers_only)]


def _written_out(sites: list[Any], depth: int, layers_only: bool) -> Iterator[Any]:
    """Of `(name, site, axis)`, with the axis of the loop at `depth`."""

    def loop(entry: Any) -> int | None:
        place: tuple[int, ...] = entry[1].about.place
        return place[depth] if len(place) > depth + 1 else None

    for inside, group in groupby(sites, loop):
        together = list(group)
        if inside is None:
            yield from together
        elif layers_only and not any(site.about.sliced[depth] for _, site, _ in together):
            kept = [(name, site, axis + 1) for name, site, axis in together]
            yield from _written_out(kept, depth + 1, layers_only)
        else:
            _, first, axis = together[0]
            turns = range(first.error_norm.shape[axis])
            for turn in reversed(turns) if first.about.reverse[depth] else turns:
                one = [
                    (f"{name}[{turn}]", _at(site, turn, axis, depth), axis)
                    for name, site, _ in together
                ]
                yield from _written_out(one, depth + 1, layers_only)


def _at(site: SiteFlow, turn: int, axis: int, depth: int) -> SiteFlow:
    of_turn: SiteFlow = jax.tree.map(lambda x: np.take(x, turn, axis), site)
    # a site that is not sliced is one of many layers now as those beside it
    sliced = tuple(i == depth or x for i, x in enumerate(site.about.sliced))
    return replace(of_turn, about=site.about._replace(sliced=sliced))
