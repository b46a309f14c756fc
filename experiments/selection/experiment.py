"""Cross-validate, search and judge what is chosen by data that took no part in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import Dataset, fingerprint, load
from experiments.errors import UsageError
from experiments.flags import filled, require_batch, require_positive, require_seed
from experiments.run import Run, append_metrics, open_run
from experiments.selection import cost, task
from experiments.selection.estimates import Estimated, estimate, make_fit
from experiments.selection.judging import Results
from experiments.selection.report import print_results, write_report
from experiments.selection.searches import (
    HELD_OUT_PARTS,
    Amount,
    Result,
    hyperband_epochs,
    run_searches,
)
from jaxnets import models


@dataclass(frozen=True)
class Config:
    """Choose a small net's learning rate and L2 penalty: estimates, searches, and their cost."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    examples: int = 400
    """to choose by, drawn anew for each seed; the others, 5000 at most, judge what was chosen"""
    hidden: int = 32
    """width of the net's hidden layer"""
    batch_size: int = 32
    """examples per step"""
    epochs: int | None = None
    """of a configuration, a power of 3 (81; quick: 27)"""
    rates: int | None = None
    """learning rates of the grid (5; quick: 7)"""
    decays: int | None = None
    """L2 penalties of the grid (4; quick: 2)"""
    seed: int = 0
    """of the first repetition: its examples, initial weights and draws"""
    seeds: int | None = None
    """how many repetitions, with seeds one after the other (20; quick: 6)"""
    quick: bool = False
    """fewer seeds, epochs and configurations, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    epochs: int
    rates: int
    decays: int
    seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all flags that need no data are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    amounts = filled(config, Amounts(27, 7, 2, 6) if config.quick else Amounts(81, 5, 4, 20))
    names = ("examples", "hidden", "batch_size")
    require_positive(amounts._asdict() | {name: getattr(config, name) for name in names})
    if amounts.epochs not in [3**i for i in range(1, 12)]:
        raise UsageError(f"--epochs must be a power of 3, 3 at least, got {amounts.epochs}")
    configurations, needed = amounts.rates * amounts.decays, hyperband_epochs(amounts.epochs)
    if configurations * amounts.epochs < needed:
        raise UsageError(
            f"--rates × --decays must be at least {-(-needed // amounts.epochs)}, as much as "
            f"Hyperband spends, got {configurations}"
        )
    if amounts.seeds < 2:
        raise UsageError(f"--seeds must be at least 2, got {amounts.seeds}")
    require_seed(config.seed, amounts.seeds)
    return amounts


def _require_examples(config: Config, data: Dataset) -> None:
    y = np.concatenate([data.train_y, data.test_y])
    rarest = int(np.bincount(y, minlength=len(data.classes)).min())
    # so that nested cross-validation finds each class in every inner fold
    least, most = -(-10 * len(y) // max(rarest, 1)), 2 * len(y) // 3
    if not least <= config.examples <= most:
        raise UsageError(
            f"--examples must be from {least}, with ten of the rarest class, to {most}, two thirds "
            f"of all, got {config.examples}"
        )
    part = config.examples * (HELD_OUT_PARTS - 1) // HELD_OUT_PARTS
    # a part of an inner part of nested cross-validation
    require_batch(
        config.batch_size, min(part, config.examples * 16 // 25 - 2), "examples of a part"
    )


def main(config: Config) -> int:
    """Estimate, search, time, report; returns the exit code."""
    config = replace(config, **settle(config)._asdict())
    data = load(config.data, config.data_folder)
    _require_examples(config, data)
    opened = open_run(
        config.runs, "selection", config, data=fingerprint(data), folder=config.folder
    )
    with opened as folder:
        results = _results(folder, config, data)
        print_results(results)
        print(f"report: {write_report(folder, data, results)}")
    return 0


def _results(folder: Run, config: Config, data: Dataset) -> Results:
    assert config.epochs is not None
    assert config.rates is not None
    assert config.decays is not None
    assert config.seeds is not None
    pixels = int(np.prod(data.train_x.shape[1:]))
    net = models.MLPConfig(pixels, len(data.classes), hidden=(config.hidden,))
    job = task.Task(net, config.batch_size)
    grid = task.grid(config.rates, config.decays)
    fit, epochs = make_fit(job, config.epochs), config.epochs
    seeds = range(config.seed, config.seed + config.seeds)
    estimated, searched = [], []
    for seed in seeds:
        drawn = task.draw_examples(data, config.examples, seed)
        estimated.append(estimate(job, fit, grid, drawn, epochs=epochs, seed=seed))
        searched.append(run_searches(job, Amount(grid, epochs), drawn, seed))
        append_metrics(folder, _records(seed, estimated[-1], searched[-1]))
        print(f"seed {seed}: {_line(estimated[-1], searched[-1])}", flush=True)
    drawn = task.draw_examples(data, config.examples, config.seed)
    costs = cost.measure(
        job, grid, drawn, epochs=epochs, seed=config.seed, rounds=3 if config.quick else 7
    )
    append_metrics(
        folder, [{"step": 0, "search": name, **c._asdict()} for name, c in costs.items()]
    )
    return Results(list(seeds), estimated, searched, costs)


def _line(estimated: Estimated, searched: Mapping[str, Result]) -> str:
    losses = ", ".join(f"{name} {found.test_loss:.3f}" for name, found in searched.items())
    return (
        f"estimated {estimated.rows[0].mean:.3f}, nested {estimated.nested.mean:.3f}, true "
        f"{estimated.truth:.3f}; test loss of {losses}"
    )


def _records(
    seed: int, estimated: Estimated, searched: Mapping[str, Result]
) -> list[dict[str, Any]]:
    first: dict[str, Any] = {
        "step": 0,
        "seed": seed,
        "rows": [row._asdict() for row in estimated.rows],
        "two": estimated.two._asdict(),
        "nested_mean": estimated.nested.mean,
        "nested_scores": estimated.nested.scores,
        "nested_optimism": estimated.nested.optimism,
        "true_losses": estimated.true_losses,
        "truth": estimated.truth,
    }
    return [
        first,
        *(
            {
                "step": found.chosen.epochs,
                "seed": seed,
                "search": name,
                "config": dict(found.chosen.config),
                "held_out": found.chosen.held_out,
                "tried": found.chosen.tried,
                "test_loss": found.test_loss,
                "test_error": found.test_error,
                "seconds": found.seconds,
            }
            for name, found in searched.items()
        ),
    ]
