"""A convolutional or residual net on handwritten digits: our optimizer beside Optax's on one run.

The same code trains on MNIST and Fashion-MNIST (`--data`).
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import jax

from experiments import named_optimizers
from experiments.classification import examine
from experiments.curves import Training, split, train_curves
from experiments.data import Dataset, fingerprint, load
from experiments.digits_report import Results, print_results, write_report
from experiments.errors import UsageError
from experiments.flags import require_batch, require_not_negative, require_positive, require_seed
from experiments.nets import Augment, NetConfig, cnn_config, init_net, resnet_config
from experiments.run import open_run
from jaxnets import tree

T = TypeVar("T")

BATCH_SIZE = {"digits": 32}
"""By data set; others take 128."""

EPOCHS = {"digits": 30, "mnist": 5}
"""By data set; others take 10."""


@dataclass(frozen=True)
class Config:
    """Train a net on images and compare two libraries' optimizers on the same run."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    model: Literal["cnn", "resnet"] = "cnn"
    """two convolutions and a hidden layer, or a residual net with batch norm"""
    depth: int = 8
    """of the ResNet: 8, 14, 20, … (6n + 2)"""
    width: int = 2
    """what the ResNet's channels 16, 32, 64 are multiplied by"""
    augment: Augment | None = None
    """what is done to each training image each time: flip (mirrored as often as not), shift (by 2
    pixels at most), both or none (cnn: none; resnet: shift, on fashion-mnist flip)"""
    label_smoothing: float = 0.0
    """how much of each label is spread over all classes, from 0 to 1"""
    optimizer: str = "jaxnets:adam"
    """jaxnets: or optax:, then sgd, momentum, adagrad, rmsprop, adam or adamw"""
    compare: bool = True
    """train once more with the other library's optimizer of that name"""
    learning_rate: float = 1e-3
    """of the first step, positive"""
    schedule: Literal["constant", "cosine"] = "cosine"
    """how the learning rate goes on from there; cosine ends at 0"""
    l2: float = 0.0
    """strength of the penalty l2 ‖kernels‖² / 2, not negative"""
    batch_size: int | None = None
    """examples per step (digits: 32, others: 128)"""
    epochs: int | None = None
    """passes over the training data (digits: 30, mnist: 5, others: 10)"""
    dropout: float = 0.25
    """rate after the CNN's hidden layer, from 0 to 1"""
    patience: int | None = None
    """stop after so many epochs without a better loss on a tenth of the training data held out for
    this, and keep the best parameters; by default nothing is held out and the last are kept"""
    seed: int = 0
    """of the first run's initial weights, batches and dropout"""
    seeds: int | None = None
    """how many runs of `optimizer`, with seeds one after the other (5)"""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """of the computation; parameters are float32 or wider"""
    checkpoint_every: int = 10
    """epochs per compiled call, after each of which the run is saved"""
    quick: bool = False
    """three epochs of a single seed, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty (or to be resumed)"""
    resume: bool = False
    """go on with the interrupted run in `folder`, bit for bit"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    batch_size: int
    epochs: int
    seeds: int
    augment: Augment = "none"


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    named_optimizers.require_known(config.optimizer)
    amounts = Amounts(
        batch_size=_default(config.batch_size, BATCH_SIZE.get(config.data, 128)),
        epochs=_default(config.epochs, 3 if config.quick else EPOCHS.get(config.data, 10)),
        seeds=_default(config.seeds, 1 if config.quick else 5),
        augment=_default(config.augment, _augment(config)),
    )
    positive = amounts._asdict() | {
        name: getattr(config, name)
        for name in ("learning_rate", "patience", "checkpoint_every", "width")
    }
    del positive["augment"]
    require_positive(positive)
    require_not_negative({"l2": config.l2})
    for name in ("dropout", "label_smoothing"):
        if not 0 <= (share := getattr(config, name)) <= 1:
            raise UsageError(f"--{name.replace('_', '-')} must be from 0 to 1, got {share}")
    require_seed(config.seed, amounts.seeds)
    return amounts


def _default(value: T | None, default: T) -> T:
    return default if value is None else value


def _augment(config: Config) -> Augment:
    if config.model == "cnn":
        return "none"
    return "flip" if config.data == "fashion-mnist" else "shift"


def main(config: Config) -> int:
    """Train, compare, examine, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    with jax.enable_x64(True) if config.dtype == "float64" else nullcontext():
        return _main(config, amounts)


def _main(config: Config, amounts: Amounts) -> int:
    images = load(config.data, config.data_folder)
    model = _model(config, images)
    data = split(images, config.patience, model.dtype)
    kept = len(data.train["y"])
    require_batch(amounts.batch_size, kept)
    _describe(images, model)
    training = Training(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        batch_size=amounts.batch_size,
        epochs=amounts.epochs,
        patience=config.patience,
        checkpoint_every=config.checkpoint_every,
        resume=config.resume,
        augment=amounts.augment,
        smoothing=config.label_smoothing,
        l2=config.l2,
    )
    wanted = [(config.optimizer, config.seed + i) for i in range(amounts.seeds)]
    if config.compare:
        wanted.append((named_optimizers.counterpart(config.optimizer), config.seed))
    opened = open_run(
        config.runs,
        "digits",
        config,
        data=fingerprint(images),
        folder=config.folder,
        resume=config.resume,
        may_differ={"folder", "resume", "runs", "data_folder"},
    )
    with opened as run:
        curves = train_curves(run, config, training, data, model, wanted)
        results = Results(
            seeds=curves[: amounts.seeds],
            counterpart=curves[-1] if config.compare else None,
            examples=examine(curves[0].state, model, data.test),
        )
        print_results(results, images)
        print(f"report: {write_report(run, config, images, model, results)}")
    return 0


def _model(config: Config, images: Dataset) -> NetConfig:
    if config.model == "cnn":
        return cnn_config(images, dropout=config.dropout, dtype=config.dtype)
    return resnet_config(images, depth=config.depth, width=config.width, dtype=config.dtype)


def _describe(images: Dataset, model: NetConfig) -> None:
    params, _ = jax.eval_shape(lambda key: init_net(key, model), jax.random.key(0))
    height, width, _ = images.train_x.shape[1:]
    kind = type(model).__name__.removesuffix("Config")
    print(
        f"{images.name}: {len(images.train_y):,} training and {len(images.test_y):,} test images "
        f"of {height}×{width}, {model.n_out} classes; {kind} with "
        f"{tree.size(params):,} parameters, on {jax.devices()[0].device_kind}"
    )
