"""A loss run with taps at all its sites, and what is measured there."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.activations import NONLINEARITIES, TAG, tag_of
from jaxnets.gradients.measures import Measures, Spread, example_norms, measure_each
from jaxnets.gradients.program import NO_PROBES, Traced, find, no_taps
from jaxnets.gradients.site_flow import AFTER, About, Flow, SiteFlow, norm, ratio
from jaxnets.gradients.sites import Place, Site, Watch
from jaxnets.gradients.unit_rows import Axes, UnitRows, unit_axes, unit_rows
from jaxnets.gradients.uses import PRODUCTS, Use, parameters, sliced, uses
from jaxnets.types import Array, Params, PyTree

_EXAMPLES = "examples"


def look(
    traced: Traced,
    batch: tuple[PyTree, ...],
    examples: int,
    batched: bool,
    rank_rows: int,
    rows: int | None,
) -> tuple[Array, PyTree, Params, Flow]:
    """The loss, its aux, its gradient and the flow, from one forward and one backward pass."""
    record = find(traced, watch=lambda site, results, given: ())
    axes = unit_axes(record, batched)
    watch = _watch(axes, batched, rows)
    taps = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), record.shapes)
    taps = taps if batched else no_taps(traced, record)

    def forward(leaves: list[Array], taps: list[Any]) -> Any:
        def each(taps: list[Any], example: tuple[PyTree, ...]) -> Any:
            value, aux, now = traced.one(leaves, taps, example, NO_PROBES, watch)
            return value, aux, now.saved

        if batched:
            value, aux, saved = each(taps, batch)
            return value, (aux, saved, jnp.full((), jnp.nan))
        losses, aux, saved = jax.vmap(each, out_axes=(0, 0, None), axis_name=_EXAMPLES)(taps, batch)
        return jnp.mean(losses), (aux, saved, jnp.std(losses))

    value, backward, (aux, saved, loss_std) = jax.vjp(forward, traced.leaves, taps, has_aux=True)
    gradient, errors = backward(jnp.ones_like(value))

    looked: list[_Looked] = []
    seen: dict[Any, Any] = {}
    for (use, (activation, entering)), (_, (error, *_)) in zip(
        uses(tuple(record.sites), saved), uses(tuple(record.sites), errors), strict=True
    ):
        # turns first, then examples
        depth = len(use.loops)
        error = error if batched else jnp.moveaxis(error, 0, depth)
        own = not batched or (error.ndim > depth and error.shape[depth] == examples)
        unknown = jnp.full((*error.shape[:depth], 1), jnp.nan)
        few = partial(unit_rows, axes=axes[use.site.place], batched=batched, count=rows)
        for _ in range(depth):
            few = jax.vmap(few)
        same = id(error), axes[use.site.place]
        if same not in seen:
            # a sum's error signal is that of what it is added to
            norms = examples * example_norms(error, depth) if own else unknown
            scaled = jax.tree.map(lambda x: examples * x, few(error))
            seen[same] = error, norms, scaled
        looked.append(_Looked(use, seen[same][1], activation, seen[same][2], entering))
    sites = _named(traced, _measured(looked, rank_rows), gradient)
    flow = Flow(value, loss_std, sites)
    return value, aux, jax.tree.unflatten(traced.structure, gradient), flow


class _Looked(NamedTuple):
    """Of one use of a site."""

    use: Use
    norms: Array
    """`‖δᵢ‖`, `[turns …, B]`"""
    activation: UnitRows
    error: UnitRows
    entering: UnitRows | None
    """None where it is not looked at."""


def _watch(axes: Axes, batched: bool, rows: int | None) -> Watch:
    """Keeps rows of a site's result, and of what entered."""

    def together(x: Array) -> Array:
        x = lax.stop_gradient(x)
        return x if batched else lax.all_gather(x, _EXAMPLES)

    def watch(site: Site, results: list[Any], given: list[Any]) -> tuple[UnitRows, UnitRows | None]:
        result = unit_rows(together(results[0]), axes[site.place], batched, rows)
        # what another site's result was is measured there
        if site.kind not in ("dot", "conv") or site.after is not None:
            return result, None
        last = (jnp.ndim(given[0]) - 1,) if jnp.ndim(given[0]) > batched else ()
        return result, unit_rows(together(given[0]), last, batched, rows)

    return watch


def _measured(
    looked: Sequence[_Looked], rank_rows: int
) -> Iterable[tuple[_Looked, Measures, Measures, Spread]]:
    """With each, what is measured of its activation, its error and what entered."""
    asked: list[tuple[UnitRows, str, int]] = []
    for one in looked:
        kind = one.use.site.kind
        ranked = rank_rows if kind in (*PRODUCTS, TAG) else 0
        asked += [(one.activation, kind, ranked), (one.error, kind, ranked)]
        asked += [] if one.entering is None else [(one.entering, "", 0)]
    found = iter(measure_each(asked))
    spreads: dict[Place, Spread] = {}
    for one in looked:
        site, activation, error = one.use.site, next(found), next(found)
        spreads[site.place] = activation.spread
        if one.entering is not None:
            entering = next(found).spread
        elif site.kind in ("dot", "conv") and site.after is not None:
            entering = spreads[site.after]
        else:
            entering = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), activation.spread)
        yield one, activation, error, entering


def _named(
    traced: Traced, looked: Iterable[Any], gradient: Sequence[Array]
) -> "OrderedDict[str, SiteFlow]":
    named: OrderedDict[str, SiteFlow] = OrderedDict()
    before, layers = "", {}
    for (use, norms, *_), activation, error, entering in looked:
        kind, loop = use.site.kind, use.site.place[:-1]
        turns = tuple(activation.spread.mean.shape)
        unknown = weight = slope = jnp.full(turns, jnp.nan)
        path = None
        if kind == TAG:
            name = tag_of(use.site.equation)
        elif kind in NONLINEARITIES:
            name = before + AFTER + kind
        else:
            key: Any = parameters(use)[0]
            name = before = path = traced.paths[key]
            layers[loop] = sliced(use)
            weight, slope = (norm(x[key], layers[loop], turns) for x in (traced.leaves, gradient))
        about = About(kind, path, use.site.place, layers.get(loop, (False,) * len(turns)))
        named[_unused(name, named)] = SiteFlow(
            activation=activation.spread,
            entering=entering,
            error=error.spread,
            error_norm=jnp.mean(norms, -1),
            error_norm_std=jnp.std(norms, -1),
            weight_norm=weight,
            gradient_norm=slope,
            gradient_ratio=ratio(slope, weight),
            update_ratio=unknown,
            dead=activation.dead if kind == "relu" else error.dead,
            saturated=activation.saturated,
            differing=jnp.maximum(activation.differing, error.differing),
            activation_rank=activation.rank,
            error_rank=error.rank,
            units=jnp.full(turns, activation.units, jnp.int32),
            about=about,
        )
    return named


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free
