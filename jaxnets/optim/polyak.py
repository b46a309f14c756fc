"""Gradient descent whose rate comes from the loss: Polyak's step size."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxnets.optim.descent import sgd
from jaxnets.optim.hyper import NON_NEGATIVE, NUMBER, Hyper, checked, transformation
from jaxnets.optim.leaves import dot, map_updates
from jaxnets.optim.transform import (
    GradientTransformation,
    State,
    Updates,
    chain,
    empty_state,
)
from jaxnets.types import ArrayLike, Params, ScalarOrSchedule


@transformation(f_min=NUMBER, max_learning_rate=NON_NEGATIVE, eps=NON_NEGATIVE)
def scale_by_polyak(
    f_min: Hyper = 0.0,
    max_learning_rate: Hyper = 1.0,
    eps: Hyper = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """`u = g min((f - f*) / (‖g‖² + ε), γ)`, where `f` is the loss; see `polyak_sgd`.

    Where `‖g‖² + ε` is at most 2e-16, or infinite, `u` is 0.

    Args:
      f_min: `f*`.
      max_learning_rate: `γ ≥ 0`.
      eps: `ε ≥ 0`.
      variant: `"sps+"` counts a loss below `f*` as `f*`.

    Raises:
      ValueError: for a number outside its range or an unknown variant.
      TypeError: for an update without `value`.
    """
    if variant not in ("sps", "sps+"):
        raise ValueError(f"scale_by_polyak: variant must be 'sps' or 'sps+', got {variant!r}")

    def update(
        updates: Updates,
        state: State,
        params: Params | None = None,
        *,
        value: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[Updates, State]:
        if value is None:
            raise TypeError(
                "scale_by_polyak: needs the loss; call update(gradients, state, params, value=loss)"
            )
        square = dot(updates, updates)
        gap = jnp.asarray(value - f_min, square.dtype)
        if variant == "sps+":
            gap = jnp.maximum(gap, 0)
        still = square + eps <= np.finfo(float).eps
        rate = jnp.minimum(gap / jnp.where(still, 1, square + eps), max_learning_rate)
        rate = jnp.where(still, 0, rate)
        return map_updates(lambda g: rate * g, updates), state

    return GradientTransformation(empty_state, update)


@transformation(scaling=NON_NEGATIVE)
def _scaled(scaling: Hyper) -> GradientTransformation:
    """`u = -s g`, whose `s` is not read as a learning rate."""
    return sgd(scaling)


@checked(max_learning_rate=NON_NEGATIVE, scaling=NON_NEGATIVE, f_min=NUMBER, eps=NON_NEGATIVE)
def polyak_sgd(
    max_learning_rate: ScalarOrSchedule = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """Gradient descent with Polyak's step size: a step to where the tangent meets the least loss.

        d = s g
        θ ← θ - d min((f - f*) / (‖d‖² + ε), γ)

    As in Optax, the gradient is scaled before it is measured: where `γ` does not bound the step,
    it is in proportion to `1 / s`.

    Args:
      max_learning_rate: `γ ≥ 0`, a number, an array or a schedule.
      scaling: `s ≥ 0`.
      f_min: `f*`, the least loss or a lower bound of it. A wrong one can diverge.
      eps: `ε ≥ 0`.
      variant: `"sps+"` counts a loss below `f*` as `f*`, so that no step goes uphill.

    Raises:
      ValueError: for a number outside its range or an unknown variant.
      TypeError: for an update without `value`.

    Example:
      >>> optimizer = polyak_sgd(max_learning_rate=0.1)
      >>> state = optimizer.init(params)
      >>> value, gradients = jax.value_and_grad(loss)(params)
      >>> updates, state = optimizer.update(gradients, state, params, value=value)

    References:
      Loizou et al., [Stochastic Polyak step-size for SGD](https://arxiv.org/abs/2002.10542), 2020;
      Garrigos et al., [Function value learning](https://arxiv.org/abs/2307.14528), 2023 (`sps+`).
    """
    return chain(_scaled(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))
