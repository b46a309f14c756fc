"""Norms in one backward pass, and in a second one a weighted sum: nothing is kept in between.

For losses with `checkpoint`. There the factors would have to be kept for all layers, which is what
`checkpoint` avoids; and the weights of a clipped sum are known only when all error signals have
been seen. So the batch runs back once for the norms (see `probes`) and once more, as an ordinary
backward pass, for `Σ wᵢ gᵢ`. The forward pass, and what `checkpoint` saves in it, serve both.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.gradients.batches import without_padding
from jaxnets.gradients.factors import norms_of_groups, sq_norms, weighted_sum
from jaxnets.gradients.probes import squared_on_the_way_back
from jaxnets.gradients.program import Traced, factorize, factors_of_run, find, no_taps
from jaxnets.types import Array, Params, PyTree


class Run(NamedTuple):
    """A batch that has run forward, and can run back."""

    losses: Array
    aux: PyTree
    norms: Callable[[Sequence[Sequence[int]]], list[Array]]
    """Of each example over groups of parameters, given by their places: `[B]` each."""
    weighted_sum: Callable[[Sequence[Array], Array], Params]
    """`(weights [B] of each parameter, finite [B]) -> Σ wᵢ gᵢ` over those that are finite."""


def run(traced: Traced, *, together: bool = True) -> Run:
    """By factors, or where there is `checkpoint` in two passes.

    Args:
      traced: the loss.
      together: whether norms are asked of all parameters together, and all have the same weights;
        otherwise factors are needed.
    """
    return (_two_passes(traced) if together else None) or _by_factors(traced)


def _by_factors(traced: Traced) -> Run:
    losses, aux, factors = factorize(traced)

    def norms(groups: Sequence[Sequence[int]]) -> list[Array]:
        return norms_of_groups(factors, groups)

    def total(weights: Sequence[Array], finite: Array) -> Params:
        kept = [jnp.where(finite, w, 0) for w in weights]
        return weighted_sum(factors, jax.tree.unflatten(traced.structure, kept))

    return Run(losses, aux, norms, total)


def _two_passes(traced: Traced) -> Run | None:
    """None where that gains nothing: no parameter is in a `checkpoint`; or where half precision
    takes part, in which weights and sums over the batch would be rounded."""
    found = find(traced)
    zero = jnp.zeros((), jnp.float32)
    probes = squared_on_the_way_back(tuple(found.sites), zero)
    if not found.remat or not probes or _is_narrow((found.saved, found.shapes)):
        return None
    record = find(traced, probes)
    examples = traced.examples

    def batched(totals: Array, taps: list[Any], leaves: list[Array]) -> Any:
        def each(total: Array, taps: list[Any], example: tuple[PyTree, ...]) -> Any:
            now = squared_on_the_way_back(tuple(found.sites), total)
            value, aux, run = traced.one(leaves, taps, example, now)
            return value, (aux, run.saved)

        return jax.vmap(each)(totals, taps, traced.batch)

    losses, backward, (aux, saved) = jax.vjp(
        batched, jnp.zeros(examples), no_taps(traced, record), traced.leaves, has_aux=True
    )
    if losses.dtype.itemsize < 4:
        return None

    def norms(groups: Sequence[Sequence[int]]) -> list[Array]:
        def squares(scale: Array) -> Array:
            totals, errors, _ = backward(scale.astype(losses.dtype))
            rest = sq_norms(factors_of_run(traced, record, saved, errors))
            together: Array = totals.astype(rest.dtype) + rest
            return together

        plain = squares(jnp.ones(examples))

        def sums(scales: list[Any]) -> list[Array]:
            if scales[0] is None:
                return [plain]
            scaled = squares(scales[0])
            # an error signal that is 0 in the end may overflow before, if it is scaled from the
            # start
            lost = jnp.isnan(scaled) & jnp.isfinite(plain)
            return [jnp.where(lost, plain * scales[0] * scales[0], scaled)]

        return tree.roots_of_squares(sums, 1)

    def total(weights: Sequence[Array], finite: Array) -> Params:
        kept = jnp.where(finite, weights[0], 0).astype(losses.dtype)
        *_, gradient = backward(kept)

        def without() -> list[Array]:
            # 0 times what is not finite is not 0
            batch = without_padding(traced.batch, finite)

            def loss(leaves: list[Array]) -> Array:
                return jnp.sum(kept * jax.vmap(traced.loss, (None, 0))(leaves, batch))

            some = jnp.any(finite)
            gradient = jax.grad(loss)(traced.leaves)
            rest: list[Array] = [jnp.where(some, g, 0) for g in gradient]
            return rest

        gradient = jax.lax.cond(jnp.all(finite), lambda: gradient, without)
        return jax.tree.unflatten(traced.structure, gradient)

    return Run(losses, aux, norms, total)


def _is_narrow(values: PyTree) -> bool:
    """Whether something is in half precision."""
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(values)]
    return any(jnp.issubdtype(d, jnp.inexact) and d.itemsize < 4 for d in dtypes)
