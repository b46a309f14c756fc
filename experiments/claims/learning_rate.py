"""The learning rate: too high, too low, found by a range test, and changed along the way."""

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
    highest,
    mlp_loss,
    rates_around,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, optim
from jaxnets.types import Array, Key

TITLE = "The learning rate"

WORST = float(np.log(10))
"""Nats: the loss of who knows nothing. Runs that end above, or without a number, count as this."""


@dataclass(frozen=True)
class Config:
    """Momentum SGD on the digits at many rates, constant and scheduled."""

    steps: int = 1000
    batch_size: int = 32
    momentum: float = 0.9
    hidden: tuple[int, ...] = (64, 64)
    low: float = 1e-4
    high: float = 10.0
    per_decade: int = 4
    off: float = 30.0
    """By what factor a rate is too low, or too high."""
    range_steps: int = 100
    """Of the range test."""
    warmup: float = 0.1
    """The share of steps in which the rate rises."""


FULL = Config()
QUICK = Config(steps=400, per_decade=2)

SCHEDULES = ("constant", "cosine", "warm-up, cosine")


def examine(config: Config, keys: Key) -> Outcome:
    """Final losses at every rate; each seed's rate is the best of the other seeds."""
    rates = rates_around(config.low, config.high, config.per_decade)
    ends = {}
    for name in SCHEDULES:
        loss, error = sweep(partial(_end, config, name), keys, rates)
        ends[name] = np.asarray(loss), np.asarray(error)
    constant = ends["constant"][0]
    best = _best_of_others(constant)
    seeds = np.arange(len(best))
    per_decade = config.per_decade
    away = round(np.log10(config.off) * per_decade)
    at = {
        name: losses[seeds, _best_of_others(losses)] for name, (losses, _) in ends.items()
    }  # fmt: skip
    below = constant[seeds, np.maximum(best - away, 0)]
    above = constant[seeds, np.minimum(best + away, len(rates) - 1)]
    suggested = np.asarray(_suggested(config, keys))
    by_test = np.asarray(_at_rates(config, keys, jnp.asarray(suggested)))

    def than(where: str, treated: Arm, control: Arm, margin: float = 1.5) -> Comparison:
        return Comparison(where, "training loss", treated, control, "more", margin, ratio=True)

    good = Arm("the best rate", constant[seeds, best])
    top = {name: highest(rates, losses, below=1.0) for name, (losses, _) in ends.items()}
    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, SGD with momentum {config.momentum:g}, batches of "
            f"{config.batch_size}, {config.steps} steps; the loss on all training digits at the "
            f"end. Rates from {config.low:g} to {config.high:g}, {per_decade} a decade; the best "
            "for a seed is the one that was best for the others. Losses above ln 10 = 2.30 (what "
            f"who knows nothing has) or not finite count as that. The range test: "
            f"{config.range_steps} steps in which the rate rises from {config.low:g} to "
            f"{config.high:g}, and the rate at which the loss falls fastest."
        ),
        tested=[
            Tested(
                "Too low a rate leaves the loss high after as many steps.",
                [than(f"at 1/{config.off:g} of the best", Arm("too low", below), good)],
            ),
            Tested(
                "Too high a rate makes training fail.",
                [than(f"at {config.off:g} times the best", Arm("too high", above), good)],
            ),
            Tested(
                "A short range test finds a rate as good as a search does.",
                [
                    Comparison(
                        f"with {config.range_steps} steps of it",
                        "training loss",
                        Arm("range test", by_test),
                        good,
                        "same",
                        1.5,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "A rate that falls along the way ends lower than a constant one.",
                [
                    than(
                        "along half a cosine",
                        Arm("constant", at["constant"]),
                        Arm("cosine", at["cosine"]),
                        1.2,
                    )
                ],
            ),
            Tested(
                "Warm-up permits higher rates.",
                [
                    Comparison(
                        f"over {config.warmup:.0%} of the steps",
                        "highest rate at which the loss ends below 1",
                        Arm("warm-up, cosine", top["warm-up, cosine"]),
                        Arm("cosine", top["cosine"]),
                        "more",
                        1.5,
                        ratio=True,
                    )
                ],
            ),
        ],
        seen=[_picture(config, np.asarray(rates), ends, suggested)],
        notes=(
            f"Suggested by the range test: {_listed(suggested)}; best by the search: "
            f"{_listed(np.asarray(rates)[best])}."
        ),
    )


def _listed(rates: np.ndarray) -> str:
    return ", ".join(f"{rate:.2g}" for rate in rates)


def _net(config: Config) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=config.hidden)


def _end(config: Config, schedule: str, key: Key, rate: Array) -> tuple[Array, Array]:
    """Training loss and test error after training."""
    init_key, run_key = jax.random.split(key)
    data, loss = digits(), mlp_loss(_net(config))
    warmup = round(config.warmup * config.steps)
    schedules: dict[str, Any] = {
        "constant": rate,
        "cosine": optim.cosine_decay_schedule(rate, config.steps),
        "warm-up, cosine": optim.warmup_cosine_decay_schedule(0.0, rate, warmup, config.steps),
    }
    trained = fit(
        loss,
        optim.sgd(schedules[schedule], momentum=config.momentum),
        models.init_mlp(init_key, _net(config)), data.train,
        key=run_key, steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip
    end = loss(trained.params, data.train, None)
    logits = models.mlp(trained.params, _net(config), data.test["x"])
    end = jnp.minimum(jnp.where(jnp.isfinite(end), end, WORST), WORST)
    # exact zeros of losses that underflow would have no ratio
    return jnp.maximum(end, 1e-7), error_rate(logits, data.test["y"])


def _best_of_others(losses: np.ndarray) -> np.ndarray:
    """For each seed, which rate has the least mean log loss over the other seeds."""
    logs = np.log(losses)
    return np.asarray(np.argmin(logs.sum(0) - logs, 1))


def _suggested(config: Config, keys: Key) -> Array:
    loss = mlp_loss(_net(config))

    def one(key: Key) -> Array:
        init_key, run_key = jax.random.split(key)
        data = digits().train
        n = (config.range_steps, config.batch_size)
        rows = jax.random.randint(run_key, n, 0, len(data["y"]))
        curve = optim.learning_rate_range(
            lambda params, batch: loss(params, batch, None),
            partial(optim.sgd, momentum=config.momentum),
            models.init_mlp(init_key, _net(config)),
            jax.tree.map(lambda leaf: leaf[rows], data),
            low=config.low,
            high=config.high,
        )
        return optim.suggest_rate(*curve)

    return jnp.asarray(jax.jit(jax.vmap(one))(keys))


def _at_rates(config: Config, keys: Key, rates: Array) -> Array:
    """The final loss of each seed at a rate of its own."""
    return jnp.asarray(jax.jit(jax.vmap(partial(_end, config, "constant")))(keys, rates)[0])


def _picture(
    config: Config,
    rates: np.ndarray,
    ends: dict[str, tuple[np.ndarray, np.ndarray]],
    suggested: np.ndarray,
) -> Seen:
    with panels(["training loss", "test error"], share_y=False) as (figure, (left, right)):
        x_label = "learning rate"
        losses = {name: values[0] for name, values in ends.items()}
        errors = {name: 100 * values[1] for name, values in ends.items()}
        draw_lines(left, rates, losses, x_label=x_label, y_label="nats", log_x=True, log_y=True)
        draw_lines(right, rates, errors, x_label=x_label, y_label="%", log_x=True, log_y=True)
        for rate in suggested:
            left.axvline(rate, color="#888888", linestyle=":", linewidth=1)
        right.legend(loc="lower right")
    return Seen(
        figure,
        f"After {config.steps} steps, by rate (of schedules, the highest). Dotted: what the range "
        "test suggests, by seed. Median of seeds; the band is from the least to the greatest.",
    )
