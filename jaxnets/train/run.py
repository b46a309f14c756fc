"""Runs: whole epochs, and many of them, as one compiled program over data that stays on the device.

Which examples a step sees is a pure function of the run's key and the step, so a run that is cut
anywhere and continued from its saved state sees the same batches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.train.shuffle import permutation
from jaxnets.train.step import Metrics, TrainState, data_key, leading_size
from jaxnets.train.stopping import Stopping, require_patience, should_stop, update_stopping
from jaxnets.types import Array, ArrayLike, Key, PyTree

Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
Epoch = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
Evaluate = Callable[[TrainState, PyTree], Metrics]


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


def batch_indices(key: Key, step: ArrayLike, n: int, batch_size: int) -> Array:
    """Which examples step `step` of a run sees: `[batch_size]`."""
    steps = steps_per_epoch(n, batch_size)
    return epoch_indices(key, jnp.asarray(step) // steps, n, batch_size)[jnp.asarray(step) % steps]


def _indices_from(key: Key, step: Array, n: int, batch_size: int) -> Array:
    """`batch_indices` of as many steps as an epoch has, from any step on."""
    steps = steps_per_epoch(n, batch_size)
    epoch, offset = step // steps, step % steps
    here = epoch_indices(key, epoch, n, batch_size)
    # a second permutation, only where the steps reach into the next epoch
    following = lax.cond(
        offset == 0,
        lambda: jnp.zeros_like(here),
        lambda: epoch_indices(key, epoch + 1, n, batch_size),
    )
    return lax.dynamic_slice_in_dim(jnp.concatenate([here, following]), offset, steps)


def _take(data: PyTree, indices: Array) -> PyTree:
    """`data[indices]` for every leaf; the indices are trusted to be in range."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).at[indices].get(mode="promise_in_bounds"), data
    )


@jax.custom_batching.custom_vmap
def _common_step(step: Array) -> Array:
    """The step at which a population stands, one for all: of members that stopped, none asks."""
    return step


@_common_step.def_vmap
def _furthest(axis_size: int, batched: list[bool], steps: Array) -> tuple[Array, bool]:
    # not batched any more: so neither are the indices, and data is gathered once for all members
    return _common_step(jnp.max(steps, axis=0) if batched[0] else steps), False


@jax.custom_batching.custom_vmap
def _any_member(flag: Array) -> Array:
    """Whether it holds for any member of a population."""
    return flag


@_any_member.def_vmap
def _any(axis_size: int, batched: list[bool], flags: Array) -> tuple[Array, bool]:
    # a `cond` on a batched predicate would copy all that its branches read, the data, per member
    return _any_member(jnp.any(flags, axis=0) if batched[0] else flags), False


def epoch(
    step: Step,
    batch_size: int,
    *,
    order: Key | None = None,
    on_step: Callable[[TrainState, Metrics], None] | None = None,
    unroll: int = 1,
) -> Epoch:
    """`(state, data) -> (state, metrics)`: an epoch's steps over shuffled data in one `lax.scan`.

    Args:
      step: from `train.step`.
      batch_size: from 1 to the number of examples.
      order: the key that orders the data, in place of one from the state's. A population (see
        `train.population`) that is given one shares its batches: under `vmap`, members must stand
        at the same step, but for those that stopped early.
      on_step: called (traced once) after each step with the state and its metrics, for
        `jax.debug.callback`.
      unroll: how many steps to write out per loop iteration, as in `lax.scan`: compiles longer; two
        spare a small net on the CPU a tenth of its time.

    Returns:
      The epoch, to be jitted by the caller. The leaves of `data` share their first axis. From a
      state in the middle of an epoch the steps go on there and into the next one. Metrics are
      stacked: `[steps]` each.
    """

    def run_epoch(state: TrainState, data: PyTree) -> tuple[TrainState, Metrics]:
        n = leading_size("epoch", data)

        def body(state: TrainState, indices: Array) -> tuple[TrainState, Metrics]:
            state, metrics = step(state, _take(data, indices))
            if on_step is not None:
                on_step(state, metrics)
            return state, metrics

        key, first = data_key(state), state.step
        if order is not None:
            key, first = order, _common_step(state.step)
        indices = _indices_from(key, first, n, batch_size)
        return lax.scan(body, state, indices, unroll=unroll)

    return run_epoch


def evaluate(metrics: Callable[[Any, Any, PyTree], Metrics], batch_size: int) -> Evaluate:
    """`(state, data) -> {name: mean over all of data}`.

    Args:
      metrics: `metrics(params, model_state, batch) -> {name: [batch_size]}`, one value for each
        example.
      batch_size: how many examples at a time; the last, partial batch counts each example once.

    Raises:
      ValueError: for a `batch_size` below 1; when traced, if a metric is not `[batch_size]`.
    """
    if batch_size < 1:
        raise ValueError(f"evaluate: batch_size must be at least 1, got {batch_size}")

    def run_evaluation(state: TrainState, data: PyTree) -> Metrics:
        n = leading_size("evaluate", data)
        size = min(batch_size, n)
        steps = -(-n // size)

        def batch_sums(indices: Array) -> Metrics:
            batch = _take(data, jnp.minimum(indices, n - 1))
            values = metrics(state.params, state.model_state, batch)
            for name, v in values.items():
                if v.shape != (size,):
                    raise ValueError(
                        f"evaluate: metric {name!r} must be one value for each example, [{size}], "
                        f"got {list(v.shape)}"
                    )
            valid = indices < n
            return {k: jnp.sum(v, where=valid, dtype=_wide(v)) for k, v in values.items()}

        sums: Metrics = lax.map(batch_sums, jnp.arange(steps * size).reshape(steps, size))
        return {name: jnp.sum(values) / n for name, values in sums.items()}

    return run_evaluation


def _wide(values: Array) -> Any:
    return jnp.promote_types(values.dtype, jnp.float32)


def _nothing(shape: jax.ShapeDtypeStruct) -> Array:
    value = jnp.nan if jnp.issubdtype(shape.dtype, jnp.inexact) else 0
    return jnp.full(shape.shape, value, shape.dtype)


class History(NamedTuple):
    """What a run recorded; after an early stop the remaining entries are NaN (0 for integers)."""

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
      patience: stop once there were this many epochs in a row without improvement, those of the
        `Stopping` that is handed in included; `None` never stops.

    Returns:
      The run, to be jitted by the caller. The state is the last; its `Stopping` (at first
      `init_stopping(state)`) holds the best seen, whether or not it stops: see `best`.

    Raises:
      ValueError: for `epochs` below 1, or a `monitor` that `evaluate` does not give.
    """
    if epochs < 1:
        raise ValueError(f"run: epochs must be at least 1, got {epochs}")
    require_patience(patience)

    def one_epoch(
        carry: tuple[TrainState, Stopping], data: PyTree, held_out: PyTree
    ) -> tuple[Any, Any]:
        state, stopping = carry
        state, train = epoch(state, data)
        measured = evaluate(state, held_out)
        if monitor not in measured:
            raise ValueError(f"run: monitor must be one of {sorted(measured)}, got {monitor!r}")
        stopping = update_stopping(stopping, measured[monitor], state)
        return (state, stopping), (train, measured)

    def run_epochs(
        state: TrainState, stopping: Stopping, data: PyTree, held_out: PyTree
    ) -> tuple[TrainState, Stopping, History]:
        def go(carry: tuple[TrainState, Stopping]) -> tuple[Any, Any]:
            return one_epoch(carry, data, held_out)

        shapes = jax.eval_shape(go, (state, stopping))[1]

        def skip(carry: tuple[TrainState, Stopping]) -> tuple[Any, Any]:
            return carry, jax.tree.map(_nothing, shapes)

        def body(carry: tuple[TrainState, Stopping], _: None) -> tuple[Any, History]:
            ran = ~should_stop(carry[1], patience)
            done = lax.cond(_any_member(ran), go, skip, carry)
            if patience is not None:
                # of a population, some members may have stopped while others go on
                done = jax.tree.map(partial(jnp.where, ran), done, skip(carry))
            carry, (train, measured) = done
            return carry, History(train, measured, ran)

        (state, stopping), history = lax.scan(body, (state, stopping), length=epochs)
        return state, stopping, history

    return run_epochs
