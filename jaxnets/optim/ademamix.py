"""AdEMAMix: Adam with a fast and a slow average of the gradients; and the same with one."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.calls import reads
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    Hyper,
    at,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByAdemamixState(NamedTuple):
    """The numbers of steps made, the fast and the slow average, and that of squared gradients."""

    count: Array  # type: ignore[assignment]
    count_m2: Array
    m1: Params
    m2: Params
    nu: Params


@checked(b3=DECAY_RATE, alpha=NON_NEGATIVE)
@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE)
@reads(
    lambda call, state: {name: at(call[name], state.count_m2) for name in ("b3", "alpha")},
)
def scale_by_ademamix(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    b3: Hyper = 0.9999,
    alpha: Hyper = 6.0,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = (m̂₁ + α m₂) / (√(v̂ + ε̄) + ε)`; see `ademamix`.

    `v` has a dtype of its own (`nu_dtype`); Optax's begins in `mu_dtype` too.
    """

    def init(params: Params) -> ScaleByAdemamixState:
        return ScaleByAdemamixState(
            count=jnp.zeros((), jnp.int32),
            count_m2=jnp.zeros((), jnp.int32),
            m1=moments_like(params, dtype=mu_dtype),
            m2=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAdemamixState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdemamixState]:
        t = increment(state.count)
        correction1, correction2 = 1 - b1**t, 1 - b2**t
        slow, share = at(b3, state.count_m2), at(alpha, state.count_m2)

        def step(g: Array, m1: Array, m2: Array, v: Array) -> tuple[Array, ...]:
            m1 = (1 - b1) * g + b1 * m1
            m2 = (1 - slow) * g + slow * m2
            v = (1 - b2) * abs_sq(g) + b2 * v
            # the slow average is to fill slowly: no correction
            m = m1 / correction1 + share * m2
            return m / (jnp.sqrt(v / correction2 + eps_root) + eps), m1, m2, v

        updates, m1, m2, nu = map_moments(
            step, updates, state.m1, state.m2, state.nu, params=params
        )
        return updates, ScaleByAdemamixState(t, increment(state.count_m2), m1, m2, nu)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    b3=DECAY_RATE,
    alpha=NON_NEGATIVE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def ademamix(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AdamW with a second, much slower average of the gradients beside its momentum.

        m₁ ← β₁ m₁ + (1 - β₁) g         m̂₁ = m₁ / (1 - β₁ᵗ)
        m₂ ← β₃ m₂ + (1 - β₃) g
        v ← β₂ v + (1 - β₂) g²          v̂ = v / (1 - β₂ᵗ)
        θ ← θ - η ((m̂₁ + α m₂) / (√(v̂ + ε̄) + ε) + λ θ)

    It uses gradients that are thousands of steps old: for long runs.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      b3: `β₃` in [0, 1); 0.999 for shorter runs.
      alpha: `α ≥ 0`; the paper lets it and `β₃` rise over the run, by schedules.
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which `m₁` and `m₂` are stored; by default the parameters', at least
        float32. Optax stores `v` in it too, until the first step.
      weight_decay: `λ ≥ 0`, decoupled.
      mask: which parameters decay, see `add_decayed_weights`.
      nu_dtype: dtype in which `v` is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range, or an update with decay and without params.

    Example:
      >>> optimizer = ademamix(1e-3, alpha=linear_schedule(0.0, 5.0, 10_000))

    References:
      Pagliardini, Ablin and Grangier, [The AdEMAMix optimizer: better, faster,
      older](https://arxiv.org/abs/2409.03137), 2024.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


class ScaleBySimplifiedAdEMAMixState(NamedTuple):
    """The number of steps made, the sum of gradients and the average of squared ones."""

    t: Array
    m: Params
    n: Params


@checked(alpha=NON_NEGATIVE)
@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE)
@reads(lambda call, state: {"alpha": at(call["alpha"], state.t)})
def scale_by_simplified_ademamix(
    b1: Hyper = 0.99,
    b2: Hyper = 0.95,
    alpha: Hyper = 0.0,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
) -> GradientTransformation:
    """`u = (m + α g) / (√(n̂ + ε̄) + ε)`; see `simplified_ademamix`."""

    def init(params: Params) -> ScaleBySimplifiedAdEMAMixState:
        return ScaleBySimplifiedAdEMAMixState(
            t=jnp.zeros((), jnp.int32), m=moments_like(params), n=moments_like(params, real=True)
        )

    def update(
        updates: Updates,
        state: ScaleBySimplifiedAdEMAMixState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleBySimplifiedAdEMAMixState]:
        t = increment(state.t)
        correction, share = 1 - b2**t, at(alpha, state.t)

        def step(g: Array, m: Array, n: Array) -> tuple[Array, Array, Array]:
            m = g + b1 * m
            n = (1 - b2) * abs_sq(g) + b2 * n
            return (m + share * g) / (jnp.sqrt(n / correction + eps_root) + eps), m, n

        updates, m, n = map_moments(step, updates, state.m, state.n, params=params)
        return updates, ScaleBySimplifiedAdEMAMixState(t, m, n)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    alpha=NON_NEGATIVE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def simplified_ademamix(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.99,
    b2: ScalarOrSchedule = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """AdEMAMix with one sum of gradients, to which the present one is added once more.

        m ← β₁ m + g
        n ← β₂ n + (1 - β₂) g²          n̂ = n / (1 - β₂ᵗ)
        θ ← θ - η ((m + α g) / (√(n̂ + ε̄) + ε) + λ θ)

    `m` is a sum and no average: the rate is `1 - β₁` times that of Adam.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      alpha: `α ≥ 0`.
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      weight_decay: `λ ≥ 0`, decoupled.
      mask: which parameters decay, see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update with decay and without params.

    References:
      Morwani et al., [Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD
      variants](https://arxiv.org/abs/2502.02431), 2025.
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
