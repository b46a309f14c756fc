"""The backward pass seen: statistics of activations and error signals at every site of a loss.

The engine's taps (see `sites`) give the error signal wherever a parameter, a tag or a nonlinearity
is met. Activations are measured where they are made, and not kept; error signals come from the
backward pass that also gives the gradient, so that a step that looks has one backward pass.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.activations import TAG, tag_of
from jaxnets.gradients.measures import Measures, Spread, example_norms, measure
from jaxnets.gradients.per_example import check, tracer
from jaxnets.gradients.program import NO_PROBES, Traced, find, no_taps, trace
from jaxnets.gradients.sites import Record, Site, Watch
from jaxnets.gradients.uses import PRODUCTS, Use, parameters, uses, view
from jaxnets.types import Array, Params, PyTree

_EXAMPLES = "examples"
AFTER = " > "
"""Between a parameter's path and the nonlinearity that follows it, in names of sites."""


class SiteFlow(NamedTuple):
    """What one site looks like in one step: scalars, or one for each turn of the loops around it.

    NaN is what does not apply, or is not known.
    """

    activation: Spread
    """Of the site's result; for a layer's bias, what enters the nonlinearity."""
    entering: Spread
    """Of what meets the parameter, at matrix products and convolutions."""
    error: Spread
    """Of the error signal: the derivative of each example's own loss by the site's result."""
    error_norm: Array
    """`‖δᵢ‖` of one example, its mean over the batch."""
    error_norm_std: Array
    """Its spread over the batch."""
    weight_norm: Array
    """`‖θ‖` of the parameter; if a loop over layers slices it, of the slice of each turn."""
    gradient_norm: Array
    """`‖∂L/∂θ‖` of the mean loss; over all turns of a loop that share the parameter."""
    gradient_ratio: Array
    """`‖∂L/∂θ‖ / ‖θ‖`"""
    update_ratio: Array
    """`‖Δθ‖ / ‖θ‖`, once `with_updates` has been told the updates."""
    dead: Array
    """Share of units that are 0 for all examples (`relu`); elsewhere, of those to which no error
    signal came back for any."""
    saturated: Array
    """Share of `tanh` or `sigmoid` units whose mean slope is below a tenth of its largest."""
    differing: Array
    """Which share of the squares differs between units, in activation or error signal, whichever
    has more; 0 if all units are alike."""
    activation_rank: Array
    """Effective rank of some activations, `(Σ σ²)² / Σ σ⁴` of their singular values: about in how
    many directions they lie."""
    error_rank: Array
    """The same of error signals."""
    units: Array
    """How many there are: outputs of a dense layer, channels of a convolution."""


class Flow(NamedTuple):
    """What a step looked like, a pytree of arrays: it passes through `jit`, `scan` and `cond`."""

    loss: Array
    """Mean over the batch."""
    loss_std: Array
    """Over the batch; NaN for a loss of a whole batch."""
    sites: "OrderedDict[str, SiteFlow]"
    """In the order of the forward pass: a parameter's path, `path > relu` for a nonlinearity behind
    it, or a tag; `#2` and so on for a further one of the same name."""


def flow(
    loss: Callable[..., Any],
    *,
    batched: bool = False,
    has_aux: bool = False,
    rank_rows: int = 32,
    rows: int | None = None,
) -> Callable[..., Flow]:
    """`f(params, *batch) -> Flow`; arguments and errors as for `value_and_grad_flow`.

    Example:
      >>> seen = jax.jit(gradients.flow(loss))(params, x, y)
      >>> print(gradients.diagnose(seen))
    """
    whole = value_and_grad_flow(
        loss, batched=batched, has_aux=has_aux, rank_rows=rank_rows, rows=rows
    )

    def apply(params: Params, *batch: PyTree) -> Flow:
        seen: Flow = whole(params, *batch)[2]
        return seen

    return apply


def value_and_grad_flow(
    loss: Callable[..., Any],
    *,
    batched: bool = False,
    has_aux: bool = False,
    rank_rows: int = 32,
    rows: int | None = None,
) -> Callable[..., tuple[Any, Params, Flow]]:
    """The mean loss, its gradient, and what flowed, by one forward and one backward pass.

    Args:
      loss: `loss(params, *example) -> scalar` of one example; or, with `batched`, `loss(params,
        *batch) -> scalar`, the mean over a batch, in which examples may meet (as in batch norm).
      batched: whether `loss` is of a whole batch. Error signals are multiplied by its size, which
        for a mean makes them each example's own; the first axis of activations is taken for that
        of the examples where it is as long, and `error_norm` is NaN elsewhere.
      has_aux: whether `loss` returns `(scalar, aux)`.
      rank_rows: of how many examples and positions the effective ranks are; 0 for none.
      rows: of how many examples and positions, equally far apart, everything else is but the norms
        of error signals, weights and gradients; None for all.

    Returns:
      `f(params, *batch) -> (value, gradient, flow)`, where `value` is `(value, aux)` with
      `has_aux`; aux is stacked for a loss of one example.

    Raises:
      ValueError, TypeError: as `per_example_grad`; with `batched`, batch norm in training is let
        pass, and no leaf but those of the batch is asked for a size.

    Example:
      >>> @jax.jit
      ... def step(params, state, x, y):
      ...     value, gradient, seen = gradients.value_and_grad_flow(loss)(params, x, y)
      ...     updates, state = optimizer.update(gradient, state, params)
      ...     seen = gradients.with_updates(seen, params, updates)
      ...     return optax.apply_updates(params, updates), state, seen
    """
    one = tracer(loss, has_aux=has_aux, keep_batch_dim=False)

    def of_batch(params: Params, *batch: PyTree) -> Any:
        out = loss(params, *batch)
        value, aux = out if has_aux else (out, None)
        if jnp.shape(value) != ():
            raise ValueError(
                f"flow: with batched=True loss must return a scalar, got shape {jnp.shape(value)}; "
                "take the mean over the batch"
            )
        return value, aux

    def apply(params: Params, *batch: PyTree) -> tuple[Any, Params, Flow]:
        if batched:
            check(params, batch)
            together = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
            traced = trace(of_batch, params, together, may_mix=True)
        else:
            traced = one(params, batch)
        examples = len(jax.tree.leaves(batch)[0])
        value, aux, gradient, seen = _run(traced, batch, examples, batched, rank_rows, rows)
        return ((value, aux) if has_aux else value), gradient, seen

    return apply


def with_updates(flow: Flow, params: Params, updates: Params) -> Flow:
    """`flow`, with the ratio of an optimizer's updates to the parameters that they are added to.

    Raises:
      ValueError: if a parameter has no update, or one of another shape.
    """
    weights, steps = _by_path(params), _by_path(updates)
    for path, weight in weights.items():
        if path not in steps or jnp.shape(steps[path]) != jnp.shape(weight):
            got = jnp.shape(steps[path]) if path in steps else "nothing"
            raise ValueError(f"with_updates: {path!r} is {jnp.shape(weight)}, its update is {got}")

    def told(name: str, site: SiteFlow) -> SiteFlow:
        path = name.split("#")[0]
        if path not in weights:
            return site
        shape = jnp.shape(site.weight_norm)
        ratio = _ratio(_norm(steps[path], shape), _norm(weights[path], shape))
        return site._replace(update_ratio=ratio)

    return flow._replace(
        sites=OrderedDict((name, told(name, site)) for name, site in flow.sites.items())
    )


def _by_path(params: Params) -> dict[str, Array]:
    from jaxnets import tree

    return dict(tree.flatten_with_paths(params))


def _norm(x: Array, turns: tuple[int, ...]) -> Array:
    """`‖x‖`, of each slice where its first axes are the turns of loops; one for all where not."""
    own = bool(turns) and jnp.shape(x)[: len(turns)] == turns and jnp.ndim(x) > len(turns)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*(turns if own else ()), -1)
    # a product of the vector with itself: its squares are not written to memory
    return jnp.broadcast_to(jnp.sqrt(jnp.einsum("...i,...i->...", x, x)), turns)


def _ratio(above: Array, below: Array) -> Array:
    return above / jnp.where(below == 0, jnp.nan, below)


def _run(
    traced: Traced,
    batch: tuple[PyTree, ...],
    examples: int,
    batched: bool,
    rank_rows: int,
    rows: int | None,
) -> tuple[Array, PyTree, Params, Flow]:
    record = find(traced, watch=lambda site, results, given: ())
    axes = _unit_axes(record, batched)
    watch = _watch(axes, batched, rank_rows, rows)
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

    def seen_of(use: Use, measured: Any, error: Array) -> Any:
        # turns first, then examples
        depth = len(use.loops)
        error = error if batched else jnp.moveaxis(error, 0, depth)
        own = (not batched) or (error.ndim > depth and error.shape[depth] == examples)
        shift, turns = 0 if batched else 1, error.shape[:depth]

        def one_turn(error: Array) -> Any:
            error = error * examples
            some = _rows(error, tuple(a + shift for a in axes[use.site.place]), rows)
            norms = example_norms(error) if own else jnp.full((1,), jnp.nan)
            product = use.site.kind in (*PRODUCTS, TAG)
            return measure(some, use.site.kind, rank_rows * product), norms

        for _ in turns:
            one_turn = jax.vmap(one_turn)
        return one_turn(error)

    found = [
        (use, measured, seen_of(use, measured, error[0]))
        for (use, measured), (_, error) in zip(
            uses(tuple(record.sites), saved), uses(tuple(record.sites), errors), strict=True
        )
    ]
    sites = _named(traced, found, gradient)
    flow = Flow(value, loss_std, sites)
    return value, aux, jax.tree.unflatten(traced.structure, gradient), flow


def _named(
    traced: Traced, found: Sequence[Any], gradient: Sequence[Array]
) -> "OrderedDict[str, SiteFlow]":
    named: OrderedDict[str, SiteFlow] = OrderedDict()
    before = ""
    for use, (activation, entering), (error, norms) in found:
        kind = use.site.kind
        turns = tuple(activation.spread.mean.shape)
        unknown = jnp.full(turns, jnp.nan)
        key = None
        if kind == TAG:
            name = tag_of(use.site.equation)
        elif all(node is None for node in use.site.operands):
            name = before + AFTER + kind
        else:
            key = parameters(use)[0]
            name = before = traced.paths[key]  # type: ignore[call-overload]
        weight = slope = unknown
        if key is not None:
            own = (seen := view(use)) is None or all(seen.stacked)
            leaf, by_leaf = traced.leaves[key], gradient[key]  # type: ignore[call-overload]
            shape = turns if own else ()
            weight = jnp.broadcast_to(_norm(leaf, shape), turns)
            slope = jnp.broadcast_to(_norm(by_leaf, shape), turns)
        name = _unused(name, named)
        named[name] = SiteFlow(
            activation=activation.spread,
            entering=entering if entering is not None else jax.tree.map(
                lambda x: jnp.full_like(x, jnp.nan), activation.spread),
            error=error.spread,
            error_norm=jnp.mean(norms, -1),
            error_norm_std=jnp.std(norms, -1),
            weight_norm=weight,
            gradient_norm=slope,
            gradient_ratio=_ratio(slope, weight),
            update_ratio=unknown,
            dead=activation.dead if kind == "relu" else error.dead,
            saturated=activation.saturated,
            differing=jnp.maximum(activation.differing, error.differing),
            activation_rank=activation.rank,
            error_rank=error.rank,
            units=jnp.full(turns, activation.units, jnp.int32),
        )  # fmt: skip
    return named


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def _watch(
    axes: Mapping[Any, tuple[int, ...]], batched: bool, rank_rows: int, rows: int | None
) -> Watch:
    """Measures a site's result, and what entered, where they are made."""

    def together(x: Array) -> Array:
        x = lax.stop_gradient(x)
        return x if batched else lax.all_gather(x, _EXAMPLES)

    def watch(site: Site, results: list[Any], given: list[Any]) -> tuple[Measures, Spread | None]:
        shift = 0 if batched else 1
        some = _rows(together(results[0]), tuple(a + shift for a in axes[site.place]), rows)
        product = site.kind in (*PRODUCTS, TAG)
        activation = measure(some, site.kind, rank_rows * product)
        if site.kind not in ("dot", "conv"):
            return activation, None
        x = together(given[0])
        last = (x.ndim - 1,) if x.ndim > 1 else ()
        return activation, measure(_rows(x, last, rows), "", 0).spread

    return watch


def _rows(y: Array, axes: tuple[int, ...], count: int | None) -> Array:
    """`[everything else, units]`, in float32 at least; of about so many rows, if given."""
    y = jnp.abs(y) if jnp.iscomplexobj(y) else y
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    y = jnp.moveaxis(y, axes, tuple(range(y.ndim - len(axes), y.ndim)))
    units = 1
    for size in y.shape[y.ndim - len(axes) :]:
        units *= size
    if not y.size:
        return jnp.zeros((1, max(units, 1)), y.dtype)
    y = y.reshape(-1, units)
    return y if count is None else y[:: -(-len(y) // count)]


def _unit_axes(record: Record, batched: bool) -> dict[Any, tuple[int, ...]]:
    """Which axes of each site's result are units: of a product, those of its parameter.

    A bias or nonlinearity has those of the product before it, if it has the same shape.
    """
    axes: dict[Any, tuple[int, ...]] = {}
    last: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    for use, shapes in uses(tuple(record.sites), record.shapes):
        site, shape = use.site, tuple(shapes[0].shape[len(use.loops) :])
        if site.kind in ("dot", "conv"):
            last = shape, _of_product(site, len(shape))
            axes[site.place] = last[1]
        elif shape == last[0]:
            axes[site.place] = last[1]
        else:
            axes[site.place] = (len(shape) - 1,) if len(shape) > batched else ()
    return axes


def _of_product(site: Site, ndim: int) -> tuple[int, ...]:
    if site.kind == "conv":
        return (site.inner.params["dimension_numbers"].out_spec[1],)
    contracted, shared = site.inner.params["dimension_numbers"]
    n_shared = len(shared[0])
    n_free = (
        len(site.inner.invars[site.operand].aval.shape) - n_shared - len(contracted[site.operand])
    )
    first = n_shared if site.operand == 0 else ndim - n_free
    return (*range(n_shared), *range(first, first + n_free))
