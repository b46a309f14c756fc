"""Rprop: each parameter's own step size, by the signs of its gradients alone."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.calls import reads
from jaxnets.optim.hyper import (
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    Range,
    checked,
    transformation,
)
from jaxnets.optim.leaves import map_moments, moments_like, require_real_leaves
from jaxnets.optim.scale import scale
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, ArrayLike, Params, ScalarOrSchedule

GROWTH = Range("finite and >= 1", lambda x: 1 <= x < math.inf)


class ScaleByRpropState(NamedTuple):
    """The step sizes and the last updates, 0 where the gradient's sign had changed."""

    step_sizes: Params
    prev_updates: Params


@transformation(
    eta_minus=FRACTION, eta_plus=GROWTH, min_step_size=NON_NEGATIVE, max_step_size=POSITIVE
)
@checked(learning_rate=NON_NEGATIVE)
@reads(lambda call, state: {"learning_rate": call["learning_rate"]})
def scale_by_rprop(
    learning_rate: Hyper,
    eta_minus: Hyper = 0.5,
    eta_plus: Hyper = 1.2,
    min_step_size: Hyper = 1e-6,
    max_step_size: Hyper = 50.0,
) -> GradientTransformation:
    """`u = Δ sign(g)`, where `Δ` grows while the sign of `g` stays; see `rprop`."""
    if callable(learning_rate):
        raise ValueError(
            "scale_by_rprop: learning_rate is the first step size only, so it is no schedule"
        )

    def init(params: Params) -> ScaleByRpropState:
        require_real_leaves("scale_by_rprop", params)
        return ScaleByRpropState(moments_like(params, learning_rate), moments_like(params))

    def update(
        updates: Updates, state: ScaleByRpropState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByRpropState]:
        def step(g: Array, size: Array, last: Array) -> tuple[Array, Array, Array]:
            # of the signs, since the product of two small numbers may underflow
            agreement = jnp.sign(g) * jnp.sign(last)
            factor = jnp.where(agreement > 0, eta_plus, eta_minus)
            new_size = jnp.clip(size * factor, min_step_size, max_step_size)
            size = jnp.where(agreement == 0, size, new_size)
            u = jnp.where(agreement < 0, 0, size * jnp.sign(g))
            return u, size, u

        updates, step_sizes, last = map_moments(
            step, updates, state.step_sizes, state.prev_updates, params=params
        )
        return updates, ScaleByRpropState(step_sizes, last)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    eta_minus=FRACTION,
    eta_plus=GROWTH,
    min_step_size=NON_NEGATIVE,
    max_step_size=POSITIVE,
)
def rprop(
    learning_rate: ArrayLike,
    eta_minus: ScalarOrSchedule = 0.5,
    eta_plus: ScalarOrSchedule = 1.2,
    min_step_size: ScalarOrSchedule = 1e-6,
    max_step_size: ScalarOrSchedule = 50.0,
) -> GradientTransformation:
    """Rprop: step sizes that grow while a gradient keeps its sign, and shrink when it changes.

        c = sign(g) sign(u₋₁)
        Δ ← clip(η₊ Δ) if c > 0, clip(η₋ Δ) if c < 0
        u = 0 if c < 0, else Δ sign(g)
        θ ← θ - u

    For gradients of the whole data set: of a minibatch's, signs say little.

    The step is that of this gradient, as in the paper and in PyTorch. Optax's is late: it returns
    `u₋₁`, where the sign did not change, so that the first step is 0. The states are the same.

    Args:
      learning_rate: the first `Δ ≥ 0`, a number or an array; no schedule.
      eta_minus: `η₋` in [0, 1].
      eta_plus: `η₊ ≥ 1`.
      min_step_size: the least `Δ` after a change, at least 0.
      max_step_size: the largest `Δ` after a change, above 0.

    Raises:
      ValueError: for a number outside its range, a schedule of learning rates, or complex
        parameters, whose gradients have no sign.

    Example:
      >>> optimizer = rprop(1e-2)

    References:
      Riedmiller and Braun, [A direct adaptive method for faster backpropagation learning: the RPROP
      algorithm](https://ieeexplore.ieee.org/document/298623), 1993; Igel and Hüsken, [Improving the
      Rprop learning algorithm](https://citeseerx.ist.psu.edu/document?doi=10.1.1.17.1332), 2000,
      whose iRprop⁻ this is.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size),
        scale(-1.0),
    )
