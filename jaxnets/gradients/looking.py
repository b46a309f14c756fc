"""A loss run with taps at all its sites, and what is measured there."""

from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.gradients.activations import NONLINEARITIES, TAG, tag_of
from jaxnets.gradients.dataflow import Origin, find_with_origins
from jaxnets.gradients.example_axes import ahead_of_examples
from jaxnets.gradients.graph import narrow
from jaxnets.gradients.measures import (
    DEAD,
    DIFFERING,
    RANK,
    SATURATED,
    SLOPES,
    SPREAD,
    UNITS,
    measure,
)
from jaxnets.gradients.mixing_rules import Along
from jaxnets.gradients.program import NO_PROBES, Traced, no_taps
from jaxnets.gradients.site_flow import (
    AFTER,
    About,
    Flow,
    SiteFlows,
    packed,
    ratio,
)
from jaxnets.gradients.site_norms import example_norms, site_norms
from jaxnets.gradients.site_record import Place, Record, Site, Watch
from jaxnets.gradients.unit_rows import (
    Axes,
    UnitRows,
    extremes_behind,
    is_same,
    unit_axes,
    unit_rows,
)
from jaxnets.gradients.uses import PRODUCTS, Use, parameters, sliced, uses
from jaxnets.types import Array, Params, PyTree

_EXAMPLES = "jaxnets.gradients.flow"
"""A name that no loss has for an axis of its own."""
_NAMED = (TAG, *NONLINEARITIES)
"""Kinds of sites without parameters."""


def look(
    traced: Traced,
    batch: tuple[PyTree, ...],
    examples: int,
    batched: bool,
    rank_rows: int,
    rows: int | None,
) -> tuple[Array, PyTree, Params, Flow]:
    """The loss, its aux, its gradient and the flow, from one forward and one backward pass."""
    record, origins = find_with_origins(traced, examples if batched else None)
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
    met: set[Any] = set()
    seen: dict[Any, Any] = {}
    for (use, (activation, entering)), (_, (error, *_)) in zip(
        uses(tuple(record.sites), saved), uses(tuple(record.sites), errors), strict=True
    ):
        # turns first, then examples
        depth = len(use.loops)
        error = error if batched else jnp.moveaxis(error, 0, depth)
        state = origins[use.site.place].examples if batched else Along(0)
        ahead = ahead_of_examples(state, error.shape[depth:], examples)
        few = partial(unit_rows, axes=axes[use.site.place], batched=batched, count=rows)
        for _ in range(depth):
            few = jax.vmap(few)
        same = id(error), axes[use.site.place], ahead
        if same not in seen:
            # a sum's error signal is that of what it is added to
            if ahead is None:
                norms = jnp.full((*error.shape[:depth], 1), jnp.nan)
            else:
                norms = examples * example_norms(error, examples, depth, ahead)
            scaled = jax.tree.map(lambda x: examples * x, few(error))
            seen[same] = error, norms, scaled
        _, norms, rows_of_error = seen[same]
        looked += [
            _Looked(use, leaf, norms, activation, rows_of_error, entering)
            for leaf in _leaves(use, met)
        ]
        met.update(sliced(use) if use.site.kind not in _NAMED else ())
    sites = _side_by_side(traced, looked, origins, gradient, rank_rows)
    flow = Flow(value, loss_std, sites)
    return value, aux, jax.tree.unflatten(traced.structure, gradient), flow


class _Looked(NamedTuple):
    """Of one use of a site, and one of its parameters."""

    use: Use
    leaf: Any
    """The parameter's place; None for a nonlinearity or a tag."""
    norms: Array
    """`‖δᵢ‖`, `[turns …, B]`"""
    activation: UnitRows
    error: UnitRows
    entering: UnitRows | None
    """None where it is not looked at."""

    @property
    def turns(self) -> tuple[int, ...]:
        return self.norms.shape[:-1]


def _watch(axes: Axes, batched: bool, rows: int | None) -> Watch:
    """Keeps rows of a site's result, and of what entered."""
    last: dict[Place, tuple[Array, UnitRows]] = {}

    def together(x: Array) -> Array:
        x = lax.stop_gradient(x)
        return x if batched else lax.all_gather(x, _EXAMPLES)

    def watch(
        record: Record, site: Site, results: list[Any], given: list[Any]
    ) -> tuple[UnitRows, UnitRows | None]:
        y, own = results[0], axes[site.place]
        extremes = None
        if site.after in last and not jnp.iscomplexobj(y):
            before, seen = last[site.after]
            if is_same(before.shape, axes[site.after], y.shape, own):
                trained = [x for x in site.operands if x is not None and x.trained]
                values = [narrow(x, record.value(x)) for x in trained]
                extremes = extremes_behind(site, y, own, seen, lax.stop_gradient(values))
        result = unit_rows(together(y), own, batched, rows, extremes)
        last[site.place] = y, result
        # what another site's result was is measured there
        if site.kind not in ("dot", "conv") or site.after is not None:
            return result, None
        inner = (jnp.ndim(given[0]) - 1,) if jnp.ndim(given[0]) > batched else ()
        return result, unit_rows(together(given[0]), inner, batched, rows)

    return watch


def _side_by_side(
    traced: Traced,
    looked: Sequence[_Looked],
    origins: Mapping[Place, Origin],
    gradient: Sequence[Array],
    rank_rows: int,
) -> SiteFlows:
    together: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(looked):
        together.setdefault(one.turns, []).append(i)
    found = _found(traced, looked, origins, list(together))
    numbers = []
    for own in together.values():
        members, sliced_by = [looked[i] for i in own], [found[i][1].sliced for i in own]
        both = [
            None if one.leaf is None else x[one.leaf]
            for x in (traced.leaves, gradient)
            for one in members
        ]
        weights, slopes = jnp.split(site_norms(both, 2 * sliced_by, members[0].turns), 2)
        numbers.append(_numbers(members, weights, slopes, rank_rows))
    met = {about.path for _, about, _, _ in found}
    return SiteFlows(tuple(numbers), found, tuple(path for path in traced.paths if path not in met))


def _numbers(looked: Sequence[_Looked], weights: Array, slopes: Array, rank_rows: int) -> Array:
    """`[turns …, S, numbers]` of sites with the same turns, as `SiteFlows` has them."""
    kinds = [one.use.site.kind for one in looked]
    asked: dict[tuple[int, str], tuple[UnitRows, str, int]] = {}

    def ask(seen: UnitRows, kind: str = "", rows: int = 0) -> tuple[int, str]:
        key = id(seen.rows), kind if kind in SLOPES else ""
        ranked = max(rows, asked[key][2] if key in asked else 0)
        asked[key] = seen, kind, ranked
        return key

    activations, errors = [], []
    entering: list[tuple[int, str] | None] = []
    results: dict[Place | None, tuple[int, str]] = {}
    for one, kind in zip(looked, kinds, strict=True):
        ranked = rank_rows if kind in (*PRODUCTS, TAG) else 0
        activations.append(ask(one.activation, kind, ranked))
        errors.append(ask(one.error, "", ranked))
        results[one.use.site.place] = activations[-1]
        if one.entering is not None:
            entering.append(ask(one.entering))
        else:
            entering.append(results.get(one.use.site.after if kind in ("dot", "conv") else None))
    measured = measure(*zip(*asked.values(), strict=True))
    measured = jnp.concatenate([measured, jnp.full_like(measured[:1], jnp.nan)])
    order = {key: n for n, key in enumerate(asked)}

    def of(keys: Sequence[tuple[int, str] | None]) -> Array:
        """`[S, turns …, numbers]` of those; NaN for None."""
        return measured[np.array([-1 if key is None else order[key] for key in keys])]

    activation, error = of(activations), of(errors)
    sizes, spreads = (
        jnp.stack([reduce(one.norms, -1) for one in looked]) for reduce in (jnp.mean, jnp.std)
    )
    relu = np.array([kind == "relu" for kind in kinds]).reshape(-1, *(1 for _ in looked[0].turns))
    others = {
        "error_norm": sizes,
        "error_norm_std": spreads,
        "weight_norm": weights,
        "gradient_norm": slopes,
        "gradient_ratio": ratio(slopes, weights),
        "update_ratio": jnp.full_like(weights, jnp.nan),
        "dead": jnp.where(relu, activation[..., DEAD], error[..., DEAD]),
        "saturated": activation[..., SATURATED],
        "differing": jnp.maximum(activation[..., DIFFERING], error[..., DIFFERING]),
        "activation_rank": activation[..., RANK],
        "error_rank": error[..., RANK],
        "units": activation[..., UNITS],
    }
    spread = [x[..., :SPREAD] for x in (activation, of(entering), error)]
    return jnp.moveaxis(packed(spread, others), 0, -2)


def _found(
    traced: Traced,
    looked: Sequence[_Looked],
    origins: Mapping[Place, Origin],
    turns: Sequence[tuple[int, ...]],
) -> tuple[tuple[str, About, int, int], ...]:
    """Each site's name, what it is, which group of these turns it is in, and where there."""
    found: list[tuple[str, About, int, int]] = []
    sizes = [0] * len(turns)
    taken: set[str] = set()
    last_path: dict[Place, str] = {}
    layers: dict[Place, tuple[bool, ...]] = {}
    products = {one.use.site.place for one in looked if one.use.site.kind in PRODUCTS}
    for use, leaf, norms, *_ in looked:
        kind, place = use.site.kind, use.site.place
        origin, path, loop = origins[place], None, place[:-1]
        if kind == TAG:
            name = tag_of(use.site.equation)
        elif kind in NONLINEARITIES:
            behind = [last_path[of] for of in origin.places if of in last_path]
            name = behind[-1] + AFTER + kind if behind else kind
        else:
            name = path = traced.paths[leaf]
            last_path[place] = path
            layers[loop] = sliced(use)[leaf]
        about = About(
            kind, path, place, layers.get(loop, (False,) * len(use.loops)),
            tuple(x.reverse for x in use.loops), origin.carried,
            tuple(of for of in origin.places if of in products), _is_term(use.site.equation),
        )  # fmt: skip
        group = turns.index(norms.shape[:-1])
        name = _unused(name, taken)
        taken.add(name)
        found.append((name, about, group, sizes[group]))
        sizes[group] += 1
    return tuple(found)


def _is_term(equation: Any) -> bool:
    return equation is None or equation.primitive.name in ("add", "add_any", "sub")


def _leaves(use: Use, met: Set[Any]) -> list[Any]:
    """The first parameter of a site, and those that no site before has."""
    if use.site.kind in _NAMED:
        return [None]
    first, *others = parameters(use)
    return [first, *(leaf for leaf in others if leaf not in met)]


def _unused(name: str, taken: Set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free
