"""Updates averaged or summed over steps."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.hyper import COUNTING, DECAY_RATE, Hyper, increment, transformation
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, DTypeLike, Params


class EmaState(NamedTuple):
    """The number of steps made and the moving average, not corrected for its start at 0."""

    count: Array  # type: ignore[assignment]
    ema: Params


@transformation(decay=DECAY_RATE)
def ema(
    decay: Hyper, debias: bool = True, accumulator_dtype: DTypeLike | None = None
) -> GradientTransformation:
    """The moving average of the updates: `m ← γ m + (1 - γ) g`; `u = m / (1 - γᵗ)`.

    `trace` is the same without the factor `1 - γ`.

    Args:
      decay: `γ` in [0, 1).
      debias: False for `u = m`.
      accumulator_dtype: dtype of `m`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range.
    """

    def init(params: Params) -> EmaState:
        return EmaState(jnp.zeros((), jnp.int32), moments_like(params, dtype=accumulator_dtype))

    def update(
        updates: Updates, state: EmaState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmaState]:
        t = increment(state.count)
        correction = 1 - decay**t

        def step(g: Array, m: Array) -> tuple[Array, Array]:
            m = (1 - decay) * g + decay * m
            return (m / correction if debias else m), m

        updates, average = map_moments(step, updates, state.ema, params=params)
        return updates, EmaState(t, average)

    return GradientTransformation(init, update)


class ApplyEvery(NamedTuple):
    """The number of steps since the last sum was handed on, and the sum."""

    count: Array  # type: ignore[assignment]
    grad_acc: Params


@transformation(k=COUNTING)
def apply_every(k: Hyper = 1) -> GradientTransformation:
    """Every `k` steps the sum of the last `k` updates, and 0 at the others.

    What follows in a chain runs at each step, also on the zeros in between. Infinities and NaN are
    forgotten with the sum that they were in; Optax's sums of arrays keep them for good, and send
    NaN at the steps in between too (of scalars, XLA happens to forget them).

    Args:
      k: a whole number, at least 1.

    Raises:
      ValueError: for a number outside its range.
    """

    def init(params: Params) -> ApplyEvery:
        return ApplyEvery(jnp.zeros((), jnp.int32), moments_like(params))

    def update(
        updates: Updates, state: ApplyEvery, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ApplyEvery]:
        passed = state.count % k

        def step(g: Array, total: Array) -> tuple[Array, Array]:
            total = jnp.where(passed == 0, 0, total) + g
            return jnp.where(passed == k - 1, total, 0), total

        updates, totals = map_moments(step, updates, state.grad_acc, params=params)
        count = (increment(state.count) % k).astype(state.count.dtype)
        return updates, ApplyEvery(count, totals)

    return GradientTransformation(init, update)
