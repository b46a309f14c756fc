"""Images made by autoencoders, a GAN, diffusion and flow matching, and how far off they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Dataset, fingerprint, load
from experiments.data.dataset import Images
from experiments.errors import UsageError
from experiments.flags import filled, require_batch, require_positive, require_seed
from experiments.images import adversarial, autoencoders, denoisers
from experiments.images.frechet import (
    Features,
    Judge,
    correlated_pixels,
    frechet_distance,
    independent_pixels,
    train_judge,
)
from experiments.images.report import Results, Score, print_results, write_report
from experiments.images.task import Outcome, Samples, Task, clipped
from experiments.run import append_metrics, open_run
from jaxnets.models.gan import Game

Model: TypeAlias = Literal["autoencoder", "denoising", "vae", "gan", "diffusion", "flow"]

MODELS: dict[Model, Callable[[Task], Outcome]] = {
    "autoencoder": autoencoders.autoencoder,
    "denoising": autoencoders.denoising,
    "vae": autoencoders.vae,
    "gan": adversarial.gan,
    "diffusion": denoisers.diffusion,
    "flow": denoisers.flow,
}

EPOCHS: dict[Model, int] = {
    "autoencoder": 100,
    "denoising": 100,
    "vae": 200,
    "gan": 250,
    "diffusion": 200,
    "flow": 200,
}
"""On the digits, which are few."""
QUICK = 2
OTHERS = 5
OTHERS_QUICK = 100
"""What the epochs are divided by."""

JUDGE_EPOCHS = 30


@dataclass(frozen=True)
class Config:
    """Train models that make images, draw samples, and measure how far they are from real ones."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    models: tuple[Model, ...] = tuple(MODELS)
    """which of them"""
    width: int | None = None
    """channels of the first level of every net (digits and quick: 16, others: 64)"""
    epochs: int | None = None
    """passes over the training data, of every model (by default each has its own number)"""
    judge_epochs: int | None = None
    """those of the classifier whose features are compared (30; quick: 6)"""
    batch_size: int | None = None
    """examples per step (digits: 64, others: 128)"""
    learning_rate_factor: float = 1.0
    """what every model's own learning rate is multiplied by, positive"""
    game: Game = "non_saturating"
    """what the GAN's nets play for; wasserstein is with a gradient penalty"""
    samples: int | None = None
    """how many are drawn, at most as many as there are test images (digits: as many; others: 2000;
    quick: 200)"""
    seed: int = 0
    """of all that is random"""
    quick: bool = False
    """small nets and few epochs, for two CPU cores: minutes, also where images are larger"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others; but for the models' own epochs."""

    width: int
    judge_epochs: int
    batch_size: int
    samples: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    digits = config.data == "digits"
    defaults = Amounts(16 if digits else 64, JUDGE_EPOCHS, 64 if digits else 128, 2000)
    if config.quick:
        defaults = defaults._replace(width=16, judge_epochs=JUDGE_EPOCHS // 5, samples=200)
    amounts = filled(config, defaults)
    others = {name: getattr(config, name) for name in ("epochs", "learning_rate_factor")}
    require_positive(amounts._asdict() | others)
    if amounts.width % 8:
        raise UsageError(f"--width must be a multiple of 8, got {amounts.width}")
    if amounts.samples < 2:
        raise UsageError(f"--samples must be at least 2, got {amounts.samples}")
    if not config.models:
        raise UsageError(f"--models must name some of {', '.join(MODELS)}")
    require_seed(config.seed)
    return amounts


def epochs_of(config: Config, model: Model) -> int:
    """How long a model is trained."""
    if config.epochs is not None:
        return config.epochs
    if config.data == "digits":
        return EPOCHS[model] // (QUICK if config.quick else 1)
    return max(1, EPOCHS[model] // (OTHERS_QUICK if config.quick else OTHERS))


def main(config: Config) -> int:
    """Train a classifier and every model, draw, measure, report; returns the exit code."""
    amounts = settle(config)
    data = in_unit_range(load(config.data, config.data_folder))
    if any(side % 4 for side in data.train_x.shape[1:3]):
        height, width, _ = data.train_x.shape[1:]
        raise UsageError(
            f"{data.name}: images must have sides that are multiples of 4, got {height}×{width}"
        )
    require_batch(amounts.batch_size, len(data.train_y))
    amounts = amounts._replace(samples=min(amounts.samples, len(data.test_y)))
    config = replace(config, **amounts._asdict())
    print(f"{data.name}: {len(data.train_y):,} images, on {jax.devices()[0].device_kind}")
    opened = open_run(config.runs, "images", config, data=fingerprint(data), folder=config.folder)
    with opened as run:
        judge = train_judge(data, amounts.judge_epochs, config.seed)
        order = np.random.default_rng(config.seed).permutation(len(data.test_y))
        test = data.test_x[order[: amounts.samples]]
        train = {"x": jnp.asarray(data.train_x), "y": jnp.asarray(data.train_y)}
        real, _ = judge.look(data.train_x)
        scores = _baselines(data, test, judge, real, config.seed)
        outcomes: dict[str, Outcome] = {}
        for name in dict.fromkeys(config.models):
            task = Task(
                train,
                jnp.asarray(test),
                data.classes,
                amounts.width,
                epochs_of(config, name),
                amounts.batch_size,
                config.seed,
                config.learning_rate_factor,
                config.game,
            )
            outcomes[name] = outcome = MODELS[name](task)
            found = [
                _score(judge, real, name, how, samples) for how, samples in outcome.samples.items()
            ]
            scores += found
            steps = len(next(iter(outcome.losses.values())))
            append_metrics(run, _records(name, steps, outcome, found))
        results = Results(judge.accuracy, test, scores, outcomes)
        print_results(results)
        print(f"report: {write_report(run, data, results)}")
    return 0


def in_unit_range(data: Dataset) -> Dataset:
    """The images moved and scaled so that those to train on span [0, 1]; the others are clipped."""
    low, high = float(data.train_x.min()), float(data.train_x.max())
    if low == high:
        raise UsageError(f"{data.name}: all training images are one value, {low}")

    def move(x: Images) -> Images:
        return clipped((x - low) / (high - low))

    return data._replace(train_x=move(data.train_x), test_x=move(data.test_x))


def _baselines(data: Dataset, test: Images, judge: Judge, real: Features, seed: int) -> list[Score]:
    n, x = len(test), data.train_x
    made = {
        "the test images themselves": test,
        "one normal distribution of all pixels": correlated_pixels(x, n, seed),
        "independent normal pixels": independent_pixels(x, n, seed),
    }
    return [_score(judge, real, "", name, Samples(images)) for name, images in made.items()]


def _score(judge: Judge, real: Features, model: str, how: str, samples: Samples) -> Score:
    features, read = judge.look(samples.images)
    distance = frechet_distance(features, real)
    asked = samples.asked
    return Score(model, how, distance, None if asked is None else float(np.mean(read == asked)))


def _records(
    name: str, steps: int, outcome: Outcome, scores: list[Score]
) -> list[dict[str, object]]:
    curves = [
        {"step": i + 1, "model": name, **{key: values[i] for key, values in outcome.losses.items()}}
        for i in range(steps)
    ]
    distances = {score.how: score.distance for score in scores}
    end = {"frechet": distances, "facts": dict(outcome.facts), "seconds": outcome.seconds}
    return [*curves, {"step": steps, "model": name, **end}]
