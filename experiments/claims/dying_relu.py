"""Relu units die at high rates, stay dead, and what spares them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import beside, between
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import digits, error_rate, fit, mlp_loss, sweep
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, nn, optim
from jaxnets.types import Array, Key, Params

TITLE = "Dying relu units"

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
}


@dataclass(frozen=True)
class Config:
    """An MLP at several learning rates, then for as long at a rate that is low again."""

    hidden: tuple[int, ...] = (64, 64, 64)
    rates: tuple[float, ...] = (0.001, 0.01, 0.03, 0.1)
    """Of Adam, whose steps do not diverge: from fair to far too high."""
    steps: int = 500
    """At each of the two rates."""
    batch_size: int = 64


FULL = Config()
QUICK = Config(steps=200)


class Trained(NamedTuple):
    """Of a run."""

    dead: Array
    """The share of units that are dead after the first rate."""
    back: Array
    """Of these very units, the share that is not dead after the second rate; NaN if none died."""
    error: Array
    """Of the test digits, in the end."""


def examine(config: Config, keys: Key) -> Outcome:
    """Shares of dead units, and test errors, by activation and rate."""
    rates = jnp.array(config.rates)
    found = {
        name: Trained(*map(np.asarray, sweep(partial(_train, config, name), keys, rates)))  # type: ignore[arg-type]
        for name in ACTIVATIONS
    }
    low, high = (f"a rate of {config.rates[i]:g}" for i in (0, -1))
    others = [name for name in ACTIVATIONS if name != "relu"]
    relu = found["relu"]
    died = {low: relu.dead[:, 0], high: relu.dead[:, -1]}

    def less(values: dict[str, Array], quantity: str, margin: float) -> list[Comparison]:
        return [
            between(
                values, name, "relu", where=f"with {name}, at {high}", quantity=quantity,
                expected="less", margin=margin,
            )
            for name in others
        ]  # fmt: skip

    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, He's initialization, Adam, batches "
            f"of {config.batch_size}: {config.steps} steps at the rate named, then as many at "
            f"{config.rates[0]:g}. A unit is dead if its activation is the same for every training "
            "digit: of relu, if none makes it positive. One comes back if it is dead after the "
            "rate named and not in the end."
        ),
        tested=[
            Tested(
                "Relu units die at a high learning rate.",
                [
                    between(
                        died, high, low, where=f"at {high}", quantity="share of dead units",
                        expected="more", margin=0.1,
                    )
                ],
            ),
            _back(np.asarray(relu.back)[:, -1], f"at {high}"),
            Tested(
                "Leaky relu, elu and gelu spare the units.",
                less({n: f.dead[:, -1] for n, f in found.items()}, "share of dead units", 0.1),
            ),
            Tested(
                "And so they learn where relu has died.",
                less({n: f.error[:, -1] for n, f in found.items()}, "test error in the end", 0.05),
            ),
        ],
        seen=[_picture(config, found)],
    )  # fmt: skip


def _back(shares: np.ndarray, where: str) -> Tested:
    """Of the seeds in which units died: the others have none that could come back."""
    sentence = "A dead unit does not come back, though the rate is lowered."
    died = shares[np.isfinite(shares)]
    in_runs = f"{len(died)} of {len(shares)} runs"
    if len(died) < 2:
        return Tested(sentence, [], f"{where} units died in {in_runs}, and two are needed")
    some = "" if len(died) == len(shares) else f", in the {in_runs} with any"
    return Tested(
        sentence,
        [
            beside(
                0.0, "none", Arm("units come back", died), where=where + some,
                quantity="share of the dead units", expected="not more", margin=0.05,
            )
        ],
    )  # fmt: skip


def _train(config: Config, name: str, key: Key, rate: Array) -> Trained:
    activation = ACTIVATIONS[name]
    shape = models.MLPConfig(64, 10, hidden=config.hidden, activation=activation)
    data, loss = digits(), mlp_loss(shape)
    init_key, first_key, second_key = jax.random.split(key, 3)

    def run(params: Params, key: Key, rate: Array | float) -> Params:
        trained = fit(
            loss, optim.adam(rate), params, data.train,
            key=key, steps=config.steps, batch_size=config.batch_size,
        )  # fmt: skip
        return trained.params

    first = run(models.init_mlp(init_key, shape), first_key, rate)
    second = run(first, second_key, config.rates[0])
    before, after = (dead_units(params, activation, data.train["x"]) for params in (first, second))
    return Trained(
        jnp.mean(before),
        jnp.sum(before & ~after) / jnp.sum(before),
        error_rate(models.mlp(second, shape, data.test["x"]), data.test["y"]),
    )


def dead_units(params: Params, activation: Callable[[Array], Array], x: Array) -> Array:
    """Which hidden units, of all layers, are the same for every digit, or not finite: `[units]`."""
    dead = []
    for layer in params["layers"][:-1]:
        x = activation(nn.dense(layer, x))
        dead.append((jnp.max(x, 0) == jnp.min(x, 0)) | ~jnp.isfinite(x).all(0))
    return jnp.concatenate(dead)


def _picture(config: Config, found: dict[str, Trained]) -> Seen:
    titles = ["dead units", "of these, come back", "test error in the end"]
    with panels(titles) as (figure, row):
        for axes, what in zip(row, ("dead", "back", "error"), strict=True):
            lines = {name: 100 * getattr(trained, what) for name, trained in found.items()}
            draw_lines(axes, config.rates, lines, x_label="first learning rate", log_x=True)
        row[0].set_ylabel("%")
        row[0].legend(loc="upper left")
    return Seen(
        figure,
        "By the rate of the first half of training; the second half is at the lowest. Where no "
        "unit died in any run, none can come back. Median of seeds; the band is from the least to "
        "the greatest.",
    )
