"""Accuracy against labels: from scratch, on a frozen base, fine-tuned, and with adapters.

Seeds draw their labels from one pool, so that where these are most of it (5,000 of 6,000, or of the
solar cells, most of a class) the seeds learn from nearly the same examples: their spread is then
that of weights and batches more than of examples, and understates. The report says where. All are
tested on the same examples, whose own error no spread over seeds shows.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.errors import UsageError
from experiments.flags import filled, require_not_negative, require_positive, require_seed
from experiments.run import Run, append_metrics, open_run
from experiments.transfer import tuning
from experiments.transfer.base import LAST, Base
from experiments.transfer.heads import best_kind, choice, solve_all, tested, trials
from experiments.transfer.held_out import Learned, learned, make_learn
from experiments.transfer.images import load_images
from experiments.transfer.labels import draw
from experiments.transfer.learner import Learner
from experiments.transfer.report import print_results, write_report
from experiments.transfer.results import FROZEN, SCRATCH, TO_THE_END, Found
from experiments.transfer.texts import load_texts

WHOLE = "fine-tuned, all layers"
METHODS = {
    "fine-tuned": "fine-tuned",
    "gradually-unfrozen": "gradually unfrozen",
    "all-layers": WHOLE,
    "lora": "LoRA",
}
"""By what they are called on the command line."""


@dataclass(frozen=True)
class Config:
    """What a pretrained base is worth where there are few labels."""

    task: Literal["images", "sentiment"] = "images"
    """images on EfficientNet-Lite0, or film reviews on MiniLM"""
    data: str = "fashion-mnist"
    """of images: fashion-mnist, elpv (defects of solar cells), mnist, or an .npz file's path"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    weights_folder: Path | None = None
    """where the base's weights are, if not found by themselves"""
    labels: tuple[int, ...] | None = None
    """numbers of labels (10 50 100 500 1000 5000, --quick 10 100)"""
    examples: int | None = None
    """labelled examples in all, from which each seed draws (6000, --quick 2000)"""
    tests: int | None = None
    """examples to test on (2000, --quick reviews 500)"""
    side: int = 96
    """at which EfficientNet sees images"""
    frozen_blocks: int = 12
    """of EfficientNet's sixteen, which only all-layers tunes (1 to 13)"""
    most_steps: int | None = None
    """of fine-tuning and of adapters, where its epochs would be more (1000)"""
    seed: int = 0
    """of the first run's labelled examples, weights and batches"""
    seeds: int | None = None
    """how many runs, with seeds one after the other (3)"""
    tuned_seeds: int | None = None
    """how many of them are tuned too, which takes longest (3; 0: none)"""
    methods: tuple[str, ...] | None = None
    """of those that are tuned, which: fine-tuned, gradually-unfrozen (of reviews), all-layers (of
    images), lora (all; --quick without all-layers)"""
    quick: bool = False
    """less of all, unless other flags say how much"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    labels: tuple[int, ...]
    examples: int
    tests: int
    most_steps: int
    seeds: int
    tuned_seeds: int
    methods: tuple[str, ...]


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    defaults = Amounts((10, 50, 100, 500, 1000, 5000), 6000, 2000, 1000, 3, 3, tuple(METHODS))
    if config.quick:
        tests = 500 if config.task == "sentiment" else 2000
        few = tuple(name for name in METHODS if name != "all-layers")
        defaults = Amounts((10, 100), 2000, tests, 1000, 3, 3, few)
    amounts = filled(config, defaults)
    amounts_of = amounts._asdict()
    labels, methods = amounts_of.pop("labels"), amounts_of.pop("methods")
    require_not_negative({"tuned_seeds": amounts_of.pop("tuned_seeds")})
    require_positive(amounts_of)
    if not labels or min(labels) < 2 or max(labels) > amounts.examples:
        raise UsageError(
            f"--labels must be from 2 to the {amounts.examples} of --examples, got "
            f"{' '.join(map(str, labels))}"
        )
    if amounts.tuned_seeds > amounts.seeds:
        raise UsageError(
            f"--tuned-seeds must be at most the {amounts.seeds} seeds, got {amounts.tuned_seeds}"
        )
    if unknown := set(methods) - set(METHODS):
        raise UsageError(
            f"--methods must be among {' '.join(METHODS)}, got {' '.join(sorted(unknown))}"
        )
    if amounts.most_steps < 10:
        raise UsageError(f"--most-steps must be at least 10, got {amounts.most_steps}")
    if not 1 <= config.frozen_blocks <= 13:
        raise UsageError(f"--frozen-blocks must be from 1 to 13, got {config.frozen_blocks}")
    if config.side < 32:
        raise UsageError(f"--side must be at least 32, got {config.side}")
    require_seed(config.seed, amounts.seeds)
    return amounts


def main(config: Config) -> int:
    """Draw labels, learn, test, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    if config.task == "sentiment":
        base, data = load_texts(
            config.data_folder, config.weights_folder,
            train_texts=amounts.examples, test_texts=amounts.tests,
        )  # fmt: skip
    else:
        base, data = load_images(
            config.data, config.data_folder, config.weights_folder,
            train_images=amounts.examples, test_images=amounts.tests, side=config.side,
            blocks=config.frozen_blocks,
        )  # fmt: skip
    opened = open_run(config.runs, "transfer", config, data=data, folder=config.folder)
    with opened as folder:
        found = _results(folder, config, amounts, base)
        print_results(base, found)
        print(f"report: {write_report(folder, base, found)}")
    return 0


def _by_steps(base: Base, most: int, methods: tuple[str, ...]) -> dict[str, Learner]:
    tuned = {
        "fine-tuned": tuning.fine_tuning(base, most),
        "gradually-unfrozen": tuning.gradual(base, most) if base.stages else None,
        "all-layers": None if base.whole is None else base.whole(most),
        "lora": tuning.lora(base, most),
    }
    asked = {METHODS[name]: learner for name, learner in tuned.items() if name in methods}
    return {SCRATCH: base.scratch, **{name: way for name, way in asked.items() if way is not None}}


def _results(folder: Run, config: Config, amounts: Amounts, base: Base) -> Found:
    found: dict[str, dict[int, list[Learned]]] = {}

    def keep(name: str, n: int, seed: int, learned: Learned) -> None:
        found.setdefault(name, {}).setdefault(n, []).append(learned)
        record = {"step": n, "method": name, "seed": seed} | learned._asdict() | learned.choice
        del record["choice"]
        append_metrics(folder, [record])
        print(f"{n:,} labels, seed {seed}, {name}: {100 * learned.accuracy:.1f} %", flush=True)

    learns = {
        name: make_learn(learner, base.test_y)
        for name, learner in _by_steps(base, amounts.most_steps, amounts.methods).items()
    }
    # some may be fewer than were asked for: a pool has as many as the data set
    for n in sorted({min(n, len(base.train_y)) for n in amounts.labels}):
        for i in range(amounts.seeds):
            seed = config.seed + i
            chosen = draw(base.train_y, n, len(base.classes), seed)
            started = time.perf_counter()
            solved = solve_all(base, chosen, seed)
            seconds = time.perf_counter() - started
            each = {
                part: learned(
                    tested(base, part, one.head), base.test_y, seconds,
                    kind=part, strength=one.strength, chosen=not np.isnan(one.loss),
                )
                for part, one in solved.items()
            }  # fmt: skip
            kind = best_kind(solved)
            of_head, of_last = choice(solved, kind), choice(solved, LAST)
            by_head, by_last = trials(base, chosen, seed) or (None, None)
            if len(each) > 1:
                for part, result in each.items():
                    keep(f"{FROZEN}, {part}", n, seed, result)
            keep(FROZEN, n, seed, each[kind])
            for name, learn in learns.items():
                if name == SCRATCH or i < amounts.tuned_seeds:
                    begin = (of_last, by_last) if name == WHOLE else (of_head, by_head)
                    best, end = learn(chosen, seed, *begin)
                    keep(name, n, seed, best)
                    if name != SCRATCH:
                        keep(f"{name}, {TO_THE_END}", n, seed, end)
    return found
