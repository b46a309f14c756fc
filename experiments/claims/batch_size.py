"""Batch size: what a larger batch saves in steps, and the noise scale that says how far."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import batch_size_pictures as pictures_of
from experiments.claims.arms import between, taken
from experiments.claims.claim import Outcome, Tested
from experiments.claims.critical_batch import critical, noise_scales
from experiments.claims.rates import best_of_others
from experiments.claims.training import (
    digits,
    error_rate,
    fit,
    mlp_loss,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

TITLE = "Batch size and the noise of the gradient"


@dataclass(frozen=True)
class Config:
    """SGD on the digits with batches of many sizes, each at its best rate."""

    sizes: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """Four times the one before."""
    examples_seen: int = 64_000
    """By every run, but for `most_steps` and `least_steps`."""
    most_steps: int = 6000
    least_steps: int = 1000
    target: float = 0.2
    """Training loss to be reached, nats."""
    late_target: float = 0.05
    """The one at which test errors are compared."""
    hidden: tuple[int, ...] = (32,)
    low: float = 0.02
    octaves: int = 9
    """Rates are `low` times the powers of 2 up to this one, so that where four times the batch
    wants two or four times the rate, both are as near to a rate of the grid."""
    noise_batch: int = 64
    """The batch size of the run along which the noise is measured; one of `sizes`."""
    noise_every: int = 2
    """Steps between two measurements, each on all training digits."""


FULL = Config()
QUICK = Config(examples_seen=16_000, most_steps=2500, least_steps=400)


class Reached(NamedTuple):
    """Of one run."""

    steps: Array
    """To the target; one record more than were taken, if it was not reached."""
    late_steps: Array
    """To the late one."""
    error: Array
    """Of the test digits when the late target was reached, or in the end."""


def examine(config: Config, keys: Key) -> Outcome:
    """Steps to a loss by batch size; the batch from which on it does not pay; the noise scale."""
    rates = config.low * 2.0 ** jnp.arange(config.octaves + 1)
    found = {f"batch {n}": sweep(partial(_run, config, n), keys, rates) for n in config.sizes}
    best = {n: best_of_others(rates, runs.steps, n) for n, runs in found.items()}
    late = {n: best_of_others(rates, runs.late_steps, f"{n}, late") for n, runs in found.items()}
    steps = {n: taken(runs.steps, best[n]) for n, runs in found.items()}
    error = {n: taken(runs.error, late[n]) for n, runs in found.items()}
    late_steps = {n: taken(runs.late_steps, late[n]) for n, runs in found.items()}
    table = np.stack(list(steps.values()), 1)
    names = list(steps)
    probed = f"batch {config.noise_batch}"
    scale = noise_scales(config, _net(config), keys, rates[best[probed]], int(steps[probed].max()))
    batches = {
        "noise scale": scale,
        "critical batch": np.array([critical(config.sizes, row) for row in table]),
    }
    arms = [
        Arm(name, values, cap=_unreached(config, size))
        for size, (name, values) in zip(config.sizes, steps.items(), strict=True)
    ]
    reached = {
        name: late_steps[name] < _unreached(config, size)
        for size, name in zip(config.sizes, names, strict=True)
    }
    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, plain SGD, {len(rates)} rates from {config.low:g} "
            f"on, each twice the one before: steps until the loss of all training digits is "
            f"{config.target:g}, for each batch size and seed at the rate that needs fewest for "
            "the other seeds. The critical batch is fitted to steps = least "
            "steps × (1 + critical / batch). The noise scale is tr Σ / ‖G‖² of all training "
            "digits' own gradients, both averaged over the way to that loss, from the first steps "
            f"on, every {config.noise_every} steps of the run with batches of "
            f"{config.noise_batch} at its best rate. Test errors are those when a run first has a "
            f"loss of {config.late_target:g}, at the rate that needs fewest steps to it for the "
            "other seeds."
        ),
        tested=[
            Tested(
                "Small batches: four times the batch takes a quarter of the steps.",
                [
                    Comparison(
                        f"from {config.sizes[0]} to {config.sizes[1]} examples",
                        "steps to the target", arms[0], _times(4, arms[1]), "same", 1.25,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Large batches: a larger one hardly saves any more.",
                [
                    Comparison(
                        f"from {config.sizes[-2]} to {config.sizes[-1]} examples",
                        "steps to the target", arms[-2], arms[-1], "not more", 1.5, ratio=True,
                    )
                ],
            ),
            _turning(config, arms, batches),
            _generalize(config, error, reached),
        ],
        seen=[
            pictures_of.steps(config, table, batches),
            pictures_of.errors(config, error, batches),
        ],
        notes=(
            "Rates lie a factor of 2 apart; what lies between them is in no interval. (In a first "
            "run it was 3.16, more than the margin, and each seed had the rate that was best for "
            "itself.) A run that does not reach the target counts as one record more than it was "
            "given, which is another number for each batch size, and the effect as a bound."
        ),
    )  # fmt: skip


def _times(factor: float, arm: Arm) -> Arm:
    return Arm(f"{factor:g} × {arm.name}", factor * np.asarray(arm.values), cap=factor * arm.cap)


def _turning(config: Config, arms: Sequence[Arm], batches: dict[str, np.ndarray]) -> Tested:
    sentence = "The noise scale of the gradient says where the one turns into the other."
    short = [arm.name for arm in arms if np.any(np.asarray(arm.values) >= arm.cap)]
    critical = batches["critical batch"]
    why = ""
    if short:
        why = f"no law can be fitted, since not every run of {', '.join(short)} reaches the loss"
    elif np.any((critical <= config.sizes[0]) | (critical >= config.sizes[-1])):
        why = (
            f"the critical batch, {critical.min():.3g} to {critical.max():.3g}, is outside of the "
            "sizes tried"
        )
    if why:
        return Tested(sentence, [], why)
    return Tested(
        sentence,
        [
            between(
                batches, "noise scale", "critical batch", where=f"to a loss of {config.target:g}",
                quantity="examples", expected="same", margin=3.0, ratio=True,
            )
        ],
    )  # fmt: skip


def _generalize(
    config: Config, error: dict[str, np.ndarray], reached: dict[str, np.ndarray]
) -> Tested:
    """By the seeds of which both sizes reach the loss at which they are compared."""
    sentence = "Small batches generalize better."
    small, *_, large = error
    both = reached[small] & reached[large]
    at = f"at a training loss of {config.late_target:g}"
    seeds = f"{both.sum()} of {len(both)} seeds"
    if both.sum() < 2:
        return Tested(sentence, [], f"{small} and {large} are both {at} by {seeds}")
    return Tested(
        sentence,
        [
            between(
                {name: error[name][both] for name in (small, large)}, small, large,
                where=f"both {at}" + ("" if both.all() else f", by {seeds}"),
                quantity="test error", expected="less", margin=0.003,
            )
        ],
    )  # fmt: skip


def _net(config: Config) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=config.hidden)


def _budget(config: Config, size: int) -> tuple[int, int]:
    """How many steps a run may take, and after how many each its loss is looked at."""
    steps = int(np.clip(config.examples_seen // size, config.least_steps, config.most_steps))
    every = max(1, steps // 250)
    return steps // every * every, every


def _unreached(config: Config, size: int) -> int:
    """The number of steps that stands for a target that was not reached."""
    return sum(_budget(config, size))


def _run(config: Config, size: int, key: Key, rate: Array) -> Reached:
    init_key, run_key = jax.random.split(key)
    data, loss = digits(), mlp_loss(_net(config))
    steps, every = _budget(config, size)

    def record(params: Params) -> tuple[Array, Array]:
        logits = models.mlp(params, _net(config), data.test["x"])
        return loss(params, data.train, None), error_rate(logits, data.test["y"])

    trained = fit(
        loss,
        optim.sgd(rate), models.init_mlp(init_key, _net(config)), data.train,
        key=run_key, steps=steps, batch_size=size, record=record, every=every,
    )  # fmt: skip
    losses, errors = trained.records
    late = steps_to(losses, config.late_target)
    at_late = errors[jnp.minimum(late, len(losses)) - 1]
    return Reached(steps_to(losses, config.target, every=every), every * late, at_late)
