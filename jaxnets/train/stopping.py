"""Early stopping as a pure function of what has been seen; it keeps the best parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.train.step import TrainState
from jaxnets.types import Array, Params, PyTree


class Stopping(NamedTuple):
    """The best parameters so far, and how long there has been nothing better."""

    best_value: Array
    best_params: Params
    best_model_state: PyTree
    best_step: Array
    since_best: Array
    """Updates in a row without improvement."""
    stopped: Array


def init_stopping(state: TrainState) -> Stopping:
    """Before anything is seen: the best value is infinity, the best parameters are the initial."""
    return Stopping(
        best_value=jnp.array(jnp.inf, jnp.float32),
        best_params=state.params,
        best_model_state=state.model_state,
        best_step=state.step,
        since_best=jnp.zeros((), jnp.int32),
        stopped=jnp.zeros((), bool),
    )


def update_stopping(
    stopping: Stopping,
    value: Array,
    state: TrainState,
    *,
    patience: int | None,
    min_delta: float = 0.0,
) -> Stopping:
    """Take in one evaluation.

    Args:
      stopping: so far.
      value: of the monitored metric; smaller is better, and NaN is never better.
      state: whose parameters gave `value`.
      patience: how many updates in a row without improvement stop the run; `None` never does.
      min_delta: by how much less counts as better.

    Raises:
      ValueError: for a `patience` below 1.
    """
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}")
    value = value.astype(jnp.float32)
    better = value < stopping.best_value - min_delta
    since_best = jnp.where(better, 0, stopping.since_best + 1)
    stopped = stopping.stopped if patience is None else since_best >= patience
    candidate = Stopping(value, state.params, state.model_state, state.step, since_best, stopped)
    best: Stopping = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, stopping)
    return best._replace(since_best=since_best, stopped=stopped)
