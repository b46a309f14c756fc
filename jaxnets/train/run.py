"""Runs: whole epochs, and many of them, as one compiled program over data that stays on the device.

The order of the data is a pure function of the run's key and the step, so a run that is cut at the
end of an epoch and continued from its saved state is the same run, bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.train.shuffle import permutation
from jaxnets.train.step import Metrics, TrainState, data_key
from jaxnets.train.stopping import Stopping, update_stopping
from jaxnets.types import Array, ArrayLike, Key, PyTree

Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
Epoch = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
Evaluate = Callable[[TrainState, PyTree], Metrics]


def _data_size(function: str, data: PyTree) -> int:
    """The number of examples: the first axis that all leaves share.

    Raises:
      ValueError: if there is none, or it is 0.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or not all(size and size[0] for size in sizes):
        raise ValueError(
            f"{function}: every leaf of data needs the same, non-zero first axis, got {shapes}"
        )
    return int(shapes[0][0])


def steps_per_epoch(n: int, batch_size: int) -> int:
    """`⌊n / batch_size⌋`: every step has a full batch; the rest sits out, others each epoch.

    Raises:
      ValueError: if `batch_size` is not in `[1, n]`.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be from 1 to the {n} examples, got {batch_size}")
    return n // batch_size


def epoch_indices(key: Key, epoch: ArrayLike, n: int, batch_size: int) -> Array:
    """Which examples each step of an epoch sees: `[steps, batch_size]`, a fresh permutation."""
    steps = steps_per_epoch(n, batch_size)
    order = permutation(jax.random.fold_in(key, epoch), n)
    return order[: steps * batch_size].reshape(steps, batch_size)


def _take(data: PyTree, indices: Array) -> PyTree:
    """`data[indices]` for every leaf; the indices are trusted to be in range."""
    return jax.tree.map(lambda leaf: leaf.at[indices].get(mode="promise_in_bounds"), data)


def epoch(
    step: Step, batch_size: int, *, on_step: Callable[[TrainState, Metrics], None] | None = None
) -> Epoch:
    """`(state, data) -> (state, metrics)`: one pass over shuffled data, one `lax.scan`.

    Args:
      step: from `train.step`.
      batch_size: from 1 to the number of examples.
      on_step: called (traced once) after each step with the state and its metrics, for
        `jax.debug.callback`.

    Returns:
      The epoch, to be jitted by the caller. The leaves of `data` share their first axis.
      `state.step` must be a multiple of the steps per epoch. Metrics are stacked: `[steps]` each.
    """

    def run_epoch(state: TrainState, data: PyTree) -> tuple[TrainState, Metrics]:
        n = _data_size("epoch", data)
        steps = steps_per_epoch(n, batch_size)

        def body(state: TrainState, indices: Array) -> tuple[TrainState, Metrics]:
            state, metrics = step(state, _take(data, indices))
            if on_step is not None:
                on_step(state, metrics)
            return state, metrics

        indices = epoch_indices(data_key(state), state.step // steps, n, batch_size)
        return lax.scan(body, state, indices)

    return run_epoch


def evaluate(metrics: Callable[[Any, Any, PyTree], Metrics], batch_size: int) -> Evaluate:
    """`(state, data) -> {name: mean over all of data}`.

    Args:
      metrics: `metrics(params, model_state, batch) -> {name: [batch_size]}`, one value for each
        example.
      batch_size: how many examples at a time; the last, partial batch counts each example once.

    Raises:
      ValueError: for a `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"evaluate: batch_size must be at least 1, got {batch_size}")

    def run_evaluation(state: TrainState, data: PyTree) -> Metrics:
        n = _data_size("evaluate", data)
        size = min(batch_size, n)
        steps = -(-n // size)

        def batch_sums(indices: Array) -> Metrics:
            batch = _take(data, jnp.minimum(indices, n - 1))
            values = metrics(state.params, state.model_state, batch)
            valid = indices < n
            return {k: jnp.sum(v, where=valid, dtype=_wide(v)) for k, v in values.items()}

        sums: Metrics = lax.map(batch_sums, jnp.arange(steps * size).reshape(steps, size))
        return {name: jnp.sum(values) / n for name, values in sums.items()}

    return run_evaluation


def _wide(values: Array) -> Any:
    return jnp.promote_types(values.dtype, jnp.float32)


class History(NamedTuple):
    """What a run recorded; after an early stop the remaining entries are NaN."""

    train: Metrics
    """`[epochs, steps]` each."""
    held_out: Metrics
    """`[epochs]` each, after the epoch, on data that was not trained on."""
    ran: Array
    """`[epochs]`, whether the epoch was run."""


def run(
    epoch: Epoch,
    evaluate: Evaluate,
    epochs: int,
    *,
    monitor: str = "loss",
    patience: int | None = None,
) -> Callable[[TrainState, Stopping, PyTree, PyTree], tuple[TrainState, Stopping, History]]:
    """`(state, stopping, data, held_out) -> (state, stopping, history)`: epochs, each evaluated.

    One program, so `vmap` over states runs many seeds or hyper-parameters at once.

    Args:
      epoch: from `train.epoch`.
      evaluate: from `train.evaluate`.
      epochs: how many at most.
      monitor: which of `evaluate`'s metrics early stopping watches (smaller is better).
      patience: stop after this many epochs in a row without improvement; `None` never stops.

    Returns:
      The run, to be jitted by the caller. Its `Stopping` (at first `init_stopping(state)`) holds
      the best parameters seen, whether or not it stops.

    Raises:
      ValueError: for `epochs` below 1, or a `monitor` that `evaluate` does not give.
    """
    if epochs < 1:
        raise ValueError(f"run: epochs must be at least 1, got {epochs}")

    def one_epoch(
        carry: tuple[TrainState, Stopping], data: PyTree, held_out: PyTree
    ) -> tuple[Any, Any]:
        state, stopping = carry
        state, train = epoch(state, data)
        measured = evaluate(state, held_out)
        if monitor not in measured:
            raise ValueError(f"run: monitor must be one of {sorted(measured)}, got {monitor!r}")
        stopping = update_stopping(stopping, measured[monitor], state, patience=patience)
        return (state, stopping), (train, measured)

    def run_epochs(
        state: TrainState, stopping: Stopping, data: PyTree, held_out: PyTree
    ) -> tuple[TrainState, Stopping, History]:
        def go(carry: tuple[TrainState, Stopping]) -> tuple[Any, Any]:
            return one_epoch(carry, data, held_out)

        shapes = jax.eval_shape(go, (state, stopping))[1]

        def skip(carry: tuple[TrainState, Stopping]) -> tuple[Any, Any]:
            return carry, jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan).astype(s.dtype), shapes)

        def body(carry: tuple[TrainState, Stopping], _: None) -> tuple[Any, History]:
            ran = ~carry[1].stopped
            carry, (train, measured) = lax.cond(ran, go, skip, carry)
            return carry, History(train, measured, ran)

        (state, stopping), history = lax.scan(body, (state, stopping), length=epochs)
        return state, stopping, history

    return run_epochs
