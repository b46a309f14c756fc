"""Updates times a number: a constant, a schedule's value, or minus the learning rate."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NON_NEGATIVE, NUMBER, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import map_updates
from jaxnets.optim.transform import GradientTransformation, State, Updates, empty_state, identity
from jaxnets.types import Array, ArrayLike, Params, ScalarOrSchedule, Schedule


@transformation(step_size=NUMBER)
def scale(step_size: Hyper) -> GradientTransformation:
    """`u = s g`.

    Args:
      step_size: the factor `s`, of either sign.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return map_updates(lambda g: step_size * g, updates), state

    return GradientTransformation(empty_state, update)


class ScaleByScheduleState(NamedTuple):
    """The number of steps made."""

    count: Array  # type: ignore[assignment]


@partial(by_value, hyper=["step_size_fn"])
def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """`u_t = s(t) g_t`, where the first step is `t = 0`.

    Args:
      step_size_fn: the schedule `s`.
    """

    def init(params: Params) -> ScaleByScheduleState:
        return ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByScheduleState]:
        step_size: Hyper = step_size_fn(state.count)
        updates = map_updates(lambda g: step_size * g, updates)
        return updates, ScaleByScheduleState(increment(state.count))

    return GradientTransformation(init, update)


@by_value
def _negative(schedule: Schedule) -> Schedule:
    def negative(step: ArrayLike) -> ArrayLike:
        return -1 * schedule(step)

    return negative


def downhill(step_size: ScalarOrSchedule) -> GradientTransformation:
    """`u = -s g`, for an `s` that is not the learning rate but derived from it."""
    if callable(step_size):
        return scale_by_schedule(_negative(step_size))
    return scale(-1 * step_size)


@checked(learning_rate=NON_NEGATIVE)
@partial(by_value, hyper=["learning_rate"])
def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule | None = None, *, flip_sign: bool = True
) -> GradientTransformation:
    """`u = -η g`: the step downhill that ends most optimizers.

    Args:
      learning_rate: the rate `η ≥ 0`; None hands updates through, sign and all.
      flip_sign: False for `u = η g`.
    """
    if learning_rate is None:
        return identity()
    if flip_sign:
        return downhill(learning_rate)
    return scale_by_schedule(learning_rate) if callable(learning_rate) else scale(learning_rate)
