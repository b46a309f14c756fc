"""Schedules: functions `step -> value`, where the first step is 0.

Any hyper-parameter of any transformation may be one. Values may be traced arrays; lengths (numbers
of steps) are plain integers. Schedules made by equal calls are equal, and so are the optimizers
that hold them.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NUMBER, checked
from jaxnets.types import ArrayLike, Schedule


@by_value
@checked(value=NUMBER)
def constant_schedule(value: ArrayLike) -> Schedule:
    """`value` at every step; `ValueError` for a NaN."""
    return lambda step: value


@by_value
@checked(init_value=NUMBER, end_value=NUMBER, power=NUMBER)
def polynomial_schedule(
    init_value: ArrayLike,
    end_value: ArrayLike,
    power: ArrayLike,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """From `a` to `b` by a power of the remaining fraction: `(a - b) (1 - (t - t₀) / T)ᵖ + b`.

    Args:
      init_value: `a`, the value up to step `t₀`.
      end_value: `b`, the value from step `t₀ + T` on.
      power: `p`.
      transition_steps: `T`; if not positive, the value is `a` forever (as in Optax).
      transition_begin: `t₀`, at least 0.

    Raises:
      ValueError: for a NaN.
    """
    if transition_steps <= 0:
        return constant_schedule(init_value)
    begin = max(transition_begin, 0)

    def schedule(step: ArrayLike) -> ArrayLike:
        passed = jnp.clip(jnp.asarray(step) - begin, 0, transition_steps)
        remaining = 1 - passed / transition_steps
        if not isinstance(power, int):
            # compiled, T / T may round above 1, and a negative number has no root
            remaining = jnp.maximum(remaining, 0)
        return (init_value - end_value) * remaining**power + end_value  # type: ignore[operator]

    return schedule


@by_value
@checked(init_value=NUMBER, end_value=NUMBER)
def linear_schedule(
    init_value: ArrayLike, end_value: ArrayLike, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From `init_value` to `end_value` in a straight line; see `polynomial_schedule`.

    Raises:
      ValueError: for a NaN.

    Example:
      >>> linear_schedule(1.0, 0.0, transition_steps=4)(jnp.arange(6))
      Array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ], dtype=float32)
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


@by_value
@checked(init_value=NUMBER, peak_value=NUMBER)
def warmup_constant_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int
) -> Schedule:
    """A straight line up to `peak_value` at step `warmup_steps`, which is then kept.

    Raises:
      ValueError: for a NaN.
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


@by_value
@checked(init_value=NUMBER, alpha=NUMBER, exponent=NUMBER)
def cosine_decay_schedule(
    init_value: ArrayLike, decay_steps: int, alpha: ArrayLike = 0.0, exponent: ArrayLike = 1.0
) -> Schedule:
    """Half a cosine from `a` down to `α a`: `a ((1 - α) (½ + ½ cos(π t / T))ᵖ + α)`.

    Args:
      init_value: `a`, the first value.
      decay_steps: `T > 0`; the last value is kept from there on.
      alpha: `α`, the last value as a fraction of the first.
      exponent: `p`.

    Raises:
      ValueError: if `decay_steps` is not positive, or for a NaN.

    Example:
      >>> cosine_decay_schedule(1.0, decay_steps=4)(jnp.arange(6))
      Array([1.   , 0.854, 0.5  , 0.146, 0.   , 0.   ], dtype=float32)

    References:
      Loshchilov and Hutter, [SGDR: stochastic gradient descent with warm
      restarts](https://arxiv.org/abs/1608.03983), 2016.
    """
    if decay_steps <= 0:
        raise ValueError(f"cosine_decay_schedule: decay_steps must be > 0, got {decay_steps}")

    def schedule(step: ArrayLike) -> ArrayLike:
        passed = jnp.minimum(step, float(decay_steps))
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * passed / float(decay_steps)))
        return init_value * ((1 - alpha) * cosine**exponent + alpha)

    return schedule


@by_value
@checked(init_value=NUMBER, decay_rate=NUMBER, end_value=NUMBER)
def exponential_decay(
    init_value: ArrayLike,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """`a γ^((t - t₀) / T)`, from step `t₀` on.

    Args:
      init_value: `a`, the value up to step `t₀`.
      transition_steps: `T`; if not positive, the value is `a` forever (as in Optax).
      decay_rate: `γ`; if 0, the value is `a` forever (as in Optax).
      transition_begin: `t₀`, at least 0.
      staircase: whether to take the exponent's integer part: steps down every `T`.
      end_value: the value stops there: a lower bound if `γ < 1`, else an upper one.

    Raises:
      ValueError: for a NaN.
    """
    if transition_steps <= 0 or (isinstance(decay_rate, float | int) and decay_rate == 0):
        return constant_schedule(init_value)
    begin = max(transition_begin, 0)

    def schedule(step: ArrayLike) -> ArrayLike:
        passed = jnp.asarray(step) - begin
        exponent = passed / transition_steps
        if staircase:
            exponent = jnp.floor(exponent)
        value = jnp.where(passed <= 0, init_value, init_value * jnp.power(decay_rate, exponent))
        if end_value is None:
            return value
        falling = jnp.asarray(decay_rate) < 1
        return jnp.where(falling, jnp.maximum(value, end_value), jnp.minimum(value, end_value))

    return schedule


@by_value
@checked(init_value=NUMBER)
def piecewise_constant_schedule(
    init_value: ArrayLike, boundaries_and_scales: Mapping[int, ArrayLike] | None = None
) -> Schedule:
    """Steps: from each boundary on, the value so far times that boundary's scale.

    Args:
      init_value: the value before all boundaries.
      boundaries_and_scales: step -> factor, at least 0.

    Raises:
      ValueError: for a negative factor, or a NaN.

    Example:
      >>> piecewise_constant_schedule(1.0, {2: 0.1, 4: 0.1})(jnp.arange(6))
      Array([1.  , 1.  , 0.1 , 0.1 , 0.01, 0.01], dtype=float32)
    """
    scales = dict(sorted((boundaries_and_scales or {}).items()))
    for boundary, factor in scales.items():
        if isinstance(factor, float | int) and not factor >= 0:
            raise ValueError(
                f"piecewise_constant_schedule: scales must be >= 0, got {factor} at {boundary}"
            )

    def schedule(step: ArrayLike) -> ArrayLike:
        value = init_value
        for boundary, factor in scales.items():
            value = jnp.where(jnp.asarray(step) < boundary, value, factor * value)
        return value

    return schedule


@by_value
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other, each counting its steps from its own beginning.

    Args:
      schedules: `n` schedules.
      boundaries: the `n - 1` steps, rising, at which the next one begins, with 0.

    Raises:
      ValueError: if the numbers do not fit, or the boundaries do not rise.

    Example:
      >>> warmup = linear_schedule(0.0, 1.0, transition_steps=2)
      >>> join_schedules([warmup, constant_schedule(1.0)], [2])(jnp.arange(4))
      Array([0. , 0.5, 1. , 1. ], dtype=float32)
    """
    if len(boundaries) != len(schedules) - 1 or list(boundaries) != sorted(boundaries):
        raise ValueError(
            "join_schedules: boundaries must rise and be one less than the schedules, "
            f"got {list(boundaries)} for {len(schedules)} schedules"
        )

    def schedule(step: ArrayLike) -> ArrayLike:
        value = schedules[0](step)
        for boundary, following in zip(boundaries, schedules[1:], strict=True):
            since = jnp.asarray(step) - boundary
            value = jnp.where(since < 0, value, following(since))
        return value

    return schedule


@by_value
@checked(init_value=NUMBER, peak_value=NUMBER, end_value=NUMBER)
def warmup_cosine_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    decay_steps: int,
    end_value: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
) -> Schedule:
    """A straight line up to `peak_value`, then half a cosine down to `end_value`.

    Args:
      init_value: the value at step 0.
      peak_value: the value at step `warmup_steps`.
      warmup_steps: length of the straight line.
      decay_steps: length of the whole, the line included; more than `warmup_steps`.
      end_value: the value from step `decay_steps` on.
      exponent: of the cosine, see `cosine_decay_schedule`.

    Raises:
      ValueError: if `decay_steps` is not more than `warmup_steps`.
    """
    if decay_steps <= warmup_steps:
        raise ValueError(
            "warmup_cosine_decay_schedule: decay_steps counts the warm-up and must exceed it, "
            f"got decay_steps={decay_steps}, warmup_steps={warmup_steps}"
        )
    if isinstance(peak_value, float | int):
        alpha: ArrayLike = end_value / peak_value if peak_value else 0.0
    else:
        nonzero = jnp.where(peak_value == 0, 1, peak_value)
        alpha = jnp.where(peak_value == 0, 0.0, end_value / nonzero)
    return join_schedules(
        [
            linear_schedule(init_value, peak_value, warmup_steps),
            cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent),
        ],
        [warmup_steps],
    )
