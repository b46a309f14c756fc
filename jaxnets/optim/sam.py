"""Sharpness-aware minimization: descend by the gradient of the worst point nearby."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.leaves import copy_of, map_updates, map_with_params, require_params
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    State,
    Updates,
    apply_updates,
    chain,
    empty_state,
)
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params

NormalizeState = EmptyState
"""The state of `normalize`, which keeps none."""


@by_value
def normalize() -> GradientTransformation:
    """`u = g / ‖g‖`, the norm taken over all leaves; zeros stay zeros, where Optax's are NaN."""

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        norm = global_norm(updates)
        norm = jnp.where(norm == 0, 1, norm)
        return map_updates(lambda g: g / norm, updates), state

    return GradientTransformation(empty_state, update)


class SAMState(NamedTuple):
    """Where in the cycle training is, both optimizers' states, and the parameters proper."""

    steps_since_sync: Array
    opt_state: State
    adv_state: State
    cache: Params | None


def _pick(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


@by_value
@combines(
    lambda call, state: {
        "": (call["optimizer"], state.opt_state),
        "adv_optimizer": (call["adv_optimizer"], state.adv_state),
    }
)
def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> GradientTransformation:
    """Climb from `θ` for some steps, then descend from `θ` by the gradient found up there.

        θ' ← θ + ρ ∇L(θ) / ‖∇L(θ)‖       an adversarial step, or `sync_period - 1` of them
        θ ← θ - η ∇L(θ')                 the outer optimizer's

    Either each `update` is one of these steps, so that the parameters are at `θ'` every second
    time; or, with `opaque_mode`, each is a whole cycle and calls for the gradients that it needs.

    Args:
      optimizer: the outer one.
      adv_optimizer: its steps are taken backwards.
      sync_period: steps in a cycle, at least 1. (With 1, Optax
        takes each step from the point before the last; here they are plain steps.)
      reset_state: whether each cycle begins with a fresh state of `adv_optimizer`; else with that
        of the cycle before.
      opaque_mode: whether `update` needs `grad_fn(params, i)`, which returns the gradients for the
        adversarial step `i`. For nets whose batch normalization must not see `θ'` twice.
      batch_axis_name: in opaque mode, the mapped axis over which these gradients are averaged.

    Raises:
      ValueError: if `sync_period` is less than 1, or an update gets no params or no `grad_fn`.

    Example:
      >>> optimizer = sam(sgd(0.01), chain(normalize(), sgd(0.05)), opaque_mode=True)
      >>> grad_fn = jax.grad(lambda params, _: loss(params, batch))
      >>> updates, state = optimizer.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)

    References:
      Foret et al., [Sharpness-aware minimization for efficiently improving
      generalization](https://arxiv.org/abs/2010.01412), 2020.
    """
    if sync_period < 1:
        raise ValueError(f"sam: sync_period must be >= 1, got {sync_period}")
    outer, inner = chain(optimizer), chain(adv_optimizer)

    def init(params: Params) -> SAMState:
        return SAMState(
            steps_since_sync=jnp.zeros((), jnp.int32),
            opt_state=outer.init(params)[0],
            adv_state=inner.init(params)[0],
            cache=None if opaque_mode else copy_of(params),
        )

    def climb(updates: Updates, state: State, params: Params, extra: Any) -> tuple[Updates, State]:
        updates, (state,) = inner.update(updates, (state,), params, **extra)
        return map_updates(lambda u: -u, updates), state

    def one_step(
        updates: Updates, state: SAMState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SAMState]:
        require_params("sam", params)
        extra.pop("grad_fn", None)
        first = state.steps_since_sync == 0
        last = state.steps_since_sync == sync_period - 1
        up, adv_state = climb(updates, state.adv_state, params, extra)
        cache = _pick(first, copy_of(params), state.cache)
        down, (opt_state,) = outer.update(updates, (state.opt_state,), cache, **extra)
        back = map_with_params(lambda g, p, c, u: c - p + u, updates, params, cache, down)
        fresh = inner.init(params)[0] if reset_state else state.adv_state
        return _pick(last, back, up), SAMState(
            steps_since_sync=(state.steps_since_sync + 1) % sync_period,
            opt_state=_pick(last, opt_state, state.opt_state),
            adv_state=_pick(last, fresh, adv_state),
            cache=cache,
        )

    def whole_cycle(
        updates: Updates,
        state: SAMState,
        params: Params | None = None,
        *,
        grad_fn: Callable[[Params, int], Updates] | None = None,
        **extra: Any,
    ) -> tuple[Updates, SAMState]:
        require_params("sam", params)
        if grad_fn is None:
            raise ValueError(
                "sam: opaque_mode needs the gradients' function; "
                "call update(gradients, state, params, grad_fn=grad_fn)"
            )
        worst, adv_state = params, state.adv_state
        for i in range(sync_period - 1):
            up, adv_state = climb(updates, adv_state, worst, extra)
            worst = apply_updates(worst, up)
            updates = grad_fn(worst, i)
            if batch_axis_name is not None:
                updates = jax.lax.pmean(updates, batch_axis_name)
        if reset_state:
            adv_state = inner.init(params)[0]
        updates, (opt_state,) = outer.update(updates, (state.opt_state,), params, **extra)
        return updates, SAMState(jnp.zeros((), jnp.int32), opt_state, adv_state, None)

    return GradientTransformation(init, whole_cycle if opaque_mode else one_step)
