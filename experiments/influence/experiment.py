"""Find wrong labels, influential examples and the gradient's noise, by per-example gradients."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.classification import batch_of, examine
from experiments.data import Dataset, fingerprint, load, standardizer
from experiments.errors import UsageError
from experiments.flags import filled, require_batch, require_positive, require_seed
from experiments.influence import cost, scores
from experiments.influence.labels import Labels, flip
from experiments.influence.report import OneRun, Results, print_results, write_report
from experiments.influence.training import Trained, Training, make_loss, make_program, run
from experiments.nets import cnn_config
from experiments.plots import hardest_first
from experiments.run import Run, append_metrics, open_run
from jaxnets import models, tree

SHOWN = 3
"""Test images whose influences are pictured: so many of the hardest, and so many drawn."""


@dataclass(frozen=True)
class Config:
    """Make some training labels wrong, train, and find them again by each example's gradients."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    flipped: float = 0.02
    """the share of training labels made wrong, above 0 and below 1"""
    learning_rate: float = 0.02
    """of stochastic gradient descent, positive"""
    momentum: float = 0.9
    """from 0 to below 1"""
    batch_size: int | None = None
    """examples per step (digits: 64, others: 128)"""
    epochs: int | None = None
    """passes over the training data (digits: 30, others: 5)"""
    checkpoint_every: int = 1
    """epochs from one checkpoint to the next; the last epoch's end is one too"""
    seed: int = 0
    """of the first run's wrong labels, initial weights and batches"""
    seeds: int | None = None
    """how many runs, with seeds one after the other (digits: 5, others: 1)"""
    quick: bool = False
    """one seed, and a third of the epochs, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    batch_size: int
    epochs: int
    seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    defaults = Amounts(64, 30, 5) if config.data == "digits" else Amounts(128, 5, 1)
    if config.quick:
        defaults = defaults._replace(epochs=-(-defaults.epochs // 3), seeds=1)
    amounts = filled(config, defaults)
    positive = amounts._asdict() | {
        name: getattr(config, name) for name in ("learning_rate", "checkpoint_every")
    }
    require_positive(positive)
    if amounts.batch_size < 2:
        raise UsageError("--batch-size must be at least 2: noise is seen between examples, got 1")
    if not 0 < config.flipped < 1:
        raise UsageError(f"--flipped must be above 0 and below 1, got {config.flipped}")
    if not 0 <= config.momentum < 1:
        raise UsageError(f"--momentum must be from 0 to below 1, got {config.momentum}")
    require_seed(config.seed, amounts.seeds)
    return amounts


def main(config: Config) -> int:
    """Flip, train, rank, draw, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    data = load(config.data, config.data_folder)
    require_batch(amounts.batch_size, len(data.train_y))
    # a norm over the batch would leave no example a gradient of its own
    model = replace(
        cnn_config(data, dropout=0.0, dtype="float32"),
        batch_norm=False,
        channels=(16, 32),
        hidden=(64,),
    )
    labels = [flip(data, config.flipped, config.seed + i) for i in range(amounts.seeds)]
    _describe(data, model, labels[0])
    training = Training(
        config.learning_rate,
        config.momentum,
        amounts.batch_size,
        amounts.epochs,
        config.checkpoint_every,
    )
    opened = open_run(
        config.runs, "influence", config, data=fingerprint(data), folder=config.folder
    )
    with opened as folder:
        results = _results(folder, config, training, data, model, labels)
        print_results(data, results)
        print(f"report: {write_report(folder, data, results)}")
    return 0


def _describe(data: Dataset, model: models.CNNConfig, labels: Labels) -> None:
    params, _ = jax.eval_shape(lambda key: models.init_cnn(key, model), jax.random.key(0))
    print(
        f"{data.name}: {int(labels.flipped.sum())} of {len(data.train_y):,} training labels made "
        f"wrong; CNN with {tree.size(params):,} parameters, on {jax.devices()[0].device_kind}"
    )


def _results(
    folder: Run,
    config: Config,
    training: Training,
    data: Dataset,
    model: models.CNNConfig,
    labels: list[Labels],
) -> Results:
    move = standardizer(data.train_x)
    train_x, test = move(data.train_x), batch_of(move(data.test_x), data.test_y, np.float32)
    steps = len(data.train_y) // training.batch_size
    program = make_program(training, model, steps)
    one_pass = scores.make_pass(make_loss(model), training.learning_rate)
    runs: list[OneRun] = []
    for given in labels:
        seed = config.seed + len(runs)
        batch = batch_of(train_x, given.given, np.float32)
        trained = run(training, program, batch, test, seed)
        if not runs:
            examples = examine(trained.state, model, test)
            tests = _to_show(examples.norms, config.seed)
            shown = {name: leaf[tests] for name, leaf in test.items()}
        found = scores.score(one_pass, training.learning_rate, trained.checkpoints, batch, shown)
        runs.append(OneRun(seed, given, trained.accuracy, trained.epochs, found))
        append_metrics(folder, _records(runs[-1], trained, steps))
    first = {name: leaf[: training.batch_size] for name, leaf in batch.items()}
    timings = cost.measure(training, model, trained.state, first, rounds=3 if config.quick else 9)
    return Results(runs, examples, tests, timings)


def _to_show(norms: NDArray[Any], seed: int) -> NDArray[np.intp]:
    """The hardest test images, and some others that are drawn."""
    order = hardest_first(norms)
    others = np.random.default_rng(seed).permutation(order[SHOWN:])
    return np.concatenate([order[:SHOWN], others[:SHOWN]])


def _records(one: OneRun, trained: Trained, steps: int) -> list[dict[str, Any]]:
    """A record for each epoch, and what the rankings found."""
    epochs = one.epochs
    records: list[dict[str, Any]] = [
        {
            "step": steps * (epoch + 1),
            "seed": one.seed,
            "loss": epochs.loss[epoch],
            "noise_scale": epochs.noise_scale[epoch],
            "diversity_batch_size": epochs.batch_size[epoch],
            "signal_to_noise": {k: v[epoch] for k, v in epochs.signal_to_noise.items()},
        }
        for epoch in range(len(epochs.loss))
    ]
    found = {
        name: scores.precision(getattr(one.scores, name), one.labels.flipped)
        for name in scores.RANKINGS
    }
    end = {"step": int(trained.state.step), "seed": one.seed, "test_accuracy": one.accuracy}
    return [*records, {**end, "precision": found}]
