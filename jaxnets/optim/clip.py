"""Clipping of updates, by value and by the norm of all of them together."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.hyper import POSITIVE, Hyper, transformation
from jaxnets.optim.leaves import map_updates
from jaxnets.optim.transform import GradientTransformation, State, Updates, empty_state
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params


@transformation(max_delta=POSITIVE)
def clip(max_delta: Hyper) -> GradientTransformation:
    """Clip each value of the updates to `[-δ, δ]`; NaN stays NaN.

    Args:
      max_delta: `δ > 0`, a number, an array or a schedule.

    Raises:
      ValueError: for a number outside its range.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return map_updates(lambda g: jnp.clip(g, -max_delta, max_delta), updates), state

    return GradientTransformation(empty_state, update)


@transformation(max_norm=POSITIVE)
def clip_by_global_norm(max_norm: Hyper) -> GradientTransformation:
    """Scale all updates down together where their joint norm exceeds `c`: `u = g min(1, c / ‖g‖)`.

    Large gradients do not overflow while `‖g‖` stays below 8e37 (in float32, and also for
    gradients of lower precision), and the derivative at 0 is finite. As in Optax, NaN anywhere
    makes all updates NaN; infinity (without NaN) makes its own entries NaN and all others 0. Put a
    check for finite gradients before it if those occur.

    Args:
      max_norm: `c > 0`, a number, an array or a schedule.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = chain(clip_by_global_norm(1.0), adam(1e-3))

    References:
      Pascanu et al., [On the difficulty of training recurrent neural
      networks](https://arxiv.org/abs/1211.5063), 2012.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        norm = global_norm(updates)
        within = norm < max_norm
        # the branch not taken must have a finite derivative too
        divisor = jnp.where(within, 1, norm)

        def shrink(g: Array) -> Array:
            return jnp.where(within, g, g / divisor * max_norm)

        return map_updates(shrink, updates), state

    return GradientTransformation(empty_state, update)
