"""Whole epochs of batches of like lengths in one scan."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.classification import REPORTS_PER_EPOCH
from experiments.errors import UsageError, diverged
from experiments.progress import Handle, progress, report_progress
from experiments.run import Run, append_metrics, read_metrics, rewind
from experiments.translation.nets import Net
from experiments.translation.vocabulary import PADDING, Rows
from jaxnets import losses, optim, train
from jaxnets.train.run import Step
from jaxnets.train.shuffle import permutation
from jaxnets.train.step import data_key
from jaxnets.types import Array, Key, Params, PyTree

CHECKPOINTS = "checkpoints"


class Training(NamedTuple):
    """How a net is trained."""

    learning_rate: float
    warmup: float
    """The share of all steps in which the rate grows."""
    weight_decay: float
    label_smoothing: float
    batch_size: int
    epochs: int


class Epoch(NamedTuple):
    """What was seen of an epoch."""

    step: int
    loss: float
    """In training: smoothed, with dropout."""
    held_out: float
    """Nats a token of the validation pairs."""
    seconds: float
    """Compilation included."""
    cpu_seconds: float


class Trained(NamedTuple):
    """A run."""

    params: Params
    """Of the epoch that is best on the validation pairs."""
    epochs: list[Epoch]

    @property
    def best(self) -> int:
        """Which epoch that is."""
        # of equal ones the last
        return min(range(len(self.epochs)), key=lambda i: (self.epochs[i].held_out, -i))

    @property
    def seconds(self) -> float:
        """Of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def cpu_seconds(self) -> float:
        """Of all epochs, over all cores."""
        return sum(epoch.cpu_seconds for epoch in self.epochs)


def costs(net: Net, params: Params, batch: Rows, key: Key | None, smoothing: float) -> Any:
    """`[..., T]`, the cross-entropy of each token of the target; and which are no padding."""
    target = batch["target"]
    logits = net.forward(params, batch["source"], target[..., :-1], batch["length"], key)
    labels = target[..., 1:]
    there = labels != PADDING
    return losses.softmax_cross_entropy_with_integer_labels(
        logits, labels, where=there, label_smoothing=smoothing
    ), there


def steps_of(data: Sequence[Rows], batch_size: int) -> list[int]:
    """Of an epoch, by bucket."""
    return [train.steps_per_epoch(len(rows["length"]), batch_size) for rows in data]


def bucketed_epoch(
    step: Step, batch_size: int, on_step: Callable[[train.TrainState, Any], None]
) -> Callable[[train.TrainState, Sequence[Rows]], tuple[train.TrainState, Any]]:
    """`train.epoch` over parts of different shapes: batches are of one part, in any order."""

    def run_epoch(state: train.TrainState, data: Sequence[Rows]) -> tuple[train.TrainState, Any]:
        steps = steps_of(data, batch_size)
        total = sum(steps)
        bucket = np.repeat(np.arange(len(steps)), steps)
        place = np.concatenate([np.arange(n) for n in steps])
        key, number = data_key(state), state.step // total
        order = permutation(jax.random.fold_in(key, number), total)
        indices = [
            train.epoch_indices(jax.random.fold_in(key, i), number, len(rows["length"]), batch_size)
            for i, rows in enumerate(data)
        ]

        def of(rows: Rows, chosen: Array) -> Callable[..., Any]:
            def branch(state: train.TrainState, place: Array) -> Any:
                batch = {name: jnp.asarray(leaf)[chosen[place]] for name, leaf in rows.items()}
                return step(state, batch)

            return branch

        branches = [of(rows, chosen) for rows, chosen in zip(data, indices, strict=True)]

        def body(state: train.TrainState, now: tuple[Array, Array]) -> tuple[Any, Any]:
            state, metrics = lax.switch(now[0], branches, state, now[1])
            on_step(state, metrics)
            return state, metrics

        return lax.scan(body, state, (jnp.asarray(bucket)[order], jnp.asarray(place)[order]))

    return run_epoch


class _Saved(NamedTuple):
    """All that a checkpoint holds."""

    state: train.TrainState
    best: Params
    """The parameters of the epoch that was best so far."""


def _restored(run: Run, config: Any, start: _Saved) -> tuple[_Saved, list[Epoch]]:
    """Where a run was left, and the epochs until then; `start` if no epoch was saved."""
    folder = run.folder / CHECKPOINTS
    saved = start
    if train.latest_checkpoint(folder) is not None:
        try:
            saved = train.restore_checkpoint(folder, start)
        except ValueError as error:
            raise UsageError(str(error)) from error
    rewind(run, {"": int(saved.state.step)}, config)
    seen = [record for record in read_metrics(run) if "held_out" in record]
    return saved, [Epoch(**record) for record in seen]


def fit(
    run: Run,
    config: Any,
    net: Net,
    training: Training,
    data: Sequence[Rows],
    validation: Rows,
    *,
    seed: int,
    resume: bool,
) -> Trained:
    """Train from `seed`, and keep what is best on the validation pairs; saved after each epoch.

    Raises:
      UsageError: if training diverges, or (resuming) a checkpoint is corrupt.
    """
    per_epoch = sum(steps_of(data, training.batch_size))
    total = per_epoch * training.epochs
    rate = optim.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, max(1, round(training.warmup * total)), total
    )
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.adamw(rate, b2=0.98, eps=1e-9, weight_decay=training.weight_decay),
    )

    def loss(params: Params, batch: Rows, key: Key) -> Array:
        values, there = costs(net, params, batch, key, training.label_smoothing)
        return jnp.sum(values) / jnp.sum(there)

    def measure(params: Params, _: PyTree, batch: Rows) -> dict[str, Array]:
        values, there = costs(net, params, batch, None, 0.0)
        return {"cost": jnp.sum(values, -1), "tokens": jnp.sum(there, -1)}

    step = train.step(loss, optimizer, has_key=True)
    every = max(1, per_epoch // REPORTS_PER_EPOCH)

    @jax.jit
    def init(seed: Array) -> train.TrainState:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        return train.init_state(net.init(init_key), optimizer, run_key)

    def one_epoch(state: train.TrainState, data: Sequence[Rows], bar: Handle) -> Any:
        def show(state: train.TrainState, metrics: dict[str, Array]) -> None:
            report_progress(bar, state.step - 1, every, loss=metrics["loss"])

        return bucketed_epoch(step, training.batch_size, show)(state, data)

    program = jax.jit(one_epoch, donate_argnums=0)
    evaluate = jax.jit(train.evaluate(measure, batch_size=training.batch_size))
    state = init(jnp.asarray(seed))
    saved = _Saved(state, jax.tree.map(jnp.copy, state.params))
    seen: list[Epoch] = []
    if resume:
        saved, seen = _restored(run, config, saved)
    state, best = saved
    with progress(
        total, batch_size=training.batch_size, steps_per_epoch=per_epoch, start=int(state.step)
    ) as bar:
        while len(seen) < training.epochs:
            started, cpu_started = time.perf_counter(), time.process_time()
            state, metrics = program(state, data, bar)
            found = evaluate(state, validation)
            epoch = Epoch(
                step=int(state.step),
                loss=float(metrics["loss"].mean()),
                held_out=float(found["cost"] / found["tokens"]),
                seconds=time.perf_counter() - started,
                cpu_seconds=time.process_time() - cpu_started,
            )
            if not np.isfinite([epoch.loss, epoch.held_out]).all():
                raise diverged(
                    f"loss {epoch.loss} in epoch {len(seen) + 1}, and {epoch.held_out} on "
                    "validation pairs"
                )
            if epoch.held_out <= min((e.held_out for e in seen), default=np.inf):
                # a copy: the program gives up the state that it is handed
                best = jax.tree.map(jnp.copy, state.params)
            seen.append(epoch)
            append_metrics(run, [epoch._asdict()])
            train.save_checkpoint(run.folder / CHECKPOINTS, epoch.step, _Saved(state, best), keep=1)
    return Trained(best, seen)
