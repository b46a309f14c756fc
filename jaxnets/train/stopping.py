"""Early stopping as a pure function of what has been seen; it keeps the best parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.train.step import TrainState
from jaxnets.types import Array, ArrayLike, Params, PyTree


class Stopping(NamedTuple):
    """The best state so far, and how long there has been nothing better."""

    best_value: Array
    best_params: Params
    best_model_state: PyTree
    best_step: Array
    since_best: Array
    """Updates in a row without improvement."""


def init_stopping(state: TrainState) -> Stopping:
    """Before anything is seen: the best value is infinity, the best parameters are the initial."""
    stopping = Stopping(
        best_value=jnp.array(jnp.inf, jnp.result_type(float)),
        best_params=state.params,
        best_model_state=state.model_state,
        best_step=state.step,
        since_best=jnp.zeros((), jnp.int32),
    )
    # a copy, so that both may be donated
    copied: Stopping = jax.tree.map(jnp.copy, stopping)
    return copied


def update_stopping(
    stopping: Stopping, value: ArrayLike, state: TrainState, *, min_delta: float = 0.0
) -> Stopping:
    """Take in one evaluation.

    Args:
      stopping: so far.
      value: of the monitored metric; smaller is better, and NaN is never better.
      state: whose parameters gave `value`.
      min_delta: by how much less counts as better.
    """
    value = jnp.asarray(value, stopping.best_value.dtype)
    better = value < stopping.best_value - min_delta
    since_best = jnp.where(better, 0, stopping.since_best + 1)
    candidate = Stopping(value, state.params, state.model_state, state.step, since_best)
    best: Stopping = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, stopping)
    return best._replace(since_best=since_best)


def require_patience(patience: int | None) -> None:
    """Raise `ValueError` for a patience below 1."""
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}")


def should_stop(stopping: Stopping, patience: int | None) -> Array:
    """Whether there were `patience` updates in a row without improvement; `None` never stops.

    Raises:
      ValueError: for a `patience` below 1.
    """
    require_patience(patience)
    if patience is None:
        return jnp.zeros((), bool)
    return stopping.since_best >= patience


def best(state: TrainState, stopping: Stopping) -> TrainState:
    """`state` with the best parameters, and the model state they were measured with, restored."""
    return state._replace(params=stopping.best_params, model_state=stopping.best_model_state)
