"""Rectified Adam."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.adam import ScaleByAdamState, corrected_momentum
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    NUMBER,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


@transformation(
    b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE, threshold=NUMBER
)
def scale_by_radam(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    threshold: Hyper = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> GradientTransformation:
    """`u = r m̂ / (√(v̂ + ε̄) + ε)`, or `m̂` while `v̂` is of too few gradients; see `radam`."""

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params),
            nu=moments_like(params, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamState]:
        t = increment(state.count)
        m_hat, correction = corrected_momentum(b1, t, nesterov), 1 - b2**t
        limit = 2 / (1 - b2) - 1
        length = limit - 2 * t * b2**t / correction
        tractable = length >= threshold
        # below 4 the root is of a negative number: not computed, so that derivatives are finite
        safe = jnp.where(tractable, length, limit)
        r = jnp.sqrt((safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe))

        def root(v: Array) -> Any:
            if eps_before_correction:
                return (jnp.sqrt(v + eps_root) + eps) / jnp.sqrt(correction)
            return jnp.sqrt(v / correction + eps_root) + eps

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            v = (1 - b2) * abs_sq(g) + b2 * v
            return jnp.where(tractable, r * m_hat(g, m) / root(v), m_hat(g, m)), m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByAdamState(t, mu, nu)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    threshold=NUMBER,
)
def radam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    threshold: ScalarOrSchedule = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> GradientTransformation:
    """Rectified Adam: Adam that trusts its second moment as far as it has seen gradients.

        m ← β₁ m + (1 - β₁) g           m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²          v̂ = v / (1 - β₂ᵗ)
        ρ∞ = 2 / (1 - β₂) - 1           ρ = ρ∞ - 2 t β₂ᵗ / (1 - β₂ᵗ)
        r = √((ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ))
        θ ← θ - η r m̂ / (√(v̂ + ε̄) + ε) if ρ ≥ ρ₀, else θ - η m̂

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1); below 0.667 nothing is ever divided by `√v̂`, since `ρ < 5`.
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      threshold: `ρ₀`, the length of the average from which the variance of `v̂` is tractable; above
        4, where `r` is a number.
      nesterov: whether to use Nesterov momentum; see `nadam`.
      eps_before_correction: True for `(√(v + ε̄) + ε) / √(1 - β₂ᵗ)`, which is PyTorch's form.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = radam(1e-3)

    References:
      Liu et al., [On the variance of the adaptive learning rate and
      beyond](https://arxiv.org/abs/1908.03265), 2019.
    """
    return chain(
        scale_by_radam(
            b1,
            b2,
            eps,
            eps_root,
            threshold,
            nesterov=nesterov,
            eps_before_correction=eps_before_correction,
        ),
        scale_by_learning_rate(learning_rate),
    )
