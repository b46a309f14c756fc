"""Squares on the way back: norms from a backward pass that keeps no factors.

A probe is an identity behind a site. When the error signal comes back to it, the factors are both
there for a moment, the example's operand and the error signal; their squared norm is all that is
kept. So `checkpoint` keeps its saving, and a scan over layers holds one layer's factors at a time.

It squares what is at one site, so the parameters there must have no other use but of other parts,
and each turn of a loop elements of its own: else there are products across, of both sides.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.graph import (
    Input,
    Key,
    Node,
    Part,
    apart,
    inputs_of,
    rearranged,
    trained_inputs,
)
from jaxnets.gradients.plans import Used, choose
from jaxnets.gradients.site_record import Place, Probe, Record, Site, Sites
from jaxnets.gradients.squares import squares
from jaxnets.gradients.uses import Use, before, parameters, uses, view
from jaxnets.types import Array


def squared_on_the_way_back(sites: Sites, total: Array) -> dict[Place, Probe]:
    """Probes for all sites that can have one; the derivative by `total` becomes their sum."""
    found = [use for use, _ in uses(sites, sites_like(sites))]
    parts: dict[Key, list[Part | None]] = defaultdict(list)
    for use in found:
        for key in parameters(use):
            seen = view(use)
            parts[key].append(None if seen is None else seen.part)
    return {
        use.site.place: _probe(total)
        for use in found
        if all(apart(parts[key]) for key in parameters(use)) and _own_at_each_turn(use)
    }


def sites_like(sites: Sites) -> list[Any]:
    """Nothing for each site."""
    return [None if isinstance(site, Site) else sites_like(site.sites) for site in sites]


def _own_at_each_turn(use: Use) -> bool:
    inputs = trained_inputs(_nodes(use.site))
    for loop in reversed(use.loops):
        if any(key not in loop.sliced or not rearranged(loop.sliced[key]) for key in inputs):
            return False
        outside = trained_inputs([before(key, loop) for key in inputs])
        if len(outside) != len(inputs):
            return False
        inputs = outside
    return True


def _nodes(site: Site) -> list[Node]:
    return [node for node in site.operands if node is not None]


def _probe(total: Array) -> Probe:
    def probe(record: Record, site: Site, results: list[Any], given: list[Any]) -> list[Any]:
        known = inputs_of(_nodes(site))
        values = [record.values[key] for key in known]

        @jax.custom_vjp
        def seen(total: Array, results: list[Any], given: list[Any], values: list[Any]) -> Any:
            return results

        def forward(
            total: Array, results: list[Any], given: list[Any], values: list[Any]
        ) -> Any:  # fmt: skip
            return results, (given, values)

        def backward(kept: Any, errors: list[Any]) -> Any:
            given, values = kept
            found = _squares(site, known, dict(zip(known, values, strict=True)), given, errors)
            return found.astype(total.dtype), errors, None, None

        seen.defvjp(forward, backward)
        passed: list[Any] = seen(total, results, given, values)
        return passed

    return probe


def _squares(
    site: Site, known: Mapping[Key, Input], values: Mapping[Key, Any], given: Sequence[Any],
    errors: Sequence[Any],
) -> Array:  # fmt: skip
    """`Σ‖g‖²` of one example, over the parameters of one site."""
    use = Use(site, ())
    # as of a batch of one
    saved, error = jax.tree.map(lambda x: x[None], (list(given), list(errors)))
    used = [Used(use, view(use), saved, error)]
    total = jnp.zeros((), jnp.float32)
    for key, node in known.items():
        if node.trained:
            plan = choose(used, values[key])
            (one,) = squares(plan, used, key, values, 1)
            total = total + one
    return total
