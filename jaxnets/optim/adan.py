"""Adan: adaptive Nesterov momentum."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import corrected_momentum
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


class ScaleByAdanState(NamedTuple):
    """Moving averages of gradients, of their differences and of the look-ahead's square; the last
    gradient; the number of steps made."""

    m: Params
    v: Params
    n: Params
    g: Params
    t: Array


@transformation(
    b1=DECAY_RATE, b2=DECAY_RATE, b3=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE
)
def scale_by_adan(
    b1: Hyper = 0.98,
    b2: Hyper = 0.92,
    b3: Hyper = 0.99,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
) -> GradientTransformation:
    """`u = (m̂ + (1 - β₂) v̂) / (√(n̂ + ε̄) + ε)`; see `adan`."""

    def init(params: Params) -> ScaleByAdanState:
        return ScaleByAdanState(
            m=moments_like(params),
            v=moments_like(params),
            n=moments_like(params, real=True),
            g=moments_like(params),
            t=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Updates, state: ScaleByAdanState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdanState]:
        t = increment(state.t)
        m_hat, v_hat = corrected_momentum(b1, t), corrected_momentum(b2, t)
        correction = 1 - b3**t

        def step(g: Array, m: Array, v: Array, n: Array, last: Array) -> tuple[Array, ...]:
            difference = jnp.where(state.t == 0, 0, g - last)
            m = (1 - b1) * g + b1 * m
            v = (1 - b2) * difference + b2 * v
            n = (1 - b3) * abs_sq(g + (1 - b2) * difference) + b3 * n
            ahead = m_hat(g, m) + (1 - b2) * v_hat(difference, v)
            return ahead / (jnp.sqrt(n / correction + eps_root) + eps), m, v, n, g

        updates, m, v, n, g = map_moments(
            step, updates, state.m, state.v, state.n, state.g, params=params
        )
        return updates, ScaleByAdanState(m, v, n, g, t)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    b3=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def adan(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.98,
    b2: ScalarOrSchedule = 0.92,
    b3: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Adan: Nesterov's look-ahead from the differences of successive gradients.

        d = g - g₋₁, and 0 at the first step
        m ← β₁ m + (1 - β₁) g                       m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) d                       v̂ = v / (1 - β₂ᵗ)
        n ← β₃ n + (1 - β₃) (g + (1 - β₂) d)²       n̂ = n / (1 - β₃ᵗ)
        θ ← θ - η ((m̂ + (1 - β₂) v̂) / (√(n̂ + ε̄) + ε) + λ θ)

    The `β` are 1 minus the paper's. With these, the paper has `β₂` in the two places where Optax,
    and we with it, have `1 - β₂`; and it decays otherwise, dividing `θ` by `1 + η λ`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      b3: `β₃` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root; 0 in `scale_by_adan`, as in Optax.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay; see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = adan(1e-3, weight_decay=0.02)

    References:
      Xie et al., [Adan: adaptive Nesterov momentum algorithm for faster optimizing deep
      models](https://arxiv.org/abs/2208.06677), 2022.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
