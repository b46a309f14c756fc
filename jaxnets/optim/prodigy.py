"""Prodigy: Adam that finds its own learning rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import reads
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    at,
    checked,
    in_range,
    increment,
    transformation,
)
from jaxnets.optim.leaves import (
    abs_sq,
    copy_of,
    dot,
    map_moments,
    map_with_params,
    moments_like,
    moved_from,
    require_params,
    scalar_dtype,
    with_zeros,
)
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, Params, ScalarOrSchedule


class ProdigyState(NamedTuple):
    """Adam's moments, the sum of gradients, where it began, and the distance estimated so far."""

    exp_avg: Params
    exp_avg_sq: Params
    grad_sum: Params
    params0: Params
    estim_lr: Array
    numerator_weighted: Array
    count: Array  # type: ignore[assignment]


@transformation(
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    b3=DECAY_RATE,
    eps=NON_NEGATIVE,
    estim_lr0=POSITIVE,
    estim_lr_coef=POSITIVE,
    weight_decay=NON_NEGATIVE,
)
@reads(lambda call, state: {"learning_rate": at(call["learning_rate"], state.count)})
def _prodigy(
    learning_rate: Hyper,
    b1: Hyper,
    b2: Hyper,
    b3: Hyper | None = None,
    eps: Hyper = 1e-8,
    estim_lr0: Hyper = 1e-6,
    estim_lr_coef: Hyper = 1.0,
    weight_decay: Hyper = 0.0,
    safeguard_warmup: bool = False,
) -> GradientTransformation:
    b3 = b2**0.5 if b3 is None else b3

    def init(params: Params) -> ProdigyState:
        dtype = scalar_dtype(params)
        return ProdigyState(
            exp_avg=moments_like(params),
            exp_avg_sq=moments_like(params, real=True),
            grad_sum=moments_like(params),
            params0=copy_of(params),
            estim_lr=jnp.asarray(estim_lr0, dtype),
            numerator_weighted=jnp.zeros((), dtype),
            count=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Updates, state: ProdigyState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ProdigyState]:
        require_params("prodigy", params)
        gradients = with_zeros(updates, params)
        t = increment(state.count)
        d, dtype = state.estim_lr, state.estim_lr.dtype
        rate = at(learning_rate, state.count)
        rate = (d * rate * (1 - b2**t) ** 0.5 / (1 - b1**t)).astype(dtype)
        weight = (d if safeguard_warmup else rate) / estim_lr0

        def accumulate(g: Array, m: Array, v: Array, s: Array) -> tuple[Array, ...]:
            g = d * g
            return g, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * abs_sq(g), b3 * s + weight * g

        _, m, v, s = map_moments(
            accumulate, updates, state.exp_avg, state.exp_avg_sq, state.grad_sum, params=params
        )
        progress = dot(gradients, moved_from(state.params0, params))
        numerator = b3 * state.numerator_weighted + (d / estim_lr0) * rate * progress
        denominator = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(s)), start=0 * d)
        # where nothing has been seen, nothing is estimated
        estimate = numerator / jnp.where(denominator == 0, 1, denominator)
        d = jnp.maximum(d, estim_lr_coef * estimate)

        def step(g: Array, p: Array, m: Array, v: Array) -> Array:
            moved: Array = -weight_decay * rate * p - rate * m / (jnp.sqrt(v) + d * eps)
            return moved

        new = ProdigyState(m, v, s, state.params0, d.astype(dtype), numerator.astype(dtype), t)
        return map_with_params(step, updates, params, m, v), new

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    beta3=DECAY_RATE,
    eps=NON_NEGATIVE,
    estim_lr0=POSITIVE,
    estim_lr_coef=POSITIVE,
    weight_decay=NON_NEGATIVE,
)
def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: tuple[ScalarOrSchedule, ScalarOrSchedule] = (0.9, 0.999),
    beta3: ScalarOrSchedule | None = None,
    eps: ScalarOrSchedule = 1e-8,
    estim_lr0: ScalarOrSchedule = 1e-6,
    estim_lr_coef: ScalarOrSchedule = 1.0,
    weight_decay: ScalarOrSchedule = 0.0,
    safeguard_warmup: bool = False,
) -> GradientTransformation:
    """Adam whose rate is an estimate `d` of the distance from the start to the solution.

        r = η d √(1 - β₂ᵗ) / (1 - β₁ᵗ)
        m ← β₁ m + (1 - β₁) d g         v ← β₂ v + (1 - β₂) d² g²
        n ← β₃ n + r d/d₀ ⟨g, θ₀ - θ⟩    s ← β₃ s + r d/d₀ g
        d ← max(d, a n / ‖s‖₁)
        θ ← θ - r m / (√v + d ε) - r λ θ

    All-zero gradients leave `d` as it is; Optax's becomes NaN when the first ones are.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule around 1.
      betas: `β₁` and `β₂`, in [0, 1).
      beta3: `β₃` in [0, 1), by default `√β₂`.
      eps: `ε ≥ 0`.
      estim_lr0: `d₀ > 0`, the first estimate, which should be below the distance.
      estim_lr_coef: `a > 0`.
      weight_decay: `λ ≥ 0`, decoupled.
      safeguard_warmup: leave `η` and Adam's corrections out of `s`, for a long warm-up.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = prodigy(cosine_decay_schedule(1.0, 1000))

    References:
      Mishchenko and Defazio, [Prodigy: an expeditiously adaptive parameter-free
      learner](https://arxiv.org/abs/2306.06101), 2023.
    """
    try:
        b1, b2 = betas
    except (TypeError, ValueError):
        raise ValueError(f"prodigy: betas must be two numbers in [0, 1), got {betas!r}") from None
    return _prodigy(
        learning_rate,
        in_range("prodigy", "betas[0]", b1, DECAY_RATE),
        in_range("prodigy", "betas[1]", b2, DECAY_RATE),
        beta3,
        eps,
        estim_lr0,
        estim_lr_coef,
        weight_decay,
        safeguard_warmup,
    )
