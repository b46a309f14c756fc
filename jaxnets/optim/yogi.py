"""Yogi: a second moment that changes by no more than the squared gradient."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.adam import ScaleByAdamState, corrected_momentum
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


@transformation(
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    initial_accumulator_value=NON_NEGATIVE,
)
def scale_by_yogi(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-3,
    eps_root: Hyper = 0.0,
    initial_accumulator_value: Hyper = 1e-6,
) -> GradientTransformation:
    """`u = m̂ / (√(v̂ + ε̄) + ε)`, where both moments start at a small number; see `yogi`."""

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, initial_accumulator_value),
            nu=moments_like(params, initial_accumulator_value, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamState]:
        t = increment(state.count)
        m_hat, correction = corrected_momentum(b1, t), 1 - b2**t

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            v = v - (1 - b2) * jnp.sign(v - abs_sq(g)) * abs_sq(g)
            return m_hat(g, m) / (jnp.sqrt(v / correction + eps_root) + eps), m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByAdamState(t, mu, nu)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE)
def yogi(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-3,
) -> GradientTransformation:
    """Yogi: Adam whose second moment moves towards `g²` at a rate that `v` does not set.

        m ← β₁ m + (1 - β₁) g                       m̂ = m / (1 - β₁ᵗ)
        v ← v - (1 - β₂) sign(v - g²) g²            v̂ = v / (1 - β₂ᵗ)
        θ ← θ - η m̂ / (√v̂ + ε)

    As in Optax, `m` and `v` both start at 1e-6, so that parameters without a gradient drift, at
    first by 3e-4 η a step. The paper starts `m` at 0 and corrects neither.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = yogi(1e-2)

    References:
      Zaheer et al., [Adaptive methods for nonconvex
      optimization](https://proceedings.neurips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html),
      2018.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))
