"""Losses scaled up so that float16 gradients do not underflow, by as much as they bear."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import combines
from jaxnets.optim.conditional import all_finite, has_values, update_where
from jaxnets.optim.hyper import COUNTING, POSITIVE, Hyper, Range, increment, transformation
from jaxnets.optim.leaves import widened
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, Params, PyTree


class DynamicLossScaleState(NamedTuple):
    """The scale of the next loss, the finite steps since it changed, the optimizer's state."""

    loss_scale: Array
    good_steps: Array
    inner_state: State


@transformation(
    initial_scale=POSITIVE,
    period=COUNTING,
    factor=Range("> 1", lambda x: x > 1),
    min_scale=POSITIVE,
)
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def dynamic_loss_scale(
    inner: GradientTransformation,
    initial_scale: Hyper = 2.0**15,
    period: Hyper = 2000,
    factor: Hyper = 2.0,
    min_scale: Hyper = 1.0,
) -> GradientTransformation:
    """Optimize with the gradients of a loss times `s`, where `s` is as large as float16 bears.

        finite:      u = inner(g / s);  s ← c s after T finite steps in a row
        else:        u = 0;             s ← max(s / c, s_min)

    Steps with a NaN or an infinity change nothing but `s`; `inner` gets gradients in float32 at
    least. Optax has no such transformation.

    Args:
      inner: the optimizer.
      initial_scale: `s > 0` of the first step.
      period: `T ≥ 1`.
      factor: `c > 1`.
      min_scale: `s_min > 0`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      The loss must be scaled by the state's `s`, so that the step is written out (`train.step`'s
      loss does not see the optimizer's state):

      >>> optimizer = dynamic_loss_scale(adam(1e-3))
      >>> def step(params, state, batch):
      ...     gradients = jax.grad(lambda p: scale_loss(loss(p, batch), state))(params)
      ...     updates, state = optimizer.update(gradients, state, params)
      ...     return apply_updates(params, updates), state

    References:
      Micikevicius et al., [Mixed precision training](https://arxiv.org/abs/1710.03740), 2017.
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> DynamicLossScaleState:
        scale = jnp.asarray(initial_scale, jnp.float32)
        return DynamicLossScaleState(scale, jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: Updates, state: DynamicLossScaleState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, DynamicLossScaleState]:
        scale = state.loss_scale
        finite = all_finite(updates)
        updates, inner_state = update_where(
            finite,
            lambda unscaled, inner_state: inner.update(unscaled, inner_state, params, **extra),
            jax.tree.map(lambda g: widened(g) / scale if has_values(g) else g, updates),
            state.inner_state,
            like=updates,
        )
        good_steps = jnp.where(finite, increment(state.good_steps), 0)
        grow = good_steps >= period
        larger = jnp.where(jnp.isfinite(factor * scale), factor * scale, scale)
        smaller = jnp.maximum(scale / factor, min_scale)
        scale = jnp.where(finite, jnp.where(grow, larger, scale), smaller).astype(jnp.float32)
        good_steps = jnp.where(grow, 0, good_steps)
        return updates, DynamicLossScaleState(scale, good_steps, inner_state)

    return GradientTransformation(init, update)


def loss_scale(state: State) -> Array:
    """The scale of the next loss, from the state of an optimizer with a `dynamic_loss_scale`.

    Raises:
      ValueError: if there is none in it, or more than one.
    """

    def is_ours(x: PyTree) -> bool:
        return isinstance(x, DynamicLossScaleState)

    found: list[Array] = [
        x.loss_scale for x in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(x)
    ]
    if len(found) != 1:
        raise ValueError(
            f"loss_scale: needs the state of one dynamic_loss_scale, found {len(found)}"
        )
    return found[0]


def scale_loss(loss: Array, state: State) -> Array:
    """`s · loss`, in float32 at least, to be differentiated; see `dynamic_loss_scale`."""
    return widened(loss) * loss_scale(state)
