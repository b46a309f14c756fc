"""Batch size: what a larger batch saves in steps, and the noise scale that says how far."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import (
    digits,
    error_rate,
    fit,
    mlp_loss,
    rates_around,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import gradients, models, optim
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
    per_decade: int = 3
    probes: int = 5
    """Times along training at which the noise is measured, on all training digits."""


FULL = Config()
QUICK = Config(examples_seen=16_000, most_steps=2500, least_steps=400, per_decade=2)


def examine(config: Config, keys: Key) -> Outcome:
    """Steps to a loss by batch size; the batch from which on it does not pay; the noise scale."""
    rates = rates_around(1e-2, 10.0, config.per_decade)
    steps, errors = [], []
    for size in config.sizes:
        reached, error = map(np.asarray, sweep(partial(_steps, config, size), keys, rates))
        best = np.argmin(reached, 1)
        steps.append(reached.min(1))
        errors.append(error[np.arange(len(best)), best])
    table, error = np.stack(steps, 1), np.stack(errors, 1)
    knee = np.array([_critical(config.sizes, row) for row in table])
    scale = np.asarray(jax.jit(jax.vmap(partial(_noise_scale, config)))(keys))
    small, large = config.sizes[:2], config.sizes[-2:]

    def fewer(pair: tuple[int, ...], columns: tuple[int, int]) -> tuple[Arm, Arm]:
        few, many = columns
        return Arm(f"batch {pair[0]}", table[:, few]), Arm(f"batch {pair[1]}", table[:, many])

    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, plain SGD, the best of {len(rates)} rates from 0.01 "
            "to 10 for each batch size and seed: steps until the loss of all training digits is "
            f"{config.target:g}. The critical batch is fitted to steps = least steps × (1 + "
            "critical / batch). The noise scale is tr Σ / ‖G‖² of all training digits' own "
            f"gradients, both averaged over {config.probes} times along a run with batches of 64 "
            "that ends at the same loss."
        ),
        tested=[
            Tested(
                "Small batches: four times the batch takes a quarter of the steps.",
                [
                    Comparison(
                        f"from {small[0]} to {small[1]} examples",
                        "steps to the target",
                        *fewer(small, (0, 1)),
                        "more",
                        2.5,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Large batches: a larger one hardly saves any more.",
                [
                    Comparison(
                        f"from {large[0]} to {large[1]} examples",
                        "steps to the target",
                        *fewer(large, (-2, -1)),
                        "same",
                        1.5,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "The noise scale of the gradient says where the one turns into the other.",
                [
                    Comparison(
                        "on the way to the target",
                        "examples",
                        Arm("noise scale", scale),
                        Arm("critical batch", knee),
                        "same",
                        3.0,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Small batches generalize better.",
                [
                    Comparison(
                        f"when both have just reached a training loss of {config.late_target:g}",
                        "test error",
                        Arm(f"batch {config.sizes[0]}", error[:, 0]),
                        Arm(f"batch {config.sizes[-1]}", error[:, -1]),
                        "less",
                        0.003,
                    )
                ],
            ),
        ],
        seen=[_picture(config, table, knee, scale)],
    )


def _net(config: Config) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=config.hidden)


def _budget(config: Config, size: int) -> tuple[int, int]:
    """How many steps a run may take, and after how many each its loss is looked at."""
    steps = int(np.clip(config.examples_seen // size, config.least_steps, config.most_steps))
    every = max(1, steps // 250)
    return steps // every * every, every


def _steps(config: Config, size: int, key: Key, rate: Array) -> tuple[Array, Array]:
    """Steps to the target, one record more than were taken if it is not reached; the test error
    at the late target, or in the end.
    """
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
    late = jnp.minimum(steps_to(losses, config.late_target), len(losses)) - 1
    return steps_to(losses, config.target, every=every), errors[late]


def _critical(sizes: tuple[int, ...], steps: np.ndarray) -> float:
    """`B` of `steps = S (1 + B / size)` (McCandlish et al., 2018), by least squares of logs."""
    from scipy.optimize import least_squares

    logs, over = np.log(steps), 1 / np.asarray(sizes)

    def residuals(unknown: np.ndarray) -> np.ndarray:
        least, critical = unknown
        return np.asarray(least + np.log1p(np.exp(critical) * over) - logs)

    found = least_squares(residuals, [np.log(steps.min()), np.log(64.0)])
    return float(np.exp(found.x[1]))


def _noise_scale(config: Config, key: Key) -> Array:
    init_key, run_key = jax.random.split(key)
    data, loss = digits().train, mlp_loss(_net(config))

    def one(params: Params, x: Array, y: Array) -> Array:
        return loss(params, {"x": x[None], "y": y[None]}, None)

    def record(params: Params) -> tuple[Array, Array, Array]:
        _, factors = gradients.per_example_grad(one)(params, data["x"], data["y"])
        seen = gradients.noise_scale(factors)
        return seen.sq_norm, seen.trace, loss(params, data, None)

    # at a rate that reaches the target in about as many steps as the best of batches of 64
    steps = 50 * config.probes
    trained = fit(
        loss,
        optim.sgd(0.3), models.init_mlp(init_key, _net(config)), data,
        key=run_key, steps=steps, batch_size=64, record=record, every=steps // config.probes,
    )  # fmt: skip
    sq_norm, trace, losses = trained.records
    before = (losses >= config.target).at[0].set(True)
    return jnp.sum(trace * before) / jnp.sum(sq_norm * before)


def _picture(config: Config, steps: np.ndarray, knee: np.ndarray, scale: np.ndarray) -> Seen:
    with panels([f"steps to a loss of {config.target:g}"]) as (figure, (axes,)):
        sizes = np.asarray(config.sizes)
        draw_lines(
            axes,
            sizes,
            {"best rate": steps},
            x_label="batch size",
            y_label="steps",
            log_x=True,
            log_y=True,
        )
        least, critical = np.median(steps[:, -1]), np.exp(np.mean(np.log(knee)))
        perfect = steps[:, 0].mean() * sizes[0] / sizes
        grey: dict[str, Any] = {"color": "#888888", "linewidth": 1}
        axes.plot(sizes, perfect, **grey, linestyle="--", label="in proportion")
        axes.axvline(critical, **grey, label="critical batch")
        noise = float(np.exp(np.mean(np.log(scale))))
        axes.axvline(noise, color="#D55E00", linestyle=":", linewidth=1.6, label="noise scale")
        axes.set_ylim(bottom=0.6 * least)
        axes.legend()
    return Seen(
        figure,
        "Steps at the best rate, by batch size; dashed, a quarter of the steps for four times the "
        "batch. Median of seeds; the band is from the least to the greatest.",
    )
