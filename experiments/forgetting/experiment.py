"""Learn tasks one after the other, and measure what is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.data import Dataset, fingerprint, load, standardizer
from experiments.errors import UsageError
from experiments.flags import filled, require_positive, require_seed
from experiments.forgetting.methods import (
    CANDIDATES,
    Learn,
    Learning,
    Method,
    make_program,
    run_all,
)
from experiments.forgetting.report import Found, print_results, write_report
from experiments.forgetting.tasks import (
    PROTOCOLS,
    Examples,
    Protocol,
    Tasks,
    hold_out,
    make_tasks,
    smaller,
)
from experiments.run import Run, append_metrics, open_run
from jaxnets import models, train

DEVELOPMENT, CHOOSING = 10_000, 5
"""Seeds from the one on, so many, choose strengths; those reported are below."""


@dataclass(frozen=True)
class Config:
    """Learn tasks in sequence: plainly, slowly, tied to the start (L2, EWC), and with replay."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    protocol: Literal["task", "class", "permuted", "all"] = "all"
    """two classes at a time, told which (task) or not (class); or the pixels permuted"""
    tasks: int = 5
    """how many, one after the other"""
    examples: int | None = None
    """training images of each task at most (3000, --quick 1000)"""
    hidden: int = 64
    """width of the net's two hidden layers"""
    learning_rate: float = 2e-3
    """of Adam, positive"""
    batch_size: int = 32
    """examples per step"""
    steps: int | None = None
    """per task (600, --quick 200)"""
    memory: int = 100
    """examples that replay keeps, of all tasks together"""
    seed: int = 0
    """of the first run's weights, tasks and batches"""
    seeds: int | None = None
    """how many runs, with seeds one after the other (10, --quick 5)"""
    quick: bool = False
    """fewer seeds, images and steps, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    examples: int
    steps: int
    seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    amounts = filled(config, Amounts(1000, 200, 5) if config.quick else Amounts(3000, 600, 10))
    names = ("hidden", "learning_rate", "batch_size", "memory")
    require_positive(amounts._asdict() | {name: getattr(config, name) for name in names})
    if config.tasks < 2:
        raise UsageError(f"--tasks must be at least 2, got {config.tasks}")
    require_seed(config.seed, amounts.seeds)
    if config.seed + amounts.seeds > DEVELOPMENT:
        raise UsageError(f"--seed must stay below {DEVELOPMENT}: the seeds above choose strengths")
    return amounts


def main(config: Config) -> int:
    """Choose strengths, learn, test, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    data = load(config.data, config.data_folder)
    protocols: Sequence[Protocol] = (
        tuple(PROTOCOLS) if config.protocol == "all" else (config.protocol,)
    )
    opened = open_run(
        config.runs, "forgetting", config, data=fingerprint(data), folder=config.folder
    )
    with opened as folder:
        move = standardizer(data.train_x)
        seen = data._replace(train_x=smaller(move(data.train_x)), test_x=smaller(move(data.test_x)))
        results = [_one_protocol(folder, config, amounts, seen, name) for name in protocols]
        print_results(data, results)
        print(f"report: {write_report(folder, data, results)}")
    return 0


def _stacked(tasks: Sequence[Tasks], part: str) -> Examples:
    """`[seeds, T, n, …]`, as many images of each seed's tasks as of the fewest."""
    parts = [getattr(t, part) for t in tasks]
    n = min(examples.y.shape[1] for examples in parts)
    columns = zip(*parts, strict=True)
    return Examples(*(np.stack([leaf[:, :n] for leaf in leaves]) for leaves in columns))


def _one_protocol(
    folder: Run, config: Config, amounts: Amounts, data: Dataset, protocol: Protocol
) -> Found:
    learning = Learning(config.learning_rate, config.batch_size, amounts.steps, config.memory)
    n_classes, pixels = len(data.classes), data.train_x[0].size
    model = models.MLPConfig(pixels, n_classes, hidden=(config.hidden, config.hidden))
    program = make_program(learning, model)
    chosen = _choose(program, config, amounts, data, protocol)
    seeds = [config.seed + i for i in range(amounts.seeds)]
    tasks = [make_tasks(data, protocol, config.tasks, amounts.examples, seed) for seed in seeds]
    methods = list(chosen.values())
    found = run_all(program, methods, seeds, _stacked(tasks, "train"), _stacked(tasks, "test"))
    matrices = dict(zip(chosen, found, strict=True))
    append_metrics(folder, list(_records(protocol, amounts, seeds, matrices)))
    chance = 0.5 if protocol == "task" else 0.0
    return Found(protocol, tasks[0].names, chance, seeds, chosen, matrices)


def _choose(
    program: Learn, config: Config, amounts: Amounts, data: Dataset, protocol: Protocol
) -> dict[str, Method]:
    """Of each method's candidates the one of the highest average accuracy on held-out images."""
    seeds = [DEVELOPMENT + i for i in range(CHOOSING)]
    tasks = [
        make_tasks(hold_out(data, seed), protocol, config.tasks, amounts.examples, seed)
        for seed in seeds
    ]
    known, test = (_stacked(tasks, part) for part in ("train", "test"))
    candidates = [method for methods in CANDIDATES.values() for method in methods]
    matrices = run_all(program, candidates, seeds, known, test)
    scores = iter(np.asarray(train.average_accuracy(matrices)).mean(1))
    chosen = {}
    for name, methods in CANDIDATES.items():
        own = [next(scores) for _ in methods]
        chosen[name] = methods[int(np.argmax(own))]
    return chosen


def _records(
    protocol: str, amounts: Amounts, seeds: Sequence[int], matrices: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            "step": amounts.steps * matrix.shape[-1],
            "protocol": protocol,
            "method": name,
            "seed": seed,
            "accuracies": own.tolist(),
            "average_accuracy": float(train.average_accuracy(own)),
            "forgetting": float(train.forgetting(own)),
        }
        for name, matrix in matrices.items()
        for seed, own in zip(seeds, matrix, strict=True)
    ]
