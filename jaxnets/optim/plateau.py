"""Smaller steps where a metric has stopped improving."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import (
    COUNTING,
    FRACTION,
    NON_NEGATIVE,
    WHOLE,
    Hyper,
    Range,
    increment,
    transformation,
)
from jaxnets.optim.leaves import map_updates
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, ArrayLike, Params


class ReduceLROnPlateauState(NamedTuple):
    """The factor of the updates, and what is known of the metric."""

    scale: Array
    best_value: Array
    plateau_count: Array
    cooldown_count: Array
    count: Array  # type: ignore[assignment]
    avg_value: Array


@transformation(
    factor=Range("in (0, 1)", lambda x: 0 < x < 1),
    patience=WHOLE,
    rtol=FRACTION,
    atol=NON_NEGATIVE,
    cooldown=WHOLE,
    accumulation_size=COUNTING,
    min_scale=NON_NEGATIVE,
)
def reduce_on_plateau(
    factor: Hyper = 0.1,
    patience: Hyper = 10,
    rtol: Hyper = 1e-4,
    atol: Hyper = 0.0,
    cooldown: Hyper = 0,
    accumulation_size: Hyper = 1,
    min_scale: Hyper = 0.0,
) -> GradientTransformation:
    """`u = s g`, where `s` falls by a factor when a value has not improved for some time.

    `update` needs the keyword argument `value`, such as the loss. The mean of `accumulation_size`
    values improves on the best one `b` if it is less than `(1 - rtol) b - atol`. The scale is
    float32 at least; read it from the state.

    Args:
      factor: what `s` is multiplied by, in (0, 1).
      patience: after how many means without improvement.
      rtol: relative improvement that counts, in [0, 1].
      atol: absolute improvement that counts, at least 0.
      cooldown: how many means after that do not count.
      accumulation_size: how many values make one mean: 1 for a validation loss, more for the losses
        of batches.
      min_scale: the smallest `s`.

    Raises:
      ValueError: for a number outside its range, or if `rtol` and `atol` are both 0.

    Example:
      >>> optimizer = chain(adam(1e-3), reduce_on_plateau(factor=0.5, patience=5))
      >>> updates, state = optimizer.update(gradients, state, params, value=loss)
    """
    if all(isinstance(x, float | int) and x == 0 for x in (rtol, atol)):
        raise ValueError("reduce_on_plateau: one of rtol and atol must be > 0, got 0 and 0")

    def init(params: Params) -> ReduceLROnPlateauState:
        dtype = jnp.result_type(jnp.float32, *(jnp.real(p) for p in jax.tree.leaves(params)))
        return ReduceLROnPlateauState(
            scale=jnp.ones((), dtype),
            best_value=jnp.full((), jnp.inf, dtype),
            plateau_count=jnp.zeros((), jnp.int32),
            cooldown_count=jnp.zeros((), jnp.int32),
            count=jnp.zeros((), jnp.int32),
            avg_value=jnp.zeros((), dtype),
        )

    def judged(state: ReduceLROnPlateauState) -> ReduceLROnPlateauState:
        """After a whole mean."""
        better = state.avg_value < (1 - rtol) * state.best_value - atol
        waited = jnp.where(better, 0, increment(state.plateau_count))
        cooling = state.cooldown_count > 0
        reduce = ~cooling & (waited == patience)
        reduced = jnp.where(reduce, factor * state.scale, state.scale)
        return ReduceLROnPlateauState(
            scale=jnp.where(cooling, state.scale, jnp.maximum(reduced, min_scale)),
            best_value=jnp.where(better, state.avg_value, state.best_value),
            plateau_count=jnp.where(cooling | reduce, 0, waited),
            cooldown_count=jnp.where(
                cooling, state.cooldown_count - 1, jnp.where(reduce, cooldown, 0)
            ),
            count=jnp.zeros((), jnp.int32),
            avg_value=jnp.zeros_like(state.avg_value),
        )

    def update(
        updates: Updates,
        state: ReduceLROnPlateauState,
        params: Params | None = None,
        *,
        value: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[Updates, ReduceLROnPlateauState]:
        if value is None:
            raise ValueError(
                "reduce_on_plateau: needs the value to watch; "
                "call update(gradients, state, params, value=loss)"
            )
        count = increment(state.count)
        mean = (state.count * state.avg_value + value) / count
        seen = state._replace(count=count, avg_value=mean.astype(state.avg_value.dtype))
        whole = count == accumulation_size
        state = jax.tree.map(
            lambda new, old: jnp.where(whole, new, old).astype(old.dtype), judged(seen), seen
        )
        return map_updates(lambda g: state.scale * g, updates), state

    return GradientTransformation(init, update)
