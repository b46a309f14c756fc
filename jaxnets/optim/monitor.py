"""Measurements of the updates on their way through a chain, kept in the state."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.optim.averages import ema
from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import DECAY_RATE, Hyper, transformation
from jaxnets.optim.leaves import widened
from jaxnets.optim.stateless import stateless
from jaxnets.optim.transform import GradientTransformation, State, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, PyTree

Measure: TypeAlias = Callable[[Updates], PyTree]


class SnapshotState(NamedTuple):
    """The last measurement, by its name."""

    measurement: dict[str, Any]


@by_value
def snapshot(measure_name: str, measure: Measure) -> GradientTransformation:
    """Hand the updates through, and keep `measure(updates)` in the state.

    Args:
      measure_name: the name that it is kept by.
      measure: a function of the updates; at init, of the parameters.

    Example:
      >>> chain(snapshot("norm", global_norm), clip_by_global_norm(1.0), sgd(0.1))
    """

    def init(params: Params) -> SnapshotState:
        return SnapshotState({measure_name: measure(params)})

    def update(
        updates: Updates, state: SnapshotState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SnapshotState]:
        return updates, SnapshotState({measure_name: measure(updates)})

    return GradientTransformation(init, update)


class MonitorState(NamedTuple):
    """The last measurements, by their names, and the states of those that have one."""

    measurements: dict[str, Any]
    measure_states: tuple[State, ...]


@by_value
def monitor(measures: Mapping[str, Measure | GradientTransformation]) -> GradientTransformation:
    """Hand the updates through, and keep several measurements of them in the state.

    Before the first step all are 0. (Optax's are missing, so that its state cannot be the carry of
    a `scan`.)

    Args:
      measures: name -> a function of the updates, or a transformation whose updates are the
        measurement, such as `measure_with_ema`.

    Example:
      >>> monitor({"norm": global_norm, "mean norm": measure_with_ema(global_norm, 0.9)})
    """

    def measuring(measure: Any) -> GradientTransformation:
        if callable(measure):
            return stateless(lambda updates, params: measure(updates))
        # hands extra arguments to those only that take them
        return chain(measure)

    transformations = {name: measuring(measure) for name, measure in measures.items()}

    def init(params: Params) -> MonitorState:
        states = {name: tx.init(params) for name, tx in transformations.items()}
        shapes = {
            name: jax.eval_shape(tx.update, params, states[name], params)[0]
            for name, tx in transformations.items()
        }
        measurements = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return MonitorState(measurements, tuple(states.values()))

    def update(
        updates: Updates, state: MonitorState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MonitorState]:
        measurements, states = {}, []
        for (name, tx), old in zip(transformations.items(), state.measure_states, strict=True):
            measurements[name], new = tx.update(updates, old, params, **extra)
            states.append(new)
        return updates, MonitorState(measurements, tuple(states))

    return GradientTransformation(init, update)


@transformation(decay=DECAY_RATE)
def measure_with_ema(
    measure: Measure,
    decay: Hyper,
    debias: bool = True,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """The moving average of `measure(updates)` in place of the updates, for `monitor`.

    Args:
      measure: a function of the updates.
      decay: `γ` in [0, 1), see `ema`.
      debias: whether to correct for the start at 0.
      accumulator_dtype: dtype in which the average is kept; by default at least float32.

    Raises:
      ValueError: for a number outside its range.
    """
    average = ema(decay, debias, accumulator_dtype)

    def number(x: Any) -> Array:
        # a condition counts 0 or 1, so that its average is how often it held; as precise as Optax's
        return widened(
            x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else jnp.asarray(x, float)
        )

    def measured(updates: Updates) -> PyTree:
        return jax.tree.map(number, measure(updates))

    def init(params: Params) -> State:
        return average.init(measured(params))

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, State]:
        return average.update(measured(updates), state)

    return GradientTransformation(init, update)
