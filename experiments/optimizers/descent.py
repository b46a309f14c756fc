"""A step with all that any optimizer asks for, and the sweep over learning rates on functions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.optimizers.families import Contender
from experiments.optimizers.functions import Function
from jaxnets import optim
from jaxnets.types import Array, Key, PyTree


class Paths(NamedTuple):
    """Where an optimizer went, and the loss there without noise; the start is step 0."""

    values: np.ndarray
    """`[functions, rates, steps + 1]`"""
    points: np.ndarray
    """`[functions, rates, steps + 1, *shape]`"""


def advance(
    optimizer: optim.GradientTransformation,
    loss: Callable[[PyTree], Array],
    params: PyTree,
    state: PyTree,
) -> tuple[PyTree, PyTree, Array]:
    """A step: the new parameters and state, and the loss before. `optimizer` is a `chain`."""
    value, gradient = jax.value_and_grad(loss)(params)
    # each takes of these what it needs
    extra: dict[str, Any] = {
        "value": value,
        "grad": gradient,
        "value_fn": lambda p, **others: loss(p),
        "obj_fn": loss,
        "grad_fn": lambda p, _: jax.grad(loss)(p),
    }
    updates, state = optimizer.update(gradient, state, params, **extra)
    return optim.apply_updates(params, updates), state, value


def sweep(
    contender: Contender, functions: Sequence[Function], rates: Array, steps: int, key: Key
) -> Paths:
    """All functions at all rates, as one program: a `vmap` over rates, a `scan` over steps.

    The noise is the same for every optimizer and rate. It belongs to the step's loss, whose
    gradient it shifts, so that a line search sees it too.
    """
    losses = tuple(function.loss for function in functions)
    starts = jnp.stack([jnp.asarray(function.start, rates.dtype) for function in functions])
    noises = jnp.asarray([function.noise for function in functions], rates.dtype)
    noise = jax.random.normal(key, (steps, *starts.shape[1:]), rates.dtype)
    values, points = _sweep(contender, losses, starts, noises, noise, rates)
    return Paths(np.asarray(values), np.asarray(points))


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(
    contender: Contender,
    losses: tuple[Callable[[Array], Array], ...],
    starts: Array,
    noises: Array,
    noise: Array,
    rates: Array,
) -> tuple[Array, Array]:
    def path(index: Array, rate: Array) -> tuple[Array, Array]:
        optimizer = optim.chain(contender.make(rate))

        def value_at(x: Array) -> Array:
            value: Array = lax.switch(index, losses, x)
            return value

        def body(carry: tuple[Array, Any], shift: Array) -> tuple[Any, Array]:
            x, state = carry
            here = contender.read(state, x)
            x, state, _ = advance(optimizer, lambda x: value_at(x) + jnp.sum(shift * x), x, state)
            return (x, state), here

        start = starts[index]
        (x, state), points = lax.scan(body, (start, optimizer.init(start)), noises[index] * noise)
        points = jnp.concatenate([points, contender.read(state, x)[None]])
        return jax.vmap(value_at)(points), points

    # `map` keeps the index of the function a scalar: only that function is computed
    paths: tuple[Array, Array] = lax.map(
        lambda index: jax.vmap(partial(path, index))(rates), jnp.arange(len(losses))
    )
    return paths
