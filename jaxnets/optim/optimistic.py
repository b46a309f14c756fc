"""Optimistic steps, for games: each gradient extrapolated from the one before."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import scale_by_adam
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    NUMBER,
    Hyper,
    checked,
    transformation,
)
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.scale import scale, scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByOptimisticGradientState(NamedTuple):
    """Whether no step has been made, and the last gradient."""

    is_initial_step: Array
    previous_gradient: Params


@transformation(alpha=NUMBER, beta=NUMBER)
def scale_by_optimistic_gradient(alpha: Hyper = 1.0, beta: Hyper = 1.0) -> GradientTransformation:
    """`u = (α + β) g_t - β g_{t-1}`, and `α g` in the first step.

    Args:
      alpha: `α`.
      beta: `β`.
    """

    def init(params: Params) -> ScaleByOptimisticGradientState:
        return ScaleByOptimisticGradientState(jnp.array(True), moments_like(params))

    def update(
        updates: Updates,
        state: ScaleByOptimisticGradientState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByOptimisticGradientState]:
        def step(g: Array, previous: Array) -> tuple[Array, Array]:
            previous = jnp.where(state.is_initial_step, g, previous)
            return (alpha + beta) * g - beta * previous, g

        updates, gradients = map_moments(step, updates, state.previous_gradient, params=params)
        return updates, ScaleByOptimisticGradientState(jnp.array(False), gradients)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, alpha=NUMBER, beta=NUMBER)
def optimistic_gradient_descent(
    learning_rate: ScalarOrSchedule, alpha: ScalarOrSchedule = 1.0, beta: ScalarOrSchedule = 1.0
) -> GradientTransformation:
    """Gradient descent for games: `θ ← θ - η ((α + β) g_t - β g_{t-1})`, with `g_0 = g_1`.

    Where plain gradient descent circles around a saddle point, this one converges.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      alpha: `α`.
      beta: `β`, the weight of the gradients' change.

    Raises:
      ValueError: for a number outside its range.

    References:
      Mokhtari et al., [A unified analysis of extra-gradient and optimistic gradient methods for
      saddle point problems](https://arxiv.org/abs/1901.08511), 2019.
    """
    return chain(
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@transformation(learning_rate=NON_NEGATIVE, optimism=NUMBER)
def _extrapolated(learning_rate: Hyper, optimism: Hyper | None = None) -> GradientTransformation:
    """`scale_by_optimistic_gradient` whose `α` is read as the learning rate that it is."""
    return scale_by_optimistic_gradient(
        learning_rate, learning_rate if optimism is None else optimism
    )


@checked(
    learning_rate=NON_NEGATIVE,
    optimism=NUMBER,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
)
def optimistic_adam(
    learning_rate: ScalarOrSchedule,
    optimism: ScalarOrSchedule | None = None,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Optimistic Adam: `θ ← θ - η r_t - o (r_t - r_{t-1})`, where `r` is Adam's direction.

    Optax advises `optimistic_adam_v2` in its place, whose optimism scales with the rate. Here the
    rate may be a schedule too.

    Args:
      learning_rate: `η ≥ 0`.
      optimism: `o`; None is `η`.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which the momentum is stored; by default the parameters', at least float32.
      nesterov: whether to use Nesterov momentum.
      nu_dtype: dtype in which the second moment is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range.

    References:
      Daskalakis et al., [Training GANs with optimism](https://arxiv.org/abs/1711.00141), 2017.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),
        _extrapolated(learning_rate, optimism),
        scale(-1.0),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    alpha=NUMBER,
    beta=NUMBER,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
)
def optimistic_adam_v2(
    learning_rate: ScalarOrSchedule,
    *,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    nesterov: bool = True,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Optimistic Adam: `θ ← θ - η (α r_t + β (r_t - r_{t-1}))`, where `r` is Adam's direction.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      alpha: `α`.
      beta: `β`, the weight of the direction's change.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which the momentum is stored; by default the parameters', at least float32.
      nesterov: whether to use Nesterov momentum.
      nu_dtype: dtype in which the second moment is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range.

    References:
      Daskalakis et al., [Training GANs with optimism](https://arxiv.org/abs/1711.00141), 2017.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
