"""An optimizer's step, one leaf after the other, so that each leaf's numbers stay in the cache.

XLA's CPU backend gives every result a kernel of its own: AdamW's moments and parameters are three,
which read gradient and moments twice. In any order these kernels wait for memory, 40 bytes for each
parameter; in turn, the second reading finds in the cache what the first one left there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.equations import bind
from jaxnets.optim.transform import GradientTransformation, State, Updates, apply_updates
from jaxnets.types import Array, Params

SMALL = 2**14
"""Leaves of fewer elements wait for nothing: they are in the cache, and waiting costs a kernel."""


def _inputs(variable: Any, maker: dict[Any, Any], known: dict[Any, frozenset[Any]]) -> Any:
    """The inputs of the program that a variable is computed from."""
    if hasattr(variable, "val"):
        return frozenset()
    if variable not in known:
        equation = maker.get(variable)
        read = [] if equation is None else equation.invars
        below = [_inputs(v, maker, known) for v in read]
        known[variable] = frozenset({variable} if equation is None else set()).union(*below)
    return known[variable]


def _is_there(x: Array) -> Array:
    """True, which XLA can only know once `x` has been computed; at once on other platforms."""

    def after(first: Array) -> Array:
        bits = lax.bitcast_convert_type(jnp.real(first).astype(jnp.float32), jnp.uint32)
        return (bits & 1) < 2

    first = x.ravel()[0]
    ready: Array = lax.platform_dependent(first, cpu=after, default=lambda first: jnp.array(True))
    return ready


def _evaluate(closed: Any, values: Sequence[Any], n: int) -> list[Any]:
    """All results of a program; what only result `k < n` is made of waits for result `k - 1`."""
    jaxpr = closed.jaxpr
    maker = {v: equation for equation in jaxpr.eqns for v in equation.outvars}
    inputs: dict[Any, frozenset[Any]] = {}
    made_of = [_inputs(v, maker, inputs) for v in jaxpr.outvars[:n]]
    given = dict(zip(jaxpr.invars, values, strict=True))
    computed = given | dict(zip(jaxpr.constvars, closed.consts, strict=True))

    def value(variable: Any) -> Any:
        if hasattr(variable, "val"):
            return variable.val
        if variable not in computed:
            equation = maker[variable]
            results = bind(equation, [value(v) for v in equation.invars])
            computed.update(zip(equation.outvars, results, strict=True))
        return computed[variable]

    ready: Array | None = None
    for k, result in enumerate(jaxpr.outvars[:n]):
        if result.aval.size < SMALL:
            continue
        if ready is not None:
            elsewhere = frozenset().union(*made_of[:k], *made_of[k + 1 :])
            for v in (made_of[k] - elsewhere) & given.keys():
                computed[v] = jnp.where(ready, given[v], jnp.zeros_like(given[v]))
        ready = _is_there(value(result))
    return [value(v) for v in jaxpr.outvars]


def step_in_turn(
    optimizer: GradientTransformation,
    gradients: Updates,
    state: State,
    params: Params,
    **extra: Any,
) -> tuple[Params, State]:
    """`update` and `apply_updates`, one leaf of the parameters after the other.

    For large parameters on a CPU, whose step waits for memory, where all gradients are there
    already: they were clipped by their global norm, accumulated, or arrive packed. (Gradients that
    come one by one from a backward pass are used at once otherwise.) The results are the same, bit
    for bit. On other platforms nothing waits.

    Args:
      optimizer: any; the leaves of one that mixes them wait where they can.
      gradients: as for the optimizer's `update`.
      state: as for `update`.
      params: with leaves of a size that the cache holds several times, such as `Packed` ones with
        `largest`.
      extra: further arguments of `update`.

    Returns:
      The new parameters and the new state.

    Example:
      >>> params, state = step_in_turn(optimizer, gradients, state, params)
    """

    def step(params: Params, state: State, gradients: Updates, extra: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params, **extra)
        return apply_updates(params, updates), state

    arguments = (params, state, gradients, extra)
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*arguments)
    n = len(jax.tree.leaves(params))
    results = _evaluate(closed, jax.tree.leaves(arguments), n)
    new: tuple[Params, State] = jax.tree.unflatten(jax.tree.structure(shapes), results)
    return new
