"""Schedules that rise in a straight line and then decay: exponentially, as 1/√t, or late."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NUMBER, checked
from jaxnets.optim.schedules import (
    constant_schedule,
    exponential_decay,
    join_schedules,
    linear_schedule,
)
from jaxnets.types import Array, ArrayLike, Schedule


@by_value
@checked(init_value=NUMBER, peak_value=NUMBER, decay_rate=NUMBER, end_value=NUMBER)
def warmup_exponential_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """A straight line up to `peak_value` at step `warmup_steps`, then `exponential_decay`.

    Args:
      init_value: the value at step 0.
      peak_value: the value at step `warmup_steps`.
      warmup_steps: length of the straight line.
      transition_steps: the value is multiplied by `decay_rate` in so many steps.
      decay_rate: see `exponential_decay`.
      transition_begin: for how many steps the peak is kept.
      staircase: whether the value falls at once, every `transition_steps`.
      end_value: the value stops there.
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return join_schedules(
        [linear_schedule(init_value, peak_value, warmup_steps), decay], [warmup_steps]
    )


@by_value
@checked(peak_value=NUMBER, init_value=NUMBER)
def inverse_sqrt_schedule(
    peak_value: ArrayLike, warmup_steps: int, init_value: ArrayLike = 0.0
) -> Schedule:
    """A straight line up to `p` at step `W`, then `p √(W / t)`. Optax has no such schedule.

    With `p = (d W)^-½` it is the schedule of the first transformer of width `d`. It needs no end.

    Args:
      peak_value: `p`.
      warmup_steps: `W > 0`.
      init_value: the value at step 0.

    Raises:
      ValueError: if `warmup_steps` is not positive.

    Example:
      >>> inverse_sqrt_schedule(1.0, warmup_steps=4)(jnp.array([0, 2, 4, 16]))
      Array([0. , 0.5, 1. , 0.5], dtype=float32)

    References:
      Vaswani et al., [Attention is all you need](https://arxiv.org/abs/1706.03762), 2017.
    """
    if warmup_steps <= 0:
        raise ValueError(f"inverse_sqrt_schedule: warmup_steps must be > 0, got {warmup_steps}")
    rise = linear_schedule(init_value, peak_value, warmup_steps)

    def schedule(step: ArrayLike) -> ArrayLike:
        passed = jnp.maximum(step, warmup_steps)
        return jnp.where(passed > step, rise(step), peak_value * jnp.sqrt(warmup_steps / passed))

    return schedule


_COOLDOWNS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x)),
    "sqrt": lambda x: 1 - jnp.sqrt(x),
}


@by_value
@checked(init_value=NUMBER, peak_value=NUMBER, end_value=NUMBER)
def warmup_stable_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: ArrayLike = 0.0,
    decay_type: str = "linear",
) -> Schedule:
    """A straight line up, a plateau, and a short decay at the end. Optax has no such schedule.

    As long as the plateau lasts, a run can go on; the decay, from any point of it, yields the
    model. With `x` the fraction of the decay passed, the value is `b + (p - b) f(x)`.

    Args:
      init_value: the value at step 0.
      peak_value: `p`, the value from step `warmup_steps` on.
      warmup_steps: length of the rise, at least 0.
      stable_steps: length of the plateau, at least 0.
      decay_steps: length of the decay, more than 0.
      end_value: `b`, the value from the end of the decay on.
      decay_type: `f(x)`: "linear" for `1 - x`, "cosine" for `½ + ½ cos πx`, "sqrt" for `1 - √x`.

    Raises:
      ValueError: for a length out of its range or another type of decay.

    Example:
      >>> warmup_stable_decay_schedule(0.0, 1.0, 2, 2, 2)(jnp.arange(7))
      Array([0. , 0.5, 1. , 1. , 1. , 0.5, 0. ], dtype=float32)

    References:
      Hu et al., [MiniCPM](https://arxiv.org/abs/2404.06395), 2024; Hägele et al., [Scaling laws
      and compute-optimal training beyond fixed training
      durations](https://arxiv.org/abs/2405.18392), 2024 ("sqrt").
    """
    if warmup_steps < 0 or stable_steps < 0 or decay_steps <= 0:
        raise ValueError(
            "warmup_stable_decay_schedule: warmup_steps and stable_steps must be >= 0 and "
            f"decay_steps > 0, got {warmup_steps}, {stable_steps} and {decay_steps}"
        )
    if decay_type not in _COOLDOWNS:
        raise ValueError(
            f"warmup_stable_decay_schedule: decay_type must be one of {', '.join(_COOLDOWNS)}, "
            f"got {decay_type!r}"
        )
    remaining = _COOLDOWNS[decay_type]

    def decay(step: ArrayLike) -> ArrayLike:
        x = jnp.clip(step / decay_steps, 0, 1)
        return end_value + (peak_value - end_value) * remaining(x)  # type: ignore[operator]

    return join_schedules(
        [
            linear_schedule(init_value, peak_value, warmup_steps),
            constant_schedule(peak_value),
            decay,
        ],
        [warmup_steps, warmup_steps + stable_steps],
    )
