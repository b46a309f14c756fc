"""Second moments of per-example gradients: the diagonal of the empirical Fisher matrix."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.plans import Used, own_gradients, uses_by_parameter, wide
from jaxnets.gradients.program import Factors, values_of
from jaxnets.types import Array, Params

LARGEST = 2**26
"""Elements of per-example gradients that are held at a time, where they have to be."""


def second_moment(factors: Factors) -> Params:
    """`1/B Σᵢ |gᵢ|²` elementwise, in float32: shaped as the parameters.

    The diagonal of the empirical Fisher matrix.
    """
    moments = second_moments(factors, range(len(factors.params)))
    return factors.program.structure.unflatten(moments)


def second_moments(factors: Factors, leaves: Sequence[int]) -> list[Array]:
    """`second_moment` of some parameters, given by their places among the leaves."""
    values, examples = values_of(factors.params, factors.constants), factors.program.examples

    def moment(i: int, found: Sequence[Used]) -> Array:
        parameter = factors.params[i]
        total = jnp.zeros(parameter.shape, wide(jnp.real(parameter)).dtype)
        if not found:
            return total
        at_once = max(1, min(examples, LARGEST // max(parameter.size, 1)))

        def squared(part: list[Used]) -> Array:
            own = wide(jnp.abs(own_gradients(part, i, values)))
            return jnp.sum(jnp.square(own), 0)

        if at_once == examples:
            return squared(list(found)) / examples
        chunks = examples // at_once

        def cut(start: Any, size: int) -> list[Used]:
            def slice_of(x: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(x, start, size)

            return [Used(u.use, u.seen, *jax.tree.map(slice_of, (u.saved, u.error))) for u in found]

        def add(c: Any, so_far: Array) -> Array:
            return so_far + squared(cut(c * at_once, at_once))

        total = jnp.asarray(jax.lax.fori_loop(0, chunks, add, total))
        rest = examples - chunks * at_once
        if rest:
            total = total + squared(cut(chunks * at_once, rest))
        return total / examples

    by_parameter = uses_by_parameter(factors)
    return [moment(i, by_parameter[i]) for i in leaves]
