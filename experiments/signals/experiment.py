"""Classify signals by a convolutional and a recurrent net, and see which signals are hard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.signals import Signals, Split, fingerprint, load_signals, standardizer
from experiments.errors import UsageError
from experiments.flags import filled, require_batch
from experiments.run import Run, open_run
from experiments.sequences import (
    Batch,
    Trained,
    Training,
    gradient_norms,
    of_seed,
    predict,
    require_flags,
    train_seeds,
)
from experiments.signals.nets import Recipe, make_classifier, recipe_for
from experiments.signals.report import Examined, Results, print_results, write_report
from jaxnets import tree

HELD_OUT = 0.2
"""The share of the training signals of each class that `--validate` holds out."""


@dataclass(frozen=True)
class Config:
    """Train a 1-D convolutional and a recurrent net to tell signals apart."""

    data: str = "JapaneseVowels"
    """JapaneseVowels, ItalyPowerDemand, GunPoint, ElectricDevices, FordA, ECG5000, or the path of
    a file ..._TRAIN.ts or ..._TRAIN.tsv beside its ..._TEST"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    model: tuple[Literal["cnn", "gru", "lstm", "rnn"], ...] = ("cnn", "gru")
    """one or more: 1-D CNN with global pooling, or a bidirectional recurrent net"""
    width: int | None = None
    """channels of the first convolution, or features of each direction (by data set)"""
    learning_rate: float | None = None
    """of the first step, positive; falls along half a cosine (by data set)"""
    weight_decay: float = 0.01
    """of AdamW, not negative"""
    dropout: float = 0.2
    """rate before the readout, from 0 to 1"""
    batch_size: int | None = None
    """signals per step (by data set)"""
    epochs: int | None = None
    """passes over the training data (by data set)"""
    validate: bool = False
    """hold out a fifth of the training signals and report on them, not on the test signals: to
    choose by"""
    seed: int = 0
    """of the first run's initial weights, batches and dropout"""
    seeds: int = 3
    """how many runs of each net, with seeds one after the other, in one program"""
    quick: bool = False
    """narrower nets and fewer epochs, for two CPU cores, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


def settle(config: Config, model: str) -> Recipe:
    """What the config's `None`s stand for, for one net, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    recipe = filled(config, recipe_for(config.data, model, quick=config.quick))
    require_flags(config, {**recipe._asdict(), "seeds": config.seeds})
    if len(set(config.model)) < max(1, len(config.model)):
        raise UsageError(f"--model must name one net or several, each once, got {config.model}")
    return recipe


class Data(NamedTuple):
    """Standardized signals on the device, and as they are stored."""

    train: Batch
    test: Batch
    shown: Split
    """Those that are tested on, as they are stored."""


def main(config: Config) -> int:
    """Train, examine, report; returns the exit code."""
    recipes: dict[str, Recipe] = {model: settle(config, model) for model in config.model}
    signals = load_signals(config.data, config.data_folder)
    data = split(signals, validate=config.validate)
    for recipe in recipes.values():
        require_batch(recipe.batch_size, len(data.train["y"]), "signals")
    _describe(signals, data)
    opened = open_run(
        config.runs, "signals", config, data=fingerprint(signals), folder=config.folder
    )
    with opened as run:
        trained = [_train(run, config, signals, data, m, recipe) for m, recipe in recipes.items()]
        results = Results(signals, data.shown, trained, [_examine(t, data.test) for t in trained])
        print_results(results, config)
        print(f"report: {write_report(run, config, recipes, results)}")
    return 0


def split(signals: Signals, *, validate: bool) -> Data:
    """The training and the test signals; to validate, two parts of the training signals.

    Raises:
      UsageError: if a class has too few signals to hold one out.
    """
    if not validate:
        move = standardizer(signals.train)
        return Data(_batch(move(signals.train)), _batch(move(signals.test)), signals.test)
    y, rng = signals.train.y, np.random.default_rng(0)
    of_class = [rng.permutation(np.flatnonzero(y == c)) for c in range(len(signals.classes))]
    if min(map(len, of_class)) < 2:
        raise UsageError(f"--validate: a class of {signals.name} has a single training signal")
    cuts = [max(1, round(HELD_OUT * len(indices))) for indices in of_class]
    parts = [np.split(indices, [cut]) for indices, cut in zip(of_class, cuts, strict=True)]
    held, kept = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    train, held_out = (Split(*(a[rows] for a in signals.train)) for rows in (kept, held))
    move = standardizer(train)
    return Data(_batch(move(train)), _batch(move(held_out)), held_out)


def _batch(signals: Split) -> Batch:
    return {name: jnp.asarray(array) for name, array in signals._asdict().items()}


def _describe(signals: Signals, data: Data) -> None:
    n, steps, channels = data.train["x"].shape
    shortest = int(signals.train.lengths.min())
    length = str(steps) if shortest == steps else f"{shortest} to {steps}"
    print(
        f"{signals.name}: {n:,} training and {len(data.test['y']):,} test signals of {length} "
        f"steps and {channels} channel{'s' * (channels > 1)}, {len(signals.classes)} classes; "
        f"on {jax.devices()[0].device_kind}"
    )


def _train(
    run: Run, config: Config, signals: Signals, data: Data, model: str, recipe: Recipe
) -> Trained:
    classifier = make_classifier(model, signals, width=recipe.width, dropout=config.dropout)
    training = Training(recipe.learning_rate, config.weight_decay, recipe.batch_size, recipe.epochs)
    parameters = jax.eval_shape(classifier.init, jax.random.key(0))
    print(f"{classifier.name}: {tree.size(parameters):,} parameters")
    # nothing is chosen by what is watched
    parts = {"train": data.train, "held_out": data.test, "test": data.test}
    seeds = range(config.seed, config.seed + config.seeds)
    return train_seeds(run, classifier, training, parts, seeds)


def _examine(trained: Trained, test: Batch) -> Examined:
    """Of the first seed."""
    params = of_seed(trained, 0)
    return Examined(
        np.argmax(predict(trained.classifier, params, test), -1),
        gradient_norms(trained.classifier, params, test),
    )
