"""Batch norm: higher rates, fewer steps, and what small batches do to it."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import batch_norm_pictures as pictures_of
from experiments.claims.arms import between, taken
from experiments.claims.claim import Outcome, Tested
from experiments.claims.rates import at_best, best_of_others, highest
from experiments.claims.training import (
    Batch,
    bounded,
    cross_entropy,
    digits,
    error_rate,
    fit,
    rates_around,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Comparison, Expected
from jaxnets import nn, optim
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Array, Key, Params

TITLE = "Batch norm"

ByBatch = dict[tuple[str, int], np.ndarray]
"""Of a net, with batches of a size: `[seeds]`."""


@dataclass(frozen=True)
class Config:
    """An MLP with and without batch norm before each relu, by SGD at many rates."""

    depth: int = 6
    width: int = 64
    low: float = 1e-3
    high: float = 30.0
    per_decade: int = 4
    steps: int = 600
    batch_size: int = 64
    small_batches: tuple[int, ...] = (8, 2)
    """Two examples are normalized to ±1 whatever they are, the extreme case."""
    size_rates: tuple[tuple[float, ...], ...] = (
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    )
    """Where batch sizes are compared: for `batch_size`, then for each of the small ones."""
    target: float = 0.1
    """Training loss to be reached, nats."""
    records: int = 60


FULL = Config()
QUICK = Config(steps=240, records=40)


class Trained(NamedTuple):
    """Of runs `[seeds, rates]`; the loss is that of all training digits, by their own moments."""

    loss: Array
    """In the end, at most that of guessing."""
    steps: Array
    """Until the target."""
    error: Array
    """Of the test digits in the end, by the moments of all training digits."""


def examine(config: Config, keys: Key) -> Outcome:
    """Losses, steps and errors at every rate."""
    rates = rates_around(config.low, config.high, config.per_decade)
    nets = {"batch norm": True, "none": False}
    examples = (config.batch_size, *config.small_batches)
    runs = {
        name: _runs(config, keys, rates, norm, config.batch_size) for name, norm in nets.items()
    }
    error = {}
    for name, norm in nets.items():
        for size, own in zip(examples, config.size_rates, strict=True):
            found = _runs(config, keys, jnp.array(own), norm, size)
            best = best_of_others(own, found.loss, f"{name}, batches of {size}")
            error[name, size] = taken(found.error, best)
    return Outcome(
        setting=_setting(config),
        tested=[*_rates(config, rates, runs), *_sizes(config, error)],
        seen=[
            pictures_of.by_rate(config, rates, runs),
            pictures_of.steps_and_sizes(config, rates, runs, error),
        ],
        notes=(
            f"Rates lie a factor of {10 ** (1 / config.per_decade):.2g} apart (where batch sizes "
            "are compared, of 3); what lies between them is in no interval. Batches of 2 alone "
            "were compared in a first run."
        ),
    )


def _setting(config: Config) -> str:
    small = " and ".join(map(str, config.small_batches))
    rates = "; ".join(", ".join(f"{rate:g}" for rate in own) for own in config.size_rates)
    return (
        f"Digits; {config.depth} hidden layers of {config.width} relu units, He's initialization, "
        f"SGD, {config.steps} steps with batches of {config.batch_size}, rates from {config.low:g} "
        f"to {config.high:g}, {config.per_decade} a decade. Steps are those at the rate that needs "
        f"fewest for the other seeds. Batches of {small} are compared with them at equal examples "
        f"seen, each at the rate of the least loss of all training digits for the other seeds "
        f"(of {config.batch_size}, {small}: {rates}). For "
        "evaluation the moments are those of all training digits, so that what hurts is not a poor "
        "average of moments."
    )


def _rates(config: Config, rates: Array, runs: dict[str, Trained]) -> list[Tested]:
    where = f"in batches of {config.batch_size}"
    top = {
        name: highest(rates, np.asarray(found.loss), below=0.5, of=name)
        for name, found in runs.items()
    }
    fewest = {name: at_best(rates, found.steps, name) for name, found in runs.items()}
    return [
        Tested(
            "Batch norm permits higher learning rates.",
            [
                between(
                    top, "batch norm", "none", where=where,
                    quantity="highest rate at which the loss ends below 0.5",
                    # above the factor between two rates
                    expected="more", margin=3.0, ratio=True,
                )
            ],
        ),
        Tested(
            "It trains in fewer steps.",
            [
                between(
                    fewest, "batch norm", "none", where=where,
                    quantity=f"steps to a loss of {config.target:g}",
                    expected="less", margin=1.2, ratio=True, cap=config.steps + 1.0,
                )
            ],
        ),
    ]  # fmt: skip


def _sizes(config: Config, error: ByBatch) -> list[Tested]:
    large = config.batch_size

    def beside_large(name: str, expected: Expected) -> list[Comparison]:
        by_size = {f"batches of {size}": values for (n, size), values in error.items() if n == name}
        return [
            between(
                by_size, f"batches of {small}", f"batches of {large}", where=_where(config, small),
                quantity="test error", expected=expected, margin=0.01,
            )
            for small in config.small_batches
        ]  # fmt: skip

    def added(small: int) -> dict[str, np.ndarray]:
        return {name: error[name, small] - error[name, large] for name in ("batch norm", "none")}

    return [
        Tested(
            "Small batches, whose moments are noise, hurt it.", beside_large("batch norm", "more")
        ),
        Tested("A net without it is not hurt by them.", beside_large("none", "not more")),
        Tested(
            "They hurt it more than a net without it.",
            [
                between(
                    added(small), "batch norm", "none", where=_where(config, small),
                    quantity="added test error", expected="more", margin=0.01,
                )
                for small in config.small_batches
            ],
        ),
    ]  # fmt: skip


def _where(config: Config, small: int) -> str:
    return f"with batches of {small}, beside {config.batch_size}"


def _runs(config: Config, keys: Key, rates: Array, norm: bool, batch_size: int) -> Trained:
    run = partial(_train, config, norm, batch_size)
    found: Trained = jax.tree.map(np.asarray, sweep(run, keys, rates))
    return found


def _init(config: Config, key: Key) -> Params:
    sizes = [64, *(config.width for _ in range(config.depth)), 10]
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        nn.init_dense(k, n, m, kernel_init=he_normal())
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    norms = [nn.init_batch_norm(config.width)[0] for _ in range(config.depth)]
    return {"layers": layers, "norms": norms}


def _net(
    params: Params, x: Array, norm: bool, states: list[Params] | None = None
) -> tuple[Array, list[Params]]:
    """Logits by the batch's own moments, which are returned; or by `states`, if given."""
    seen = []
    for i, (layer, scale) in enumerate(zip(params["layers"], params["norms"], strict=False)):
        x = nn.dense(layer, x)
        if norm:
            _, empty = nn.init_batch_norm(x.shape[-1])
            state = empty if states is None else states[i]
            x, state = nn.batch_norm(scale, state, x, train=states is None, momentum=0.0)
            seen.append(state)
        x = jax.nn.relu(x)
    return nn.dense(params["layers"][-1], x), seen


def _train(config: Config, norm: bool, batch_size: int, key: Key, rate: Array) -> Trained:
    init_key, run_key = jax.random.split(key)
    data = digits()

    def loss(params: Params, batch: Batch, key: Key | None = None) -> Array:
        return cross_entropy(_net(params, batch["x"], norm)[0], batch["y"])

    # as many examples, whatever the batch size
    every = config.steps * config.batch_size // (batch_size * config.records)
    trained = fit(
        loss, optim.sgd(rate), _init(config, init_key), data.train, key=run_key,
        steps=every * config.records, batch_size=batch_size, every=every,
        record=lambda params: loss(params, data.train),
    )  # fmt: skip
    _, states = _net(trained.params, data.train["x"], norm)
    logits, _ = _net(trained.params, data.test["x"], norm, states)
    end = bounded(trained.records[-1])
    reached = steps_to(trained.records, config.target, every=every)
    return Trained(end, reached, error_rate(logits, data.test["y"]))
