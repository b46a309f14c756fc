"""Adam in the infinity norm: AdaMax and AdaMaxW."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.adam import ScaleByAdamState, corrected_momentum
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE)
def scale_by_adamax(
    b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8
) -> GradientTransformation:
    """`u = m̂ / v`, where `v` is a decaying maximum of `|g|`; see `adamax`."""

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
        m_hat = corrected_momentum(b1, t)

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            v = jnp.maximum(jnp.abs(g) + eps, b2 * v)
            return m_hat(g, m) / v, m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByAdamState(t, mu, nu)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE)
def adamax(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> GradientTransformation:
    """AdaMax: Adam with a decaying maximum of `|g|` in place of the root mean square.

        m ← β₁ m + (1 - β₁) g           m̂ = m / (1 - β₁ᵗ)
        v ← max(β₂ v, |g| + ε)
        θ ← θ - η m̂ / v

    The maximum needs no correction for its start at 0. PyTorch's is the same.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`; at 0, a parameter without any gradient yet has a step of 0 / 0.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = adamax(2e-3)

    References:
      Kingma and Ba, [Adam: a method for stochastic
      optimization](https://arxiv.org/abs/1412.6980), 2014, section 7.1.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    """AdaMax with decoupled weight decay: `θ ← θ - η (m̂ / v + λ θ)`; see `adamax`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay; see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Loshchilov and Hutter, [Decoupled weight decay
      regularization](https://arxiv.org/abs/1711.05101), 2017.
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
