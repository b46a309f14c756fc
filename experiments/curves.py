"""Training runs that record as they go, save themselves, and can be resumed bit for bit."""

import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import optimizers
from experiments.classification import Batch, Program, batch_of, make_program
from experiments.data import Dataset
from experiments.progress import progress
from experiments.run import Run, append_metrics, rewind
from jaxnets import models, optim, train


class Training(NamedTuple):
    """How every curve of an experiment is trained."""

    learning_rate: float
    schedule: str
    batch_size: int
    epochs: int
    patience: int | None
    checkpoint_every: int
    resume: bool


class Curve(NamedTuple):
    """One training run: an optimizer and a seed."""

    label: str
    optimizer: str
    seed: int
    train_loss: np.ndarray
    """`[steps]`"""
    held_out: dict[str, np.ndarray]
    """`[epochs]` each of loss and accuracy."""
    state: train.TrainState
    """The last, or (with patience) the best."""
    test: dict[str, float]
    """Loss and accuracy of `state` on the test data."""
    seconds: float
    """Of training in this process, compilation included."""


class _Saved(NamedTuple):
    """All that a checkpoint holds."""

    state: train.TrainState
    stopping: train.Stopping
    history: train.History
    """Of all epochs; those to come are not marked as run."""


def held_out_size(examples: int, patience: int | None) -> int:
    """How many training examples are held out: with patience, a tenth."""
    return 0 if patience is None else max(1, examples // 10)


def split(data: Dataset, patience: int | None, dtype: Any) -> tuple[Batch, Batch]:
    """Training and held-out data: with patience, a fixed tenth of the training data.

    Without patience nothing is chosen by the held-out data, so it may be the test data itself.
    """
    x, y = data.train_x, data.train_y
    if patience is None:
        return batch_of(x, y, dtype), batch_of(data.test_x, data.test_y, dtype)
    order = np.random.default_rng(0).permutation(len(y))
    held, kept = np.split(order, [held_out_size(len(order), patience)])
    return batch_of(x[kept], y[kept], dtype), batch_of(x[held], y[held], dtype)


def train_curves(
    run: Run,
    config: Any,
    training: Training,
    data: Dataset,
    model: models.CNNConfig,
    wanted: Sequence[tuple[str, int]],
) -> list[Curve]:
    """A curve for each `(optimizer, seed)` of `wanted`; those of one optimizer share a program."""
    batch, held_out = split(data, training.patience, model.dtype)
    test = batch_of(data.test_x, data.test_y, model.dtype)
    programs = {name: _programs(training, model, name, len(batch["y"])) for name in dict(wanted)}
    curves = []
    for name, seed in wanted:
        label = f"{name}, seed {seed}"
        started = time.perf_counter()
        saved = _train(run, config, training, programs[name], batch, held_out, label, seed)
        state = saved.state
        if training.patience is not None:
            state = train.best(state, saved.stopping)
        measured = next(iter(programs[name].values())).evaluate(state, test)
        ran = int(saved.history.ran.sum())
        curves.append(
            Curve(
                label=label,
                optimizer=name,
                seed=seed,
                train_loss=np.asarray(saved.history.train["loss"][:ran]).ravel(),
                held_out={k: np.asarray(v[:ran]) for k, v in saved.history.held_out.items()},
                state=state,
                test={key: float(value) for key, value in measured.items()},
                seconds=time.perf_counter() - started,
            )
        )
    return curves


def _programs(
    training: Training, model: models.CNNConfig, name: str, examples: int
) -> dict[int, Program]:
    """By number of epochs: a full call's, and what is left for the last call."""
    per_epoch = train.steps_per_epoch(examples, training.batch_size)
    rate: Any = training.learning_rate
    if training.schedule == "cosine":
        rate = optim.cosine_decay_schedule(rate, per_epoch * training.epochs)
    call = min(training.checkpoint_every, training.epochs)
    return {
        epochs: make_program(
            model,
            optimizers.make(name, rate),
            batch_size=training.batch_size,
            epochs=epochs,
            steps_per_epoch=per_epoch,
            patience=training.patience,
        )
        for epochs in (call, training.epochs % call)
        if epochs
    }


def _train(
    run: Run,
    config: Any,
    training: Training,
    programs: dict[int, Program],
    batch: Batch,
    held_out: Batch,
    label: str,
    seed: int,
) -> _Saved:
    """Train, or go on training, one curve; saved after each call of its program."""
    call = max(programs)
    per_epoch = train.steps_per_epoch(len(batch["y"]), training.batch_size)
    folder = run.folder / "checkpoints" / re.sub(r"\W+", "-", label)
    state, stopping = programs[call].init(jnp.asarray(seed))
    with progress(0, quiet=True) as bar:
        part = jax.eval_shape(programs[call].run, state, stopping, batch, held_out, bar)[2]
    saved = _Saved(state, stopping, _empty(part, training.epochs))
    if training.resume:
        if train.latest_checkpoint(folder) is not None:
            saved = train.restore_checkpoint(folder, saved)
        rewind(run, int(saved.state.step), config, curve=label)

    with progress(
        per_epoch * training.epochs,
        batch_size=training.batch_size,
        steps_per_epoch=per_epoch,
        start=int(saved.state.step),
        description=label,
    ) as bar:
        while not (saved.history.ran[-1] or train.should_stop(saved.stopping, training.patience)):
            done = int(saved.history.ran.sum())
            program = programs[min(call, training.epochs - done)]
            state, stopping, part = program.run(saved.state, saved.stopping, batch, held_out, bar)
            history = jax.tree.map(partial(_fill, done), saved.history, part)
            saved = _Saved(state, stopping, history)
            _record(run, label, part, done, per_epoch)
            train.save_checkpoint(folder, int(state.step), saved, keep=1)
    return saved


def _empty(part: train.History, epochs: int) -> train.History:
    empty: train.History = jax.tree.map(
        lambda leaf: jnp.zeros((epochs, *leaf.shape[1:]), leaf.dtype), part
    )
    return empty


def _fill(start: int, whole: jax.Array, part: jax.Array) -> jax.Array:
    return whole.at[start : start + len(part)].set(part)


def _record(run: Run, label: str, part: train.History, done: int, per_epoch: int) -> None:
    """A line of metrics for each step, and one for each epoch's held-out values.

    Raises:
      ValueError: if the loss is no longer finite.
    """
    part = jax.tree.map(np.asarray, part)
    for epoch in range(int(part.ran.sum())):
        first = (done + epoch) * per_epoch
        for index in range(per_epoch):
            values = {name: float(value[epoch, index]) for name, value in part.train.items()}
            append_metrics(run, first + index + 1, curve=label, **values)
            if not np.isfinite(values["loss"]):
                raise ValueError(
                    f"training diverged: {label} has loss {values['loss']} at step "
                    f"{first + index + 1}; try a lower --learning-rate"
                )
        held_out = {f"held_out_{name}": float(v[epoch]) for name, v in part.held_out.items()}
        append_metrics(run, first + per_epoch, curve=label, **held_out)
