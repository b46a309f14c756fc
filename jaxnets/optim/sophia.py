"""Sophia: momentum divided by the Hessian's diagonal, and clipped."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.optim.curvature import hutchinson_estimator_diag_hessian
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import (
    COUNTING,
    DECAY_RATE,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    Range,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, State, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule

_HUTCHINSON = hutchinson_estimator_diag_hessian()
_POSITIVE_OR_NONE = POSITIVE._replace(optional=True)
_PRINT_PERIOD = Range("an integer >= 0", lambda x: x >= 0 and x % 1 == 0)


class SophiaState(NamedTuple):
    """The number of steps made, the moving averages of gradients and of the Hessian's diagonal."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params
    hessian_fn_state: State


def _print_win_rate(within: list[Array], size: int, count: Array, every: Any) -> None:
    rate = sum(within, jnp.zeros(())) / max(size, 1)
    is_due = (every > 0) & (count % jnp.maximum(every, 1) == 0)
    jax.lax.cond(
        is_due, lambda: jax.debug.print("Sophia optimizer win rate: {}", rate), lambda: None
    )


@transformation(
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=POSITIVE,
    gamma=POSITIVE,
    clip_threshold=_POSITIVE_OR_NONE,
    update_interval=COUNTING,
    print_win_rate_every_n_steps=_PRINT_PERIOD,
)
def scale_by_sophia(
    b1: Hyper = 0.965,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    gamma: Hyper = 0.01,
    clip_threshold: Hyper | None = 1.0,
    update_interval: Hyper = 10,
    hessian_diagonal_fn: GradientTransformation = _HUTCHINSON,
    mu_dtype: DTypeLike | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: Hyper = 0,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = clip(m̂ / max(γ h, ε), ±ρ)`, the direction of Sophia; see `sophia`."""
    (estimate_init, _), estimator = hessian_diagonal_fn, chain(hessian_diagonal_fn)

    def init(params: Params) -> SophiaState:
        return SophiaState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
            hessian_fn_state=estimate_init(params),
        )

    def update(
        updates: Updates, state: SophiaState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SophiaState]:
        if params is None:
            raise ValueError(
                "scale_by_sophia: the Hessian is taken at the parameters; "
                "call update(gradients, state, params, ...)"
            )
        t = increment(state.count)
        within = []

        def step(g: Array, m: Array, h: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            u = m / (1 - b1**t) / jnp.maximum(gamma * h, eps)
            if clip_threshold is not None:
                within.append(jnp.sum(jnp.abs(u) < clip_threshold))
                u = jnp.clip(u, -clip_threshold, clip_threshold)
            return u, m, h

        directions, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        if verbose and clip_threshold is not None:
            _print_win_rate(within, tree.size(updates), t, print_win_rate_every_n_steps)

        def refresh() -> tuple[Any, State]:
            diagonal, (estimator_state,) = estimator.update(
                updates, (state.hessian_fn_state,), params, **extra
            )
            # where there is no gradient nothing changes, whatever the loss says
            diagonal = jax.tree.map(
                lambda g, d: None if g is None else d,
                updates,
                diagonal,
                is_leaf=lambda x: x is None,
            )

            def average(d: Array, h: Array) -> tuple[Array, Array]:
                return d, (1 - b2) * d + b2 * h

            return map_moments(average, diagonal, nu)[1], estimator_state

        # the step just made used the average before: the new one is for the next
        nu, hessian_fn_state = jax.lax.cond(
            state.count % update_interval == 0, refresh, lambda: (nu, state.hessian_fn_state)
        )
        return directions, SophiaState(t, mu, nu, hessian_fn_state)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=POSITIVE,
    weight_decay=NON_NEGATIVE,
    gamma=POSITIVE,
    clip_threshold=_POSITIVE_OR_NONE,
    update_interval=COUNTING,
    print_win_rate_every_n_steps=_PRINT_PERIOD,
)
def sophia(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.965,
    b2: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    weight_decay_mask: Mask | None = None,
    gamma: ScalarOrSchedule = 0.01,
    clip_threshold: ScalarOrSchedule | None = 1.0,
    update_interval: ScalarOrSchedule = 10,
    hessian_diagonal_fn: GradientTransformation = _HUTCHINSON,
    mu_dtype: DTypeLike | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: ScalarOrSchedule = 0,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Sophia: momentum divided by a moving average of the Hessian's diagonal, and clipped.

        m ← β₁ m + (1 - β₁) g                  m̂ = m / (1 - β₁ᵗ)
        θ ← θ - η (clip(m̂ / max(γ h, ε), ±ρ) + λ θ)
        h ← β₂ h + (1 - β₂) ĥ                  every k steps, the first included

    Where the estimate `ĥ` of the diagonal is 0 or negative, the step is a sign times `ρ`; so is
    the whole first one. `ĥ` is made from what the estimator needs as extra arguments of `update`.
    Inside Optax's combinators, which hand those on to their own class only, wrap the optimizer as
    `optax.GradientTransformationExtraArgs(*sophia(...))`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε > 0`.
      weight_decay: `λ ≥ 0`.
      weight_decay_mask: which parameters decay, see `add_decayed_weights`.
      gamma: `γ > 0`; larger, and fewer entries are clipped. The authors want 10% to 50% unclipped.
      clip_threshold: `ρ > 0`; None does not clip.
      update_interval: `k ≥ 1`, the number of steps from one estimate to the next.
      hessian_diagonal_fn: the estimator, ours, Optax's or your own: a transformation whose updates
        are the diagonal. See `hutchinson_estimator_diag_hessian` (the default) and
        `gauss_newton_bartlett_estimator_diag_hessian`.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      verbose: whether to print the fraction of entries that are not clipped.
      print_win_rate_every_n_steps: how often; 0 for never.
      nu_dtype: dtype in which `h` is stored; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range, or an update without params or without what the
        estimator needs.

    Example:
      >>> optimizer = sophia(1e-3)
      >>> obj_fn = lambda params: loss(params, batch)
      >>> updates, state = optimizer.update(gradients, state, params, obj_fn=obj_fn)

    References:
      Liu et al., [Sophia: a scalable stochastic second-order optimizer for language model
      pre-training](https://arxiv.org/abs/2305.14342), 2023.
    """
    return chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            clip_threshold,
            update_interval,
            hessian_diagonal_fn,
            mu_dtype,
            verbose,
            print_win_rate_every_n_steps,
            nu_dtype=nu_dtype,
        ),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
