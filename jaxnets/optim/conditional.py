"""Updates that are made only where a condition holds."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete
from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.hyper import WHOLE, Hyper, increment, transformation
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, Params, PyTree


class Condition(Protocol):
    """`condition(step, **extra) -> bool`; the first step is 0."""

    def __call__(self, step: Array, **extra: Any) -> Any:
        """A scalar; `extra` are those of `update`, if asked for."""


def cast_like(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` in the dtypes of `other`, whose structure it has."""
    return jax.tree.map(
        lambda x, like: x if x.dtype == like.dtype else jnp.astype(x, like.dtype), tree, other
    )


def update_if(
    condition: Any,
    inner: Callable[[Updates, State], tuple[Updates, State]],
    updates: Updates,
    state: State,
    *,
    otherwise: Updates | None = None,
    like: Updates | None = None,
) -> tuple[Updates, State]:
    """`inner(updates, state)` where `condition` holds; else no update, and the state as it is.

    Only one of the two is computed, except under `vmap` with conditions that differ.

    Args:
      condition: a scalar.
      inner: a transformation's update.
      updates: its updates.
      state: its state; the new one gets the same dtypes.
      otherwise: the updates where the condition does not hold, by default 0.
      like: gradients of the dtypes that the updates should be derived from, by default `updates`.
    """
    state = jax.tree.map(jnp.asarray, state)
    shapes, _ = jax.eval_shape(inner, updates if like is None else like, state)

    def make(updates: Updates, state: State) -> tuple[Updates, State]:
        new, new_state = jax.tree.map(jnp.asarray, inner(updates, state))
        return cast_like(new, shapes), cast_like(new_state, state)

    def skip(updates: Updates, state: State) -> tuple[Updates, State]:
        if otherwise is not None:
            return cast_like(otherwise, shapes), state
        return jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes), state

    known = concrete(condition)
    if known is not None:
        # without `jit` there is nothing to compile for
        return (make if known else skip)(updates, state)
    made: tuple[Updates, State] = jax.lax.cond(condition, make, skip, updates, state)
    return made


def update_where(
    condition: Array,
    inner: Callable[[Updates, State], tuple[Updates, State]],
    updates: Updates,
    state: State,
    like: Updates | None = None,
) -> tuple[Updates, State]:
    """What `update_if` gives, for conditions that hold nearly always.

    The update is computed in any case, of zeros in place of gradients that should leave no trace,
    and chosen element by element as it is written. A `cond` would have to store it first: two
    passes over memory more.
    """
    state = jax.tree.map(jnp.asarray, state)
    shapes, _ = jax.eval_shape(inner, updates if like is None else like, state)
    harmless = jax.tree.map(
        lambda g: jnp.where(condition, g, jnp.zeros_like(g)) if has_values(g) else g, updates
    )
    new, new_state = jax.tree.map(jnp.asarray, inner(harmless, state))
    new, new_state = cast_like(new, shapes), cast_like(new_state, state)
    chosen: tuple[Updates, State] = jax.tree.map(
        lambda new, old: jnp.where(condition, new, old),
        (new, new_state),
        (jax.tree.map(jnp.zeros_like, new), state),
    )
    return chosen


class ConditionallyTransformState(NamedTuple):
    """The inner transformation's state and the number of steps made."""

    inner_state: State
    step: Array


@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def conditionally_transform(
    inner: GradientTransformation,
    should_transform_fn: Condition,
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Transform at some steps only; at others updates are handed through and the state stays.

    Args:
      inner: the transformation.
      should_transform_fn: `step -> bool`, where the first step is 0.
      forward_extra_args: whether the condition gets the extra arguments of `update` too.

    Example:
      >>> conditionally_transform(add_decayed_weights(1e-4), lambda step: step % 10 == 0)
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ConditionallyTransformState:
        return ConditionallyTransformState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(
        updates: Updates,
        state: ConditionallyTransformState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, ConditionallyTransformState]:
        condition = should_transform_fn(state.step, **(extra if forward_extra_args else {}))
        updates, inner_state = update_if(
            condition,
            lambda updates, inner_state: inner.update(updates, inner_state, params, **extra),
            updates,
            state.inner_state,
            otherwise=updates,
        )
        return updates, ConditionallyTransformState(inner_state, increment(state.step))

    return GradientTransformation(init, update)


class ConditionallyMaskState(NamedTuple):
    """The number of steps made and the inner transformation's state."""

    step: Array
    inner_state: State


@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def conditionally_mask(
    inner: GradientTransformation,
    should_transform_fn: Condition,
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Update at some steps only; at others updates are 0 and the state stays.

    Args:
      inner: the transformation.
      should_transform_fn: `step -> bool`, where the first step is 0.
      forward_extra_args: whether the condition gets the extra arguments of `update` too.

    Example:
      >>> conditionally_mask(sgd(0.1), lambda step, value: value < 1.0, forward_extra_args=True)
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ConditionallyMaskState:
        return ConditionallyMaskState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: Updates, state: ConditionallyMaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyMaskState]:
        condition = should_transform_fn(state.step, **(extra if forward_extra_args else {}))
        updates, inner_state = update_if(
            condition,
            lambda updates, inner_state: inner.update(updates, inner_state, params, **extra),
            updates,
            state.inner_state,
        )
        return updates, ConditionallyMaskState(increment(state.step), inner_state)

    return GradientTransformation(init, update)


class ApplyIfFiniteState(NamedTuple):
    """How many updates in a row were not finite, whether the last one was, and how many in all."""

    notfinite_count: Array
    last_finite: Array
    total_notfinite: Array
    inner_state: State


def has_values(x: Any) -> bool:
    """Whether `x` is of numbers, and not the gradient of an integer."""
    return bool(jnp.result_type(x) != jax.dtypes.float0)


def all_finite(tree: PyTree) -> Array:
    """Whether no leaf has a NaN or an infinity."""
    # x - x is 0 or NaN, and XLA's CPU backend sums three times as fast as it reduces booleans
    sums = [jnp.sum(x - x) for x in map(jnp.asarray, jax.tree.leaves(tree)) if has_values(x)]
    return jnp.stack([total == 0 for total in sums]).all() if sums else jnp.array(True)


@transformation(max_consecutive_errors=WHOLE)
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def apply_if_finite(
    inner: GradientTransformation, max_consecutive_errors: Hyper
) -> GradientTransformation:
    """Leave out updates that have a NaN or an infinity, but not more than `n` in a row.

    Such a gradient gives an update of 0 and does not change the inner state. After `n` of them in a
    row all are let through, as something must be wrong that skipping does not cure.

    The inner update is always computed; Optax's is under `cond`, which on a CPU is slower for large
    leaves and faster for small ones, and fails for gradients narrower than the parameters.

    Args:
      inner: the transformation; gradients that are left out reach it as zeros, and what it makes
        of them is discarded.
      max_consecutive_errors: `n`, an integer >= 0.

    Example:
      >>> optimizer = apply_if_finite(chain(clip_by_global_norm(1.0), adam(1e-3)), 5)
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ApplyIfFiniteState:
        return ApplyIfFiniteState(
            notfinite_count=jnp.zeros((), jnp.int32),
            last_finite=jnp.array(True),
            total_notfinite=jnp.zeros((), jnp.int32),
            inner_state=inner.init(params),
        )

    def update(
        updates: Updates, state: ApplyIfFiniteState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ApplyIfFiniteState]:
        finite = all_finite(updates)
        in_a_row = jnp.where(finite, 0, increment(state.notfinite_count))
        total = jnp.where(finite, state.total_notfinite, increment(state.total_notfinite))
        updates, inner_state = update_where(
            finite | (in_a_row > max_consecutive_errors),
            lambda updates, inner_state: inner.update(updates, inner_state, params, **extra),
            updates,
            state.inner_state,
        )
        return updates, ApplyIfFiniteState(in_a_row, finite, total, inner_state)

    return GradientTransformation(init, update)
