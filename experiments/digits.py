"""A convolutional net on handwritten digits: our optimizer beside Optax's on the same run.

The same code trains on MNIST and Fashion-MNIST (`--data`).
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import optimizers
from experiments.classification import batch_of, examine, model_config
from experiments.curves import Training, held_out_size, train_curves
from experiments.data import load, standardize
from experiments.digits_report import compare, print_results, write_report
from experiments.errors import UsageError
from experiments.run import open_run
from jaxnets import models, tree

BATCH_SIZE, EPOCHS = {"digits": 32}, {"digits": 30, "mnist": 5}
"""By data set; others take 128 and 10."""


@dataclass(frozen=True)
class Config:
    """Train a convolutional net on images and compare two libraries' optimizers on the same run."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    optimizer: str = "jaxnets:adam"
    """jaxnets: or optax:, then sgd, momentum, adagrad, rmsprop, adam or adamw"""
    compare: bool = True
    """train once more with the other library's optimizer of that name"""
    learning_rate: float = 1e-3
    """of the first step, positive"""
    schedule: Literal["constant", "cosine"] = "cosine"
    """how the learning rate goes on from there; cosine ends at 0"""
    batch_size: int | None = None
    """examples per step (digits: 32, others: 128)"""
    epochs: int | None = None
    """passes over the training data (digits: 30, mnist: 5, others: 10)"""
    dropout: float = 0.25
    """rate after the hidden layer, from 0 to 1"""
    patience: int | None = None
    """stop after so many epochs without a better loss on a tenth of the training data held out for
    this, and keep the best parameters; by default nothing is held out and the last are kept"""
    seed: int = 0
    """of the first run's initial weights, batches and dropout"""
    seeds: int = 5
    """how many runs of `optimizer`, with seeds one after the other"""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """of the computation; parameters are float32 or wider"""
    checkpoint_every: int = 10
    """epochs per compiled call, after each of which the run is saved"""
    quick: bool = False
    """three epochs of a single seed"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty (or to be resumed)"""
    resume: bool = False
    """go on with the interrupted run in `folder`, bit for bit"""


def settled(config: Config) -> Config:
    """`config` with the data set's own defaults filled in, checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    optimizers.require_known(config.optimizer)
    quick = {"epochs": 3, "seeds": 1} if config.quick else {}
    defaults: dict[str, Any] = {}
    if config.batch_size is None:
        defaults["batch_size"] = BATCH_SIZE.get(config.data, 128)
    if config.epochs is None:
        defaults["epochs"] = EPOCHS.get(config.data, 10)
    config = replace(config, **{**defaults, **quick})
    for name in ("learning_rate", "batch_size", "epochs", "seeds", "patience", "checkpoint_every"):
        value = getattr(config, name)
        if value is not None and not (value > 0 and np.isfinite(value)):
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if not 0 <= config.dropout <= 1:
        raise UsageError(f"--dropout must be from 0 to 1, got {config.dropout}")
    if not 0 <= config.seed < 2**31 - config.seeds:
        raise UsageError(f"--seed must be from 0 to 2³¹, got {config.seed}")
    return config


def main(config: Config) -> int:
    """Train, compare, examine, report; returns the exit code."""
    config = settled(config)
    with jax.enable_x64(True) if config.dtype == "float64" else nullcontext():
        return _main(config)


def _main(config: Config) -> int:
    images = load(config.data, config.data_folder)
    data = standardize(images)
    model = model_config(data, dropout=config.dropout, dtype=config.dtype)
    training = Training(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        batch_size=_known(config.batch_size),
        epochs=_known(config.epochs),
        patience=config.patience,
        checkpoint_every=config.checkpoint_every,
        resume=config.resume,
    )
    kept = len(data.train_y) - held_out_size(len(data.train_y), config.patience)
    if training.batch_size > kept:
        raise UsageError(
            f"--batch-size must be at most the {kept} training images, got {config.batch_size}"
        )
    may_differ = {"folder", "resume", "runs", "data_folder"}
    run = open_run(
        config.runs,
        "digits",
        config,
        folder=config.folder,
        resume=config.resume,
        may_differ=may_differ,
    )
    _describe(data.name, len(data.train_y), len(data.test_y), model)

    wanted = [(config.optimizer, config.seed + i) for i in range(config.seeds)]
    if config.compare:
        wanted.append((optimizers.counterpart(config.optimizer), config.seed))
    curves = train_curves(run, config, training, data, model, wanted)
    test = batch_of(data.test_x, data.test_y, model.dtype)
    examples = examine(curves[0].state, model, test)
    difference = compare(curves[0], curves[-1]) if config.compare else None
    print_results(curves, difference, images, examples)
    report = write_report(run, config, images, model, curves, difference, examples)
    print(f"report: {report}")
    return 0


def _known(value: int | None) -> int:
    assert value is not None  # `settled` has filled it in
    return value


def _describe(name: str, training: int, test: int, model: models.CNNConfig) -> None:
    params, _ = jax.eval_shape(lambda key: models.init_cnn(key, model), jax.random.key(0))
    height, width, _ = model.image
    print(
        f"{name}: {training:,} training and {test:,} test images of {height}×{width}, "
        f"{model.n_out} classes; CNN with {tree.size(params):,} parameters, "
        f"on {jax.devices()[0].device_kind}"
    )
