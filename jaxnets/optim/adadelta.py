"""Adadelta."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


class ScaleByAdaDeltaState(NamedTuple):
    """The moving averages of squared gradients and of squared updates."""

    e_g: Params
    e_x: Params


@transformation(rho=DECAY_RATE, eps=NON_NEGATIVE)
def scale_by_adadelta(rho: Hyper = 0.9, eps: Hyper = 1e-6) -> GradientTransformation:
    """`u = g √(x + ε) / √(v + ε)`; see `adadelta`."""

    def init(params: Params) -> ScaleByAdaDeltaState:
        return ScaleByAdaDeltaState(
            e_g=moments_like(params, real=True), e_x=moments_like(params, real=True)
        )

    def update(
        updates: Updates, state: ScaleByAdaDeltaState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdaDeltaState]:
        def step(g: Array, v: Array, x: Array) -> tuple[Array, Array, Array]:
            v = (1 - rho) * abs_sq(g) + rho * v
            u = jnp.sqrt(x + eps) / jnp.sqrt(v + eps) * g
            return u, v, (1 - rho) * abs_sq(u) + rho * x

        updates, e_g, e_x = map_moments(step, updates, state.e_g, state.e_x, params=params)
        return updates, ScaleByAdaDeltaState(e_g, e_x)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, rho=DECAY_RATE, eps=NON_NEGATIVE, weight_decay=NON_NEGATIVE)
def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    """Adadelta: steps in the units of the parameters, by the ratio of two root mean squares.

        g ← g + λ θ
        v ← ρ v + (1 - ρ) g²
        u = g √(x + ε) / √(v + ε)
        x ← ρ x + (1 - ρ) u²
        θ ← θ - η u

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; 1 in the paper and in PyTorch. None,
        the default, is Optax's: updates are `+u`, and adding them *ascends*.
      rho: `ρ` in [0, 1).
      eps: `ε ≥ 0`, inside both roots.
      weight_decay: `λ ≥ 0` of an L2 penalty, added to the gradients.
      weight_decay_mask: which parameters decay; see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = adadelta(1.0)

    References:
      Zeiler, [Adadelta: an adaptive learning rate method](https://arxiv.org/abs/1212.5701), 2012.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )
