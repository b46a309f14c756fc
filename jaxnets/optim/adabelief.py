"""AdaBelief: Adam scaled by how far gradients are from what momentum foresaw."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import corrected_momentum
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


class ScaleByBeliefState(NamedTuple):
    """The number of steps made and the moving averages of `g` and of `(g - m)²`."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE)
def scale_by_belief(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-16,
    eps_root: Hyper = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """`u = m̂ / (√ŝ + ε)`, where `s` averages `(g - m)²`; see `adabelief`."""

    def init(params: Params) -> ScaleByBeliefState:
        return ScaleByBeliefState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params),
            nu=moments_like(params, real=True),
        )

    def update(
        updates: Updates, state: ScaleByBeliefState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByBeliefState]:
        t = increment(state.count)
        m_hat, correction = corrected_momentum(b1, t, nesterov), 1 - b2**t

        def step(g: Array, m: Array, s: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            s = (1 - b2) * abs_sq(g - m) + b2 * s + eps_root
            return m_hat(g, m) / (jnp.sqrt(s / correction) + eps), m, s

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByBeliefState(t, mu, nu)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
)
def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_root: ScalarOrSchedule = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdaBelief: long steps where the gradient is as momentum foresaw, short ones elsewhere.

        m ← β₁ m + (1 - β₁) g                       m̂ = m / (1 - β₁ᵗ)
        s ← β₂ s + (1 - β₂) (g - m)² + ε̄            ŝ = s / (1 - β₂ᵗ)
        θ ← θ - η m̂ / (√ŝ + ε)

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, added to `s` at every step, so that it sums up to `ε̄ / (1 - β₂)`.
      nesterov: whether to use Nesterov momentum; see `nadam`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = adabelief(1e-3)

    References:
      Zhuang et al., [AdaBelief optimizer: adapting stepsizes by the belief in observed
      gradients](https://arxiv.org/abs/2010.07468), 2020.
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
