"""The identity, whose gradient is computed once, where XLA would do so for every use of it.

In a residual net `x ← x + f(x)` the gradient by x is a sum over all later layers. XLA's CPU backend
takes additions for cheap and fuses them into whatever uses them, so that every layer adds up all
later ones again, in programs that grow with the square of the depth. It drops
`lax.optimization_barrier` before it fuses; what is left is a choice between two values, of which
only the run shows that it is always the first.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnets.checks import is_split
from jaxnets.equations import true_of
from jaxnets.types import Array

stored_p = Primitive("stored")
"""The identity, for which what it is given is stored (`now`), or else its gradient."""


def stored_gradient(x: Array) -> Array:
    """x; on CPUs the gradient by it is computed once for all that use it.

    Not where x has an explicit sharding, of which no single entry can be looked at.
    """
    y: Array = stored_p.bind(x, now=False)
    return y


def _identity(x: Any, *, now: bool) -> Any:
    return x


def _stored(x: Array, *, now: bool) -> Array:
    if not now or x.size == 0 or is_split(x):
        return x
    kept: Array = lax.cond(true_of(x.ravel()[0]), lambda x: x, jnp.negative, x)
    return kept


def _batched(values: Any, axes: Any, *, now: bool) -> Any:
    return stored_p.bind(*values, now=now), axes[0]


stored_p.def_impl(_identity)
stored_p.def_abstract_eval(_identity)
# the transpose of storing the gradient stores what is given, and the other way round
ad.deflinear2(stored_p, lambda gradient, x, *, now: [stored_p.bind(gradient, now=not now)])
batching.primitive_batchers[stored_p] = _batched
mlir.register_lowering(stored_p, lambda context, x, *, now: [x])
mlir.register_lowering(stored_p, mlir.lower_fun(_stored, multiple_results=False), platform="cpu")
