"""Transformations without state: from a function, and the one that stops all movement."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.transform import EmptyState, GradientTransformation, State, Updates, empty_state
from jaxnets.types import Array, Params


@by_value
def set_to_zero() -> GradientTransformation:
    """`u = 0`: the parameters stay as they are, integers among them."""

    def zero(g: Any) -> Any:
        # the gradient of an integer, of JAX's dtype float0, is zero already
        return g if jnp.result_type(g) == jax.dtypes.float0 else jnp.zeros_like(g)

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return jax.tree.map(zero, updates), state

    return GradientTransformation(empty_state, update)


@by_value
def stateless(f: Callable[[Updates, Params | None], Updates]) -> GradientTransformation:
    """The transformation `u = f(g, θ)` of whole trees.

    Args:
      f: gets the updates and the parameters (None if `update` gets none).

    Example:
      >>> halved = stateless(lambda updates, params: jax.tree.map(lambda g: g / 2, updates))
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        return f(updates, params), EmptyState()

    return GradientTransformation(empty_state, update)


@by_value
def stateless_with_tree_map(f: Callable[[Array, Array | None], Array]) -> GradientTransformation:
    """The transformation `u = f(g, θ)`, leaf by leaf.

    Args:
      f: gets a gradient, as it is, and its parameter (None if `update` gets none).

    Example:
      >>> decay = stateless_with_tree_map(lambda g, p: g + 1e-4 * p)
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        def step(g: Any, p: Any = None) -> Any:
            return None if g is None else f(g, p)

        trees = (updates,) if params is None else (updates, params)
        mapped: Updates = jax.tree.map(step, *trees, is_leaf=lambda g: g is None)
        return mapped, EmptyState()

    return GradientTransformation(empty_state, update)
