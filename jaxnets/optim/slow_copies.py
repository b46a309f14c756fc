"""Parameters that follow others slowly: averages of a run, and target networks."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.types import ArrayLike, Params


def incremental_update(new_tensors: Params, old_tensors: Params, step_size: ArrayLike) -> Params:
    """`α new + (1 - α) old`, a moving average of parameters (Polyak's), in the dtypes of `old`.

    Args:
      new_tensors: the parameters; where they are None, so is the result.
      old_tensors: the average so far.
      step_size: `α` in [0, 1].

    References:
      Polyak and Juditsky, [Acceleration of stochastic approximation by
      averaging](https://epubs.siam.org/doi/10.1137/0330046), 1992.
    """

    def average(new: Any, old: Any) -> Any:
        if new is None:
            return None
        dtype = jnp.result_type(old)
        wide = jnp.promote_types(dtype, jnp.float32)
        return (step_size * jnp.asarray(new, wide) + (1 - step_size) * old).astype(dtype)

    averaged: Params = jax.tree.map(average, new_tensors, old_tensors, is_leaf=lambda x: x is None)
    return averaged


def periodic_update(
    new_tensors: Params, old_tensors: Params, steps: ArrayLike, update_period: ArrayLike
) -> Params:
    """`new` at every step that is a multiple of the period, `old` at all others.

    Args:
      new_tensors: the parameters.
      old_tensors: their copy.
      steps: the number of the step, first 0.
      update_period: every how many steps to copy.

    References:
      Mnih et al., [Human-level control through deep reinforcement
      learning](https://www.nature.com/articles/nature14236), 2015.
    """
    copied: Params = jax.lax.cond(
        jnp.mod(steps, update_period) == 0, lambda: new_tensors, lambda: old_tensors
    )
    return copied
