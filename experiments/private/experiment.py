"""Train with differential privacy at several `ε`, and audit the promise by canaries; report."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import named_optimizers
from experiments.data import fingerprint, load
from experiments.errors import UsageError
from experiments.flags import filled, require_batch, require_seed
from experiments.optimizers.images import Split
from experiments.private import canaries, classifier
from experiments.private.bound import lower_bound
from experiments.private.canaries import Audited, guess
from experiments.private.classifier import NOT_PRIVATE, Judged, Level
from experiments.private.report import Results, print_results, write_report
from experiments.private.training import OVERFLOW, Schedule
from experiments.run import Run, append_metrics, open_run
from jaxnets import models
from jaxnets.gradients import accounting

POINTS = 10
"""How often a run is looked at."""


class Defaults(NamedTuple):
    """What depends on the data set."""

    learning_rates: tuple[float, ...]
    batch_size: int
    epochs: float
    hidden: int
    seeds: int


DEFAULTS = {"digits": Defaults((0.01, 0.03, 0.1), 288, 30, 32, 5)}
OTHERWISE = Defaults((0.003, 0.01), 2048, 10, 64, 1)


@dataclass(frozen=True)
class Config:
    """Train a small net by DP-SGD at several ε beside one without privacy, and audit a run."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, or the path of an .npz file with pixels in [0, 1]"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    epsilons: tuple[float, ...] | None = None
    """the promises (0.5, 1, 2, 4, 8; quick: 1, 8)"""
    delta: float = 1e-5
    """of every promise, below one over the number of training images"""
    optimizer: str = "jaxnets:adam"
    """jaxnets: or optax:, then sgd, momentum, adagrad, rmsprop, adam or adamw"""
    learning_rates: tuple[float, ...] | None = None
    """of which held-out images choose one for each ε (digits: 0.01, 0.03, 0.1; others: 0.003,
    0.01; quick: the second last)"""
    clip_norm: float = 1.0
    """of each example's gradient"""
    batch_size: int | None = None
    """examples per step, on average (digits: 288, others: 2048)"""
    epochs: float | None = None
    """passes over the training images, on average (digits: 30, others: 10)"""
    hidden: int | None = None
    """units of the net's hidden layer (digits: 32, others: 64)"""
    audited: float = 2.0
    """the ε that is promised where canaries are planted"""
    canaries: int = 1000
    """how many"""
    guesses: int = 200
    """at how many canaries' coins is guessed, even"""
    seed: int = 0
    """of the first run's initial weights, batches and noise"""
    seeds: int | None = None
    """how many runs of each kind, with seeds one after the other (digits: 5; others, quick: 1)"""
    quick: bool = False
    """two ε, one learning rate and a single seed, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    epsilons: tuple[float, ...]
    learning_rates: tuple[float, ...]
    batch_size: int
    epochs: float
    hidden: int
    seeds: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    named_optimizers.require_known(config.optimizer)
    defaults = DEFAULTS.get(config.data, OTHERWISE)
    amounts = Amounts((0.5, 1.0, 2.0, 4.0, 8.0), *defaults)
    if config.quick:
        amounts = amounts._replace(
            epsilons=(1.0, 8.0), learning_rates=defaults.learning_rates[-2:-1], seeds=1
        )
    amounts = filled(config, amounts)
    positive = amounts._asdict() | {
        name: getattr(config, name) for name in ("clip_norm", "audited", "canaries", "guesses")
    }
    for name, value in positive.items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(v > 0 and np.isfinite(v) for v in values):
            shown = " ".join(f"{v:g}" for v in values)
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {shown}")
    _require_telling(config)
    require_seed(config.seed, amounts.seeds)
    return amounts._replace(epsilons=tuple(sorted(set(amounts.epsilons))))


def _require_telling(config: Config) -> None:
    if not 0 < config.delta < 1:
        raise UsageError(f"--delta must be in (0, 1), got {config.delta:g}")
    if config.guesses % 2 or config.guesses > config.canaries:
        raise UsageError(
            f"--guesses must be even and at most the {config.canaries} canaries, "
            f"got {config.guesses}"
        )
    most = lower_bound(config.canaries, config.guesses, config.guesses, config.delta)
    if most <= config.audited:
        raise UsageError(
            f"--audited must be below {most:.2f}, all that {config.guesses} right guesses at "
            f"{config.canaries} canaries can refute; got {config.audited:g}"
        )


def main(config: Config) -> int:
    """Train, judge, audit, report; returns the exit code."""
    amounts = settle(config)
    # the accountant warns of each order of Rényi's divergence that it leaves out
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = replace(config, **amounts._asdict())
    data = load(config.data, config.data_folder)
    split = classifier.images_of(data)
    n = len(split.train["y"])
    require_batch(amounts.batch_size, n)
    if config.delta * n >= 1:
        raise UsageError(
            f"--delta must be below 1 / {n}, one over the number of training images, "
            f"got {config.delta:g}"
        )
    per_point = max(1, round(amounts.epochs * n / amounts.batch_size / POINTS))
    schedule = Schedule(n, amounts.batch_size / n, POINTS * per_point, POINTS)
    model = classifier.net_config(data, amounts.hidden)
    opened = open_run(config.runs, "private", config, data=fingerprint(data), folder=config.folder)
    with opened as run:
        judged = _train(run, config, amounts, schedule, model, split)
        results = Results(
            schedule=schedule,
            private=judged[:-1],
            baseline=judged[-1],
            audits=_audit(run, config, amounts, schedule, model, split, judged),
        )
        print_results(results, data)
        print(f"report: {write_report(run, data, results)}")
    return 0


def _noise_for(epsilon: float, delta: float, schedule: Schedule) -> Level:
    noise = accounting.noise_for(
        epsilon,
        schedule.steps,
        schedule.rate,
        delta,
        sampling="poisson",
        overflow_probability=OVERFLOW,
        tolerance=1e-3,
    )
    return Level(epsilon, noise)


def _train(
    run: Run,
    config: Config,
    amounts: Amounts,
    schedule: Schedule,
    model: models.MLPConfig,
    split: Split,
) -> list[Judged]:
    """Every level at its best rate; the last is the one that is not private."""
    program = classifier.make_program(model, config.optimizer, schedule)
    seeds = range(config.seed, config.seed + amounts.seeds)
    judged = []
    levels = [_noise_for(epsilon, config.delta, schedule) for epsilon in amounts.epsilons]
    for level in [*levels, NOT_PRIVATE]:
        best, outcomes = classifier.judge(
            program, split, level, amounts.learning_rates, seeds, config.clip_norm
        )
        print(f"{level.name}: done", flush=True)
        judged.append(best)
        append_metrics(
            run,
            [
                {
                    "step": schedule.steps,
                    "epsilon": level.epsilon,
                    "noise_multiplier": level.noise_multiplier,
                    "learning_rate": rate,
                    "seed": seed,
                    "held_out_accuracy": float(outcome.held_out[-1]),
                    "test_accuracy": float(outcome.test),
                    "clipped": float(np.mean(outcome.clipped)),
                }
                for rate, row in outcomes.items()
                for seed, outcome in zip(seeds, row, strict=True)
            ],
        )
    return judged


def _audit(
    run: Run,
    config: Config,
    amounts: Amounts,
    schedule: Schedule,
    model: models.MLPConfig,
    split: Split,
    judged: list[Judged],
) -> list[Audited]:
    """The promise of `audited` with its noise, then with a tenth of it, from every seed."""
    promise = _noise_for(config.audited, config.delta, schedule)
    nearest = min(
        (j for j in judged if j.level.private),
        key=lambda j: abs(np.log(j.level.epsilon / config.audited)),
    )
    audit = canaries.make_audit(
        model,
        config.optimizer,
        schedule._replace(n=schedule.n + config.canaries, points=1),
        config.canaries,
    )
    audits = []
    for share in (1.0, 0.1):
        noise = share * promise.noise_multiplier
        for seed in range(config.seed, config.seed + amounts.seeds):
            found = audit(seed, split, nearest.rate, noise, config.clip_norm)
            coins, scores = np.asarray(found.coins), np.asarray(found.scores)
            guesses = guess(coins, scores, config.guesses, config.delta)
            audits.append(Audited(noise, share, seed, coins, scores, guesses, float(found.test)))
    append_metrics(
        run,
        [
            {
                "step": schedule.steps,
                "claimed": config.audited,
                "noise_multiplier": audited.noise_multiplier,
                "noise_share": audited.share,
                "seed": audited.seed,
                "right": audited.guesses.right,
                "lower_bound": audited.guesses.bound,
                "test_accuracy": audited.test,
            }
            for audited in audits
        ],
    )
    return audits
