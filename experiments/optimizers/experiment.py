"""Sweep optimizers over the same learning rates, on test functions and on images; report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset, fingerprint, load
from experiments.errors import UsageError
from experiments.flags import filled, require_batch, require_positive, require_seed
from experiments.optimizers import descent, images
from experiments.optimizers.families import REFERENCES, Contender, Family, chosen
from experiments.optimizers.functions import ARENAS
from experiments.optimizers.pictures import Track
from experiments.optimizers.ranking import TOLERANCE, best, late_mean, steps_to
from experiments.optimizers.report import (
    LEFT_OUT,
    FamilyResult,
    ImageResult,
    Results,
    write_report,
)
from experiments.run import Run, append_metrics, open_run
from jaxnets import models
from jaxnets.types import PyTree

EPOCHS = {"digits": 20}
"""By data set; others take 2."""


@dataclass(frozen=True)
class Config:
    """Compare optimizers, each at every learning rate of one grid, on functions and on images."""

    optimizers: tuple[str, ...] = ()
    """names; by default all"""
    lowest_rate: float = 1e-4
    """the first learning rate of the grid, positive"""
    highest_rate: float = 10.0
    """the last one"""
    rates: int | None = None
    """how many there are, evenly on a logarithmic scale (16)"""
    steps: int | None = None
    """on the functions (2000)"""
    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    hidden: int = 32
    """units of the net's hidden layer"""
    batch_size: int = 64
    """examples per step"""
    epochs: int | None = None
    """passes over the training images (digits: 20, others: 2)"""
    seed: int = 0
    """of the noise, and of the first net's initial weights and batches"""
    seeds: int | None = None
    """how many nets per rate, with seeds one after the other (3)"""
    quick: bool = False
    """six rates, 1000 steps and two epochs of a single seed, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    rates: int
    steps: int
    epochs: int
    seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    chosen(config.optimizers)
    defaults = Amounts(6, 1000, 2, 1) if config.quick else Amounts(16, 2000, 0, 3)
    if not config.quick:
        defaults = defaults._replace(epochs=EPOCHS.get(config.data, 2))
    amounts = filled(config, defaults)
    positive = amounts._asdict() | {
        name: getattr(config, name)
        for name in ("lowest_rate", "highest_rate", "hidden", "batch_size")
    }
    require_positive(positive)
    if amounts.rates < 2 or config.lowest_rate >= config.highest_rate:
        raise UsageError(
            "the grid needs --rates of at least 2 and --lowest-rate below --highest-rate, got "
            f"{amounts.rates} from {config.lowest_rate:g} to {config.highest_rate:g}"
        )
    require_seed(config.seed, amounts.seeds)
    return amounts


def main(config: Config) -> int:
    """Sweep, rank, draw, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    data = load(config.data, config.data_folder)
    split = images.split(data)
    kept = len(split.train["y"])
    require_batch(config.batch_size, kept)
    families = chosen(config.optimizers)
    rates = np.geomspace(config.lowest_rate, config.highest_rate, amounts.rates)
    opened = open_run(
        config.runs, "optimizers", config, data=fingerprint(data), folder=config.folder
    )
    with opened as run:
        results = Results(
            rates=rates,
            families=[_family(run, family, rates, config, amounts) for family in families],
            images=_images(run, families, data, split, rates, config, amounts),
        )
        print(f"report: {write_report(run, data, results)}")
    return 0


def _family(
    run: Run, family: Family, rates: NDArray[np.float64], config: Config, amounts: Amounts
) -> FamilyResult:
    """The sweeps of a family on its functions, in float64: rounding is not what is compared."""
    if not family.arena:
        return FamilyResult(family, [])
    references = REFERENCES.get(family.arena, ())
    contenders = (*family.contenders, *(c for c in references if c not in family.contenders))
    print(f"{family.title}: {', '.join(c.name for c in contenders)}", flush=True)
    with jax.enable_x64(True):
        return FamilyResult(
            family, [_track(run, family, c, rates, config.seed, amounts) for c in contenders]
        )


def _track(
    run: Run,
    family: Family,
    contender: Contender,
    rates: NDArray[np.float64],
    seed: int,
    amounts: Amounts,
) -> Track:
    functions = ARENAS[family.arena]
    key = jax.random.key(seed)
    paths = descent.sweep(contender, functions, jnp.asarray(rates), amounts.steps, key)
    append_metrics(
        run,
        [
            {
                "step": amounts.steps,
                "function": function.name,
                "optimizer": contender.name,
                "rate": float(rate),
                "steps_to_tolerance": None if function.noise else steps_to(values, TOLERANCE),
                "late": late_mean(values),
            }
            for function, rows in zip(functions, paths.values, strict=True)
            for rate, values in zip(rates, rows, strict=True)
        ],
    )
    found = [
        best(values, rates, noisy=function.noise > 0)
        for function, values in zip(functions, paths.values, strict=True)
    ]
    return Track(
        name=contender.name,
        values=[values[b.rate_index] for values, b in zip(paths.values, found, strict=True)],
        points=[points[b.rate_index] for points, b in zip(paths.points, found, strict=True)],
        best=found,
    )


def _images(
    run: Run,
    families: tuple[Family, ...],
    data: Dataset,
    split: images.Split,
    rates: NDArray[np.float64],
    config: Config,
    amounts: Amounts,
) -> list[ImageResult]:
    model = models.MLPConfig(
        n_in=int(np.prod(data.train_x.shape[1:])), n_out=len(data.classes), hidden=(config.hidden,)
    )
    seeds = config.seed + jnp.arange(amounts.seeds)
    kept = len(split.train["y"])
    beginning = images.begin(model, kept, seeds, config.batch_size, amounts.epochs)
    contenders = [
        c for family in families for c in family.contenders if c.on_images and not c.noise_free
    ]
    names = ", ".join(c.name for c in contenders)
    print(f"{data.name}: {names or f'none, since it leaves out {LEFT_OUT}'}", flush=True)
    results = []
    for contender in contenders:
        outcome = images.sweep(contender, model, split, jnp.asarray(rates), beginning)
        append_metrics(run, _image_records(contender, outcome, rates, seeds, beginning))
        results.append(
            ImageResult(
                contender.name,
                outcome.test.mean(axis=0),
                images.diverged(outcome, len(data.classes)),
                images.choose(outcome, rates),
            )
        )
    return results


def _image_records(
    contender: Contender,
    outcome: images.Outcome,
    rates: NDArray[np.float64],
    seeds: PyTree,
    beginning: images.Beginning,
) -> list[dict[str, object]]:
    _, epochs, steps, _ = beginning.batches.shape
    return [
        {
            "step": epochs * steps,
            "optimizer": contender.name,
            "rate": float(rates[column]),
            "seed": int(seed),
            "loss": float(outcome.loss[row, column]),
            "held_out_accuracy": float(outcome.held_out[row, column]),
            "test_accuracy": float(outcome.test[row, column]),
        }
        for row, seed in enumerate(seeds)
        for column in range(len(rates))
    ]
