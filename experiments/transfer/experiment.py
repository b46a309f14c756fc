"""Accuracy against labels: from scratch, on a frozen base, fine-tuned, and with adapters."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.errors import UsageError
from experiments.flags import filled, require_positive, require_seed
from experiments.run import Run, append_metrics, open_run
from experiments.transfer import methods
from experiments.transfer.base import Base
from experiments.transfer.images import load_images
from experiments.transfer.pictures import Accuracies
from experiments.transfer.report import print_results, write_report
from experiments.transfer.texts import load_texts


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
    """numbers of labels (10 50 100 500 1000 5000, --quick 50 500)"""
    examples: int | None = None
    """labelled examples in all, from which each seed draws (6000, --quick 1000)"""
    tests: int | None = None
    """examples to test on (2000, --quick 600, reviews 300)"""
    side: int = 96
    """at which EfficientNet sees images"""
    steps: int | None = None
    """of fine-tuning and of adapters, 16 examples each (300, --quick 30)"""
    scratch_steps: int | None = None
    """of training from scratch (600, --quick 400)"""
    learning_rate: float = 3e-4
    """of fine-tuning's head, halved with depth"""
    lora_rate: float = 1e-3
    """of adapters"""
    seed: int = 0
    """of the first run's labelled examples, weights and batches"""
    seeds: int | None = None
    """how many runs, with seeds one after the other (3)"""
    tuned_seeds: int | None = None
    """how many of them are fine-tuned too, which takes longest (3, --quick 1)"""
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
    steps: int
    scratch_steps: int
    seeds: int
    tuned_seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    defaults = Amounts((10, 50, 100, 500, 1000, 5000), 6000, 2000, 300, 600, 3, 3)
    if config.quick:
        tests = 300 if config.task == "sentiment" else 600
        defaults = Amounts((50, 500), 1000, tests, 30, 400, 3, 1)
    amounts = filled(config, defaults)
    names = ("learning_rate", "lora_rate")
    amounts_of = amounts._asdict()
    labels = amounts_of.pop("labels")
    require_positive(amounts_of | {name: getattr(config, name) for name in names})
    if not labels or min(labels) < 2 or max(labels) > amounts.examples:
        raise UsageError(
            f"--labels must be from 2 to the {amounts.examples} of --examples, got "
            f"{' '.join(map(str, labels))}"
        )
    if amounts.tuned_seeds > amounts.seeds:
        raise UsageError(
            f"--tuned-seeds must be at most the {amounts.seeds} seeds, got {amounts.tuned_seeds}"
        )
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
        )  # fmt: skip
    opened = open_run(config.runs, "transfer", config, data=data, folder=config.folder)
    with opened as folder:
        found, seconds = _results(folder, config, amounts, base)
        print_results(base, found, seconds)
        print(f"report: {write_report(folder, base, found, seconds)}")
    return 0


Learn = Callable[[np.ndarray, int], float]


def _methods(config: Config, amounts: Amounts, base: Base) -> dict[str, Learn]:
    learn: dict[str, Learn] = {
        "scratch": lambda chosen, seed: base.from_scratch(seed, chosen, amounts.scratch_steps),
        "frozen, last level": lambda chosen, seed: methods.frozen(base, chosen, seed, levels=False),
    }
    if base.train.levels is not None:
        learn["frozen, all levels"] = lambda chosen, seed: methods.frozen(
            base, chosen, seed, levels=True
        )
        learn["frozen, chosen"] = lambda chosen, seed: methods.frozen(
            base, chosen, seed, levels=None
        )
    learn["fine-tuned"] = methods.make_fine_tuning(base, amounts.steps, config.learning_rate)
    learn["LoRA"] = methods.make_lora(base, amounts.steps, config.lora_rate)
    return learn


def _results(
    folder: Run, config: Config, amounts: Amounts, base: Base
) -> tuple[Accuracies, dict[str, float]]:
    found: dict[str, dict[int, list[float]]] = {}
    seconds: dict[str, float] = {}
    for name, learn in _methods(config, amounts, base).items():
        tuned = name in ("fine-tuned", "LoRA")
        times: list[float] = []
        found[name] = {}
        # some may be fewer than were asked for: a pool has as many as the data set
        for n in sorted({min(n, len(base.train_y)) for n in amounts.labels}):
            found[name][n] = []
            for i in range(amounts.tuned_seeds if tuned else amounts.seeds):
                seed = config.seed + i
                chosen = methods.draw(base.train_y, n, len(base.classes), seed)
                started = time.perf_counter()
                accuracy = learn(chosen, seed)
                times.append(time.perf_counter() - started)
                found[name][n].append(accuracy)
                record = {"step": n, "method": name, "seed": seed, "accuracy": accuracy}
                append_metrics(folder, [record])
        seconds[name] = float(np.median(times))
        told = (f"{n:,} labels {100 * np.mean(each):.1f} %" for n, each in found[name].items())
        print(f"{name}: {', '.join(told)}", flush=True)
    return found, seconds
