"""ADOPT: Adam that converges whatever its second decay rate."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxnets.optim.adam import ScaleByAdamState
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


def _fourth_root(count: Any) -> Any:
    return count**0.25


def _clip(u: Array, limit: Any) -> Array:
    if jnp.isrealobj(u):
        return jnp.clip(u, -limit, limit)
    size = jnp.abs(u)
    return jnp.where(size > limit, limit / jnp.where(size == 0, 1, size), 1) * u


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=POSITIVE)
def scale_by_adopt(
    b1: Hyper = 0.9,
    b2: Hyper = 0.9999,
    eps: Hyper = 1e-6,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Array], Any] = _fourth_root,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = m`, the average of `g / max(√v, ε)`, where `v` does not know `g` yet; see `adopt`."""

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamState]:
        # the first gradient only makes `v`, which is then the whole of it
        started = state.count > 0
        d1, d2 = jnp.where(started, b1, 1.0), jnp.where(started, b2, 0.0)

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            u = g / jnp.maximum(jnp.sqrt(v), eps)
            if use_clipping:
                u = _clip(u, clip_value_fn(state.count))
            m = (1 - d1) * u + d1 * m
            v = (1 - d2) * abs_sq(g) + d2 * v
            return (1 - d1) * u + d1 * m if nesterov else m, m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByAdamState(increment(state.count), mu, nu)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, b1=DECAY_RATE, b2=DECAY_RATE, eps=POSITIVE)
def adopt(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.9999,
    eps: ScalarOrSchedule = 1e-6,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Array], Any] = _fourth_root,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adam whose gradient is divided by the root mean square of those before it, then averaged.

        m ← β₁ m + (1 - β₁) clip(g / max(√v, ε), ±c(t))
        v ← β₂ v + (1 - β₂) g²
        θ ← θ - η m

    The first step only sets `v = g²`. Without `g` in `v`, the two are not correlated, and the
    method converges for any `β₂`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε > 0`.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      nesterov: whether to average `m` with the new term once more.
      use_clipping: whether to clip. Magnitudes, where parameters are complex.
      clip_value_fn: `c`, of the number of steps made; by default its fourth root. A function
        defined once, so that equal calls make equal optimizers.
      nu_dtype: dtype in which `v` is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = adopt(1e-3)

    References:
      Taniguchi et al., [ADOPT: modified Adam can converge with any β₂ with the optimal
      rate](https://arxiv.org/abs/2411.02853), 2024.
    """
    return chain(
        scale_by_adopt(
            b1,
            b2,
            eps,
            mu_dtype,
            nesterov=nesterov,
            use_clipping=use_clipping,
            clip_value_fn=clip_value_fn,
            nu_dtype=nu_dtype,
        ),
        scale_by_learning_rate(learning_rate),
    )
