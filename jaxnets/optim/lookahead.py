"""Lookahead: fast parameters explore, slow ones follow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import combines
from jaxnets.optim.hyper import COUNTING, NON_NEGATIVE, Hyper, transformation
from jaxnets.optim.leaves import map_with_params
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, Params


class LookaheadState(NamedTuple):
    """The fast optimizer's state, and its steps since the parameters last met."""

    fast_state: State
    steps_since_sync: Array


class LookaheadParams(NamedTuple):
    """The fast parameters, for gradients, and the slow ones, for evaluation."""

    fast: Params
    slow: Params

    @classmethod
    def init_synced(cls, params: Params) -> "LookaheadParams":
        """Both start as `params`."""
        return cls(fast=params, slow=params)


@transformation(sync_period=COUNTING, slow_step_size=NON_NEGATIVE)
@combines(lambda call, state: {"": (call["fast_optimizer"], state.fast_state)})
def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: Hyper,
    slow_step_size: Hyper,
    reset_state: bool = False,
) -> GradientTransformation:
    """After every `k` fast steps the slow parameters go part of the way, and the fast ones there.

        φ ← φ + u                          each step
        θ ← θ + α (φ - θ);  φ ← θ          each k-th

    The parameters are `LookaheadParams`, and so are the updates; the gradients are those of the
    fast ones alone. Nothing may come after it in a chain.

    Args:
      fast_optimizer: makes `u`.
      sync_period: `k ≥ 1`.
      slow_step_size: `α ≥ 0`.
      reset_state: whether the fast optimizer begins anew after each meeting.

    Raises:
      ValueError: for a number outside its range, or an update without `LookaheadParams`.

    Example:
      >>> optimizer = lookahead(sgd(0.1), sync_period=5, slow_step_size=0.5)
      >>> params = LookaheadParams.init_synced(params)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(gradient(params.fast), state, params)
      >>> params = apply_updates(params, updates)

    References:
      Zhang et al., [Lookahead optimizer: k steps forward, 1 step
      back](https://arxiv.org/abs/1907.08610), 2019.
    """
    fast = with_extra_args_support(fast_optimizer)

    def init(params: Params) -> LookaheadState:
        return LookaheadState(fast.init(getattr(params, "fast", params)), jnp.zeros((), jnp.int32))

    def update(
        updates: Updates, state: LookaheadState, params: Params | None = None, **extra: Any
    ) -> tuple[LookaheadParams, LookaheadState]:
        if params is None or not (hasattr(params, "fast") and hasattr(params, "slow")):
            raise ValueError(
                "lookahead: params must be LookaheadParams, as from "
                f"LookaheadParams.init_synced(params), got {type(params).__name__}"
            )
        updates, fast_state = fast.update(updates, state.fast_state, params.fast, **extra)
        meet = state.steps_since_sync == sync_period - 1

        def fast_step(u: Array, phi: Array, theta: Array) -> Array:
            return jnp.where(meet, u - (1 - slow_step_size) * (phi + u - theta), u)

        def slow_step(u: Array, phi: Array, theta: Array) -> Array:
            return jnp.where(meet, slow_step_size * (phi + u - theta), 0)

        if reset_state:
            fast_state = jax.tree.map(
                lambda now, anew: jnp.where(meet, anew, now), fast_state, fast.init(params.fast)
            )
        steps = LookaheadParams(
            map_with_params(fast_step, updates, params.fast, params.slow),
            map_with_params(slow_step, updates, params.fast, params.slow),
        )
        since = (state.steps_since_sync + 1) % sync_period
        return steps, LookaheadState(fast_state, since.astype(jnp.int32))

    return GradientTransformation(init, update)
