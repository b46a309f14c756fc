"""Training runs that record as they go, save themselves, and can be resumed bit for bit."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import named_optimizers
from experiments.classification import Batch, Program, batch_of, make_program
from experiments.data import Dataset, standardizer
from experiments.errors import UsageError, diverged
from experiments.nets import Augment, NetConfig
from experiments.progress import progress
from experiments.run import Run, append_metrics, read_metrics, rewind
from jaxnets import optim, train


class Training(NamedTuple):
    """How every curve of an experiment is trained."""

    learning_rate: float
    schedule: str
    batch_size: int
    epochs: int
    patience: int | None
    checkpoint_every: int
    resume: bool
    augment: Augment = "none"
    smoothing: float = 0.0
    l2: float = 0.0


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
    """Of training, compilation included, summed over the run's resumptions."""


class _Saved(NamedTuple):
    """All that a checkpoint holds."""

    state: train.TrainState
    stopping: train.Stopping
    history: train.History
    """Of all epochs; those to come are not marked as run."""


class Data(NamedTuple):
    """Standardized images and their labels, on the device."""

    train: Batch
    held_out: Batch
    """What is watched while training."""
    test: Batch


def split(images: Dataset, patience: int | None, dtype: Any) -> Data:
    """The data of a run; with patience, a fixed tenth of the training images is held out.

    Without patience nothing is chosen by the held-out data, so it may be the test data itself.

    Raises:
      UsageError: if nothing would be left to train on.
    """
    x, y = images.train_x, images.train_y
    held, kept = np.array([], int), np.arange(len(y))
    if patience is not None:
        if len(y) < 2:
            raise UsageError("--patience holds out a tenth of the training images; there is only 1")
        order = np.random.default_rng(0).permutation(len(y))
        held, kept = np.split(order, [max(1, len(order) // 10)])
    # by what is trained on alone
    move = standardizer(x[kept])
    test = batch_of(move(images.test_x), images.test_y, dtype)
    return Data(
        train=batch_of(move(x[kept]), y[kept], dtype),
        held_out=test if patience is None else batch_of(move(x[held]), y[held], dtype),
        test=test,
    )


def train_curves(
    run: Run,
    config: Any,
    training: Training,
    data: Data,
    model: NetConfig,
    wanted: Sequence[tuple[str, int]],
) -> list[Curve]:
    """A curve for each `(optimizer, seed)` of `wanted`; those of one optimizer share a program.

    Raises:
      UsageError: if training diverges, or (resuming) a checkpoint is corrupt; then nothing was
        written.
    """
    names = dict.fromkeys(name for name, _ in wanted)
    programs = {name: _program(training, model, name, len(data.train["y"])) for name in names}
    labels = [f"{name}, seed {seed}" for name, seed in wanted]
    starts = [
        _start(_folder(run, label), training, programs[name], data, seed)
        for label, (name, seed) in zip(labels, wanted, strict=True)
    ]
    if training.resume:
        steps = [int(saved.state.step) for saved in starts]
        rewind(run, dict(zip(labels, steps, strict=True)), config)
    curves = []
    for label, (name, seed), start in zip(labels, wanted, starts, strict=True):
        saved = _train(run, training, programs[name], data, label, start)
        state = saved.state
        if training.patience is not None:
            state = train.best(state, saved.stopping)
        ran = int(saved.history.ran.sum())
        curves.append(
            Curve(
                label=label,
                optimizer=name,
                seed=seed,
                train_loss=np.asarray(saved.history.train["loss"][:ran]).ravel(),
                held_out={k: np.asarray(v[:ran]) for k, v in saved.history.held_out.items()},
                state=state,
                test={k: float(v) for k, v in programs[name].evaluate(state, data.test).items()},
                seconds=0.0,
            )
        )
    seconds = _seconds(run)
    return [curve._replace(seconds=seconds[curve.label]) for curve in curves]


def _seconds(run: Run) -> Mapping[str, float]:
    """By curve, the seconds of all its calls."""
    total: Counter[str] = Counter()
    for record in read_metrics(run):
        total[record["curve"]] += record.get("seconds", 0)
    return total


def _folder(run: Run, label: str) -> Path:
    return run.folder / "checkpoints" / re.sub(r"\W+", "-", label)


def _program(training: Training, model: NetConfig, name: str, examples: int) -> Program:
    per_epoch = train.steps_per_epoch(examples, training.batch_size)
    rate: Any = training.learning_rate
    if training.schedule == "cosine":
        rate = optim.cosine_decay_schedule(rate, per_epoch * training.epochs)
    return make_program(
        model,
        named_optimizers.make(name, rate, training.l2),
        batch_size=training.batch_size,
        steps_per_epoch=per_epoch,
        patience=training.patience,
        augment=training.augment,
        smoothing=training.smoothing,
    )


def _start(folder: Path, training: Training, program: Program, data: Data, seed: int) -> _Saved:
    """Where a curve begins: at its first step or, resuming, at its last checkpoint."""
    state, stopping = program.init(jnp.asarray(seed))
    with progress(0, quiet=True) as bar:
        run = partial(program.run, training.epochs)
        shapes = jax.eval_shape(run, state, stopping, data.train, data.held_out, bar)[2]
    history = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    saved = _Saved(state, stopping, history)
    return _restored(folder, saved) if training.resume else saved


def _restored(folder: Path, saved: _Saved) -> _Saved:
    """What the last checkpoint in `folder` holds, or `saved` if none was begun."""
    if train.latest_checkpoint(folder) is None:
        # a save that was cut short has a longer name; this one was whole once
        if whole := [path for path in folder.glob("*") if re.fullmatch(r"\d+", path.name)]:
            raise UsageError(
                f"corrupt checkpoint: {whole[0]} has no manifest (.sha256), so it cannot be "
                f"checked; remove {folder} to train this curve from its first step"
            )
        return saved
    try:
        restored: _Saved = train.restore_checkpoint(folder, saved)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return restored


def _train(
    run: Run, training: Training, program: Program, data: Data, label: str, saved: _Saved
) -> _Saved:
    """Train, or go on training, one curve; saved after each call of its program."""
    per_epoch = train.steps_per_epoch(len(data.train["y"]), training.batch_size)
    with progress(
        per_epoch * training.epochs,
        batch_size=training.batch_size,
        steps_per_epoch=per_epoch,
        start=int(saved.state.step),
        description=label,
    ) as bar:
        while not (saved.history.ran[-1] or train.should_stop(saved.stopping, training.patience)):
            started = time.perf_counter()
            done = int(saved.history.ran.sum())
            state, stopping, part = program.run(
                min(training.checkpoint_every, training.epochs - done),
                saved.state,
                saved.stopping,
                data.train,
                data.held_out,
                bar,
            )
            saved = _Saved(state, stopping, jax.tree.map(partial(_fill, done), saved.history, part))
            jax.block_until_ready(saved)
            records = list(_records(label, part, done, per_epoch))
            records[-1]["seconds"] = time.perf_counter() - started
            append_metrics(run, records)
            _require_finite(records)
            train.save_checkpoint(_folder(run, label), int(state.step), saved, keep=1)
    return saved


def _fill(start: int, whole: jax.Array, part: jax.Array) -> jax.Array:
    return whole.at[start : start + len(part)].set(part)


def _records(
    label: str, part: train.History, done: int, per_epoch: int
) -> Iterator[dict[str, Any]]:
    """A record for each step, and one for each epoch's held-out values."""
    part = jax.tree.map(np.asarray, part)
    for epoch in range(int(part.ran.sum())):
        first = (done + epoch) * per_epoch
        for index in range(per_epoch):
            values = {name: float(value[epoch, index]) for name, value in part.train.items()}
            yield {"step": first + index + 1, "curve": label, **values}
        held_out = {f"held_out_{name}": float(v[epoch]) for name, v in part.held_out.items()}
        yield {"step": first + per_epoch, "curve": label, **held_out}


def _require_finite(records: Sequence[Mapping[str, Any]]) -> None:
    for record in records:
        for name, kind in (("loss", "loss"), ("held_out_loss", "held-out loss")):
            if not np.isfinite(value := record.get(name, 0.0)):
                raise diverged(f"{record['curve']} has {kind} {value} at step {record['step']}")
