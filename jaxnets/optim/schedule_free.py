"""Schedule-free learning: an average of the iterates in place of a decaying rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.adaptive import scale_by_rms
from jaxnets.optim.calls import combines, reads
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import sgd
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    Hyper,
    Range,
    at,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import (
    copy_of,
    map_moments,
    map_with_params,
    require_params,
    scalar_dtype,
)
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.schedules import warmup_constant_schedule
from jaxnets.optim.transform import (
    GradientTransformation,
    State,
    Updates,
    chain,
)
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule

WEIGHT = Range("in (0, 1]", lambda x: 0 < x <= 1)


class ScheduleFreeState(NamedTuple):
    """The weight of `x` in `y`, what the average needs, and the base optimizer's iterate `z`."""

    b1: Array
    weight_sum: Array
    step_count: Array
    """Of the step to come: 1 before the first."""
    max_lr: Array
    base_optimizer_state: State
    z: Params


def _is_schedule_free(node: Any) -> bool:
    return hasattr(node, "z") and hasattr(node, "b1")


def schedule_free_eval_params(state: State, params: Params) -> Params:
    """The average `x = (y - (1 - β) z) / β`, at which to evaluate; training goes on from `y`.

    Args:
      state: of `schedule_free`, or of a chain with it.
      params: `y`, the parameters that are trained.

    Raises:
      ValueError: if there is not one such state.
    """
    nodes = jax.tree.leaves(state, is_leaf=_is_schedule_free)
    found = [node for node in nodes if _is_schedule_free(node)]
    if len(found) != 1:
        raise ValueError(
            "schedule_free_eval_params: the state must hold one of schedule_free's, "
            f"got {len(found)}"
        )
    b1, z = found[0].b1, found[0].z
    average, _ = map_moments(lambda y, z: ((y - (1 - b1) * z) / b1, z), params, z)
    return average


@checked(learning_rate=NON_NEGATIVE)
@transformation(b1=WEIGHT, weight_lr_power=NON_NEGATIVE)
@reads(lambda call, state: {"learning_rate": at(call["learning_rate"], state.step_count)})
@combines(lambda call, state: {"": (call["base_optimizer"], state.base_optimizer_state)})
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: Hyper = 0.9,
    weight_lr_power: Hyper = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Average the iterates of a base optimizer without momentum, and train near the average.

        y = (1 - β) z + β x              where the gradient is taken: the parameters
        z ← z + u(y)                     the base optimizer's step
        x ← (1 - c) x + c z              where to evaluate: `schedule_free_eval_params`
        c = w / Σw,   w = (max η)ᵖ       so far

    The rate needs a warm-up, but no decay and no known end. Only `z` is stored beside `y`; `x`
    drops out of the update, which is `y ← y + (1 - β (1 - c)) u - c (y - z)`.

    Args:
      base_optimizer: gives `u`; of ours, Optax's or any other `(init, update)` pair.
      learning_rate: `η ≥ 0`, the one that `base_optimizer` uses, for the weights of the average. A
        schedule sees 1 at the first step, as in Optax; the base optimizer's own sees 0. So
        `hyperparams` has both, this one as `"schedule_free/learning_rate"`.
      b1: `β` in (0, 1].
      weight_lr_power: `p ≥ 0`.
      state_dtype: dtype of `z`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> rate = warmup_constant_schedule(0.0, 1e-3, 100)
      >>> optimizer = schedule_free(adam(rate, b1=0.0), rate)
      >>> ...
      >>> loss(schedule_free_eval_params(state, params), batch)

    References:
      Defazio et al., [The road less scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    base = chain(base_optimizer)

    def init(params: Params) -> ScheduleFreeState:
        dtype = scalar_dtype(params)
        return ScheduleFreeState(
            b1=jnp.asarray(b1, dtype),
            weight_sum=jnp.zeros((), dtype),
            step_count=jnp.ones((), jnp.int32),
            max_lr=jnp.zeros((), dtype),
            base_optimizer_state=base.init(params)[0],
            z=copy_of(params, state_dtype),
        )

    def update(
        updates: Updates, state: ScheduleFreeState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScheduleFreeState]:
        require_params("schedule_free", params)
        rate = at(learning_rate, state.step_count)
        dtype = state.weight_sum.dtype
        max_lr = jnp.maximum(state.max_lr, jnp.asarray(rate, dtype))
        weight = max_lr**weight_lr_power
        weight_sum = (state.weight_sum + weight).astype(dtype)
        # before the rate has left 0, nothing has weight
        c = weight / jnp.where(weight_sum == 0, 1, weight_sum)

        steps, (base_state,) = base.update(updates, (state.base_optimizer_state,), params, **extra)
        _, z = map_moments(lambda u, z: (u, z + u), steps, state.z)

        def step(u: Array, y: Array, z: Array, z_next: Array) -> Array:
            moved = z_next.astype(u.dtype) - z.astype(u.dtype)
            update: Array = (1 - b1 * (1 - c)) * moved - c * (y - z)
            return update

        new = ScheduleFreeState(
            b1=jnp.asarray(b1, dtype),
            weight_sum=weight_sum,
            step_count=increment(state.step_count),
            max_lr=max_lr,
            base_optimizer_state=base_state,
            z=z,
        )
        return map_with_params(step, steps, params, state.z, z), new

    return GradientTransformation(init, update)


def _warmed_up(learning_rate: ScalarOrSchedule, warmup_steps: int | None) -> ScalarOrSchedule:
    if warmup_steps is None:
        return learning_rate
    if callable(learning_rate):
        raise ValueError(
            "schedule_free: warmup_steps needs a learning_rate that is a number, not a schedule"
        )
    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=WEIGHT,
    weight_decay=NON_NEGATIVE,
    weight_lr_power=NON_NEGATIVE,
)
def schedule_free_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    warmup_steps: int | None = None,
    b1: ScalarOrSchedule = 0.9,
    weight_decay: ScalarOrSchedule | None = None,
    weight_lr_power: ScalarOrSchedule = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Gradient descent that needs no schedule; see `schedule_free`.

    Args:
      learning_rate: `η ≥ 0`.
      warmup_steps: length of a straight rise from 0 to `η`; by default none.
      b1: `β` in (0, 1].
      weight_decay: `λ ≥ 0`; the gradient becomes `g + λ y`.
      weight_lr_power: `p ≥ 0`.
      state_dtype: dtype of `z`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Defazio et al., [The road less scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = sgd(rate)
    if weight_decay is not None:
        base = chain(add_decayed_weights(weight_decay), base)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=WEIGHT,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    weight_lr_power=NON_NEGATIVE,
)
def schedule_free_adamw(
    learning_rate: ScalarOrSchedule = 0.0025,
    warmup_steps: int | None = None,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_lr_power: ScalarOrSchedule = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AdamW that needs no schedule, its momentum replaced by the average; see `schedule_free`.

    Args:
      learning_rate: `η ≥ 0`.
      warmup_steps: length of a straight rise from 0 to `η`; by default none.
      b1: `β` in (0, 1].
      b2: of Adam's second moment, in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      weight_decay: `λ ≥ 0`, decoupled.
      weight_lr_power: `p ≥ 0`.
      state_dtype: dtype of `z`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = schedule_free_adamw(2.5e-3, warmup_steps=100)

    References:
      Defazio et al., [The road less scheduled](https://arxiv.org/abs/2405.15682), 2024.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)
