"""Batch norm: higher rates, fewer steps, and what small batches do to it."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import (
    Batch,
    cross_entropy,
    digits,
    error_rate,
    fit,
    highest,
    rates_around,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import nn, optim
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Array, Key, Params

TITLE = "Batch norm"

WORST = float(np.log(10))


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
    small_batch: int = 2
    target: float = 0.1
    """Training loss to be reached, nats."""
    records: int = 60


FULL = Config()
QUICK = Config(per_decade=2, steps=240, records=40)


class Trained(NamedTuple):
    """Of one run; the loss is that of all training digits, by their own moments."""

    loss: Array
    """In the end, at most ln 10."""
    steps: Array
    """Until the target."""
    error: Array
    """Of the test digits in the end, by the moments of all training digits."""


def examine(config: Config, keys: Key) -> Outcome:
    """Losses, steps and errors at every rate."""
    rates = rates_around(config.low, config.high, config.per_decade)
    runs = {
        name: _runs(config, keys, rates, norm, config.batch_size)
        for name, norm in (("batch norm", True), ("none", False))
    }
    small = {
        name: _runs(config, keys, rates, norm, config.small_batch)
        for name, norm in (("batch norm", True), ("none", False))
    }
    top = {name: highest(rates, np.asarray(found.loss), below=0.5) for name, found in runs.items()}
    fewest = {name: found.steps.min(1) for name, found in runs.items()}
    error = {name: found.error.min(1) for name, found in runs.items()}
    small_error = {name: found.error.min(1) for name, found in small.items()}
    sizes = f"batches of {config.small_batch} beside {config.batch_size}"
    return Outcome(
        setting=(
            f"Digits; {config.depth} hidden layers of {config.width} relu units, He's "
            f"initialization, SGD, {config.steps} steps, rates from {config.low:g} to "
            f"{config.high:g}, {config.per_decade} a decade; what is compared is the best rate of "
            "each, for each seed. For evaluation the moments are those of all training digits."
        ),
        tested=[
            Tested(
                "Batch norm permits higher learning rates.",
                [
                    Comparison(
                        f"in batches of {config.batch_size}",
                        "highest rate at which the loss ends below 0.5",
                        Arm("batch norm", top["batch norm"]),
                        Arm("none", top["none"]),
                        "more",
                        3.0,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "It trains in fewer steps.",
                [
                    Comparison(
                        f"in batches of {config.batch_size}",
                        f"steps to a loss of {config.target:g}",
                        Arm("batch norm", fewest["batch norm"]),
                        Arm("none", fewest["none"]),
                        "less",
                        1.2,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Small batches, whose moments are noise, hurt it.",
                [
                    Comparison(
                        sizes,
                        "test error",
                        Arm("small", small_error["batch norm"]),
                        Arm("large", error["batch norm"]),
                        "more",
                        0.01,
                    )
                ],
            ),
            Tested(
                "A net without it is not hurt by them.",
                [
                    Comparison(
                        sizes,
                        "test error",
                        Arm("small", small_error["none"]),
                        Arm("large", error["none"]),
                        "same",
                        0.02,
                    )
                ],
            ),
        ],
        seen=[_picture(config, np.asarray(rates), runs)],
    )


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

    every = config.steps // config.records
    trained = fit(
        loss, optim.sgd(rate), _init(config, init_key), data.train, key=run_key,
        steps=config.steps, batch_size=batch_size, every=every,
        record=lambda params: loss(params, data.train),
    )  # fmt: skip
    _, states = _net(trained.params, data.train["x"], norm)
    logits, _ = _net(trained.params, data.test["x"], norm, states)
    end = trained.records[-1]
    end = jnp.clip(jnp.where(jnp.isfinite(end), end, WORST), 1e-6, WORST)
    reached = steps_to(trained.records, config.target, every=every)
    return Trained(end, reached, error_rate(logits, data.test["y"]))


def _picture(config: Config, rates: np.ndarray, runs: dict[str, Trained]) -> Seen:
    with panels(["training loss", "test error"], share_y=False) as (figure, (left, right)):
        losses = {name: found.loss for name, found in runs.items()}
        errors = {name: 100 * found.error for name, found in runs.items()}
        label = "learning rate"
        draw_lines(left, rates, losses, x_label=label, y_label="nats", log_x=True, log_y=True)
        draw_lines(right, rates, errors, x_label=label, y_label="%", log_x=True, log_y=True)
        left.legend(loc="lower left")
    return Seen(
        figure,
        f"After {config.steps} steps of {config.batch_size} digits. Median of seeds; the band is "
        "from the least to the greatest.",
    )
