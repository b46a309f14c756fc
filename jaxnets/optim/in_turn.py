"""An optimizer's step, one leaf after the other, so that each leaf's numbers stay in the cache.

XLA's CPU backend gives every result a kernel of its own: AdamW's moments and parameters are three,
which read gradient and moments twice. In any order these kernels wait for memory, 40 bytes for each
parameter; in turn, the second reading finds in the cache what the first one left there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxnets.equations import bind, is_there
from jaxnets.optim.transform import GradientTransformation, State, Updates, apply_updates
from jaxnets.types import Array, Params

SMALL = 2**14
"""Leaves of fewer elements wait for nothing: they are in the cache, and waiting costs a kernel."""


def _first_and_last(jaxpr: Any, n: int) -> dict[Any, tuple[int, int]]:
    """For each variable the first and the last of the first `n` results that are made of it."""
    needed: dict[Any, tuple[int, int]] = {}

    def note(variable: Any, first: int, last: int) -> None:
        if not isinstance(variable, Literal):
            before = needed.get(variable, (first, last))
            needed[variable] = min(before[0], first), max(before[1], last)

    for k, result in enumerate(jaxpr.outvars[:n]):
        note(result, k, k)
    for equation in reversed(jaxpr.eqns):
        spans = [needed[v] for v in equation.outvars if v in needed]
        for span in spans:
            for variable in equation.invars:
                note(variable, *span)
    return needed


def _evaluate(closed: Any, values: Sequence[Any], n: int) -> list[Any]:
    """All results of a program; what only result `k < n` is made of waits for result `k - 1`."""
    jaxpr = closed.jaxpr
    needed = _first_and_last(jaxpr, n)

    def turn(equation: Any) -> int:
        return min((needed[v][0] for v in equation.outvars if v in needed), default=n)

    computed = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    computed.update(zip(jaxpr.invars, values, strict=True))
    waiting = sorted(jaxpr.eqns, key=turn)[::-1]
    ready: Array | None = None
    for k, result in enumerate([*jaxpr.outvars[:n], None]):
        waits = result is not None and result.aval.size >= SMALL
        if waits and ready is not None:
            for v in jaxpr.invars:
                if needed.get(v) == (k, k):
                    computed[v] = jnp.where(ready, computed[v], jnp.zeros_like(computed[v]))
        while waiting and turn(waiting[-1]) <= k:
            equation = waiting.pop()
            operands = [v.val if isinstance(v, Literal) else computed[v] for v in equation.invars]
            computed.update(zip(equation.outvars, bind(equation, operands), strict=True))
        if waits:
            ready = is_there(computed[result])
    return [v.val if isinstance(v, Literal) else computed[v] for v in jaxpr.outvars]


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
    come one by one from a backward pass are used at once otherwise.) The results are the same. On
    other platforms nothing waits. Parameters that are split over devices should not wait either:
    each leaf would wait for all devices.

    Args:
      optimizer: any; the leaves of one that mixes them wait where they can.
      gradients: as for the optimizer's `update`.
      state: as for `update`.
      params: with leaves of a size that the cache holds several times, such as `Packed` ones with
        `full`.
      extra: further arguments of `update`.

    Returns:
      The new parameters and the new state.

    Example:
      >>> params, state = step_in_turn(optimizer, gradients, state, params)
    """

    def step(params: Params, state: State, gradients: Updates) -> Any:
        updates, state = optimizer.update(gradients, state, params, **extra)
        return apply_updates(params, updates), state

    arguments = (params, state, gradients)
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*arguments)
    n = len(jax.tree.leaves(params))
    results = _evaluate(closed, jax.tree.leaves(arguments), n)
    new: tuple[Params, State] = jax.tree.unflatten(jax.tree.structure(shapes), results)
    return new
