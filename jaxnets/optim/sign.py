"""Steps that keep only the sign of a gradient or of its average: sign SGD, Signum, Lion."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.averages import ema
from jaxnets.optim.calls import by_value
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import map_moments, map_updates, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, State, Updates, chain, empty_state
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


@by_value
def scale_by_sign() -> GradientTransformation:
    """`u = sign(g)`, which is 0 at 0, and `g / |g|` for complex `g`."""

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return map_updates(jnp.sign, updates), state

    return GradientTransformation(empty_state, update)


@checked(learning_rate=NON_NEGATIVE)
def sign_sgd(learning_rate: ScalarOrSchedule) -> GradientTransformation:
    """Gradient descent by signs: `θ ← θ - η sign(g)`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.

    Raises:
      ValueError: for a number outside its range.

    References:
      Bernstein et al., [signSGD: compressed optimisation for non-convex
      problems](https://arxiv.org/abs/1802.04434), 2018.
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@checked(learning_rate=NON_NEGATIVE, beta=DECAY_RATE)
def signum(
    learning_rate: ScalarOrSchedule,
    beta: ScalarOrSchedule = 0.9,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """The sign of the momentum.

        m ← β m + (1 - β) g
        θ ← θ - η sign(m)

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      beta: `β` in [0, 1).
      accumulator_dtype: dtype of `m`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range.

    References:
      Bernstein et al., [signSGD: compressed optimisation for non-convex
      problems](https://arxiv.org/abs/1802.04434), 2018.
    """
    return chain(
        # a positive factor does not change the sign
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


class ScaleByLionState(NamedTuple):
    """The number of steps made and the moving average of gradients."""

    count: Array  # type: ignore[assignment]
    mu: Params


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, smooth_beta=NON_NEGATIVE)
def scale_by_lion(
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    mu_dtype: DTypeLike | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Hyper = 1.0,
) -> GradientTransformation:
    """`u = sign((1 - β₁) g + β₁ m)`, then `m ← β₂ m + (1 - β₂) g`; see `lion`.

    Args:
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      mode: `"hard"` for the sign, `"smooth"` for `tanh(s x)` in its place, `"refined"` for `x`
        clipped to `[-1, 1]`.
      smooth_beta: `s ≥ 0`, used in the smooth mode.

    Raises:
      ValueError: for a number outside its range or an unknown mode.
    """

    def direction(x: Array) -> Array:
        match mode:
            case "hard":
                return jnp.sign(x)
            case "smooth":
                return jnp.tanh(smooth_beta * x)
            case "refined":
                return jnp.where(jnp.abs(x) < 1, x, jnp.sign(x))

    if mode not in ("hard", "smooth", "refined"):
        raise ValueError(f"scale_by_lion: mode must be 'hard', 'smooth' or 'refined', got {mode!r}")

    def init(params: Params) -> ScaleByLionState:
        return ScaleByLionState(jnp.zeros((), jnp.int32), moments_like(params, dtype=mu_dtype))

    def update(
        updates: Updates, state: ScaleByLionState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByLionState]:
        def step(g: Array, m: Array) -> tuple[Array, Array]:
            return direction((1 - b1) * g + b1 * m), (1 - b2) * g + b2 * m

        updates, mu = map_moments(step, updates, state.mu, params=params)
        return updates, ScaleByLionState(increment(state.count), mu)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, b1=DECAY_RATE, b2=DECAY_RATE, weight_decay=NON_NEGATIVE)
def lion(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Lion: the sign of a momentum in which the newest gradient weighs more, and weight decay.

        c = β₁ m + (1 - β₁) g
        θ ← θ - η (sign(c) + λ θ)
        m ← β₂ m + (1 - β₂) g

    All steps are of length `η`, so that good rates are 3 to 10 times smaller than AdamW's, and
    decays as much larger.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay; a path rule such as `"kernel$"`, or Optax's masks, see
        `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = lion(1e-4, weight_decay=1e-2, mask="kernel$")

    References:
      Chen et al., [Symbolic discovery of optimization
      algorithms](https://arxiv.org/abs/2302.06675), 2023.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
