"""Relu units die at high rates, stay dead, and what spares them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit, sweep
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


def examine(config: Config, keys: Key) -> Outcome:
    """Shares of dead units, and test errors, by activation and rate."""
    rates = jnp.array(config.rates)
    found = {
        name: [np.asarray(x) for x in sweep(partial(_train, config, name), keys, rates)]
        for name in ACTIVATIONS
    }
    dead, still, error = found["relu"]
    low, high = 0, len(config.rates) - 1
    others = [name for name in ACTIVATIONS if name != "relu"]

    def at(column: int) -> str:
        return f"at a rate of {config.rates[column]:g}"

    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, He's initialization, Adam, batches "
            f"of {config.batch_size}: {config.steps} steps at the rate named, then as many at "
            f"{config.rates[0]:g}. A unit is dead if no training digit makes it positive (relu), "
            "or, for all, if its activation is the same for every one."
        ),
        tested=[
            Tested(
                "Relu units die at a high learning rate.",
                [
                    Comparison(
                        at(high),
                        "share of dead units",
                        Arm(f"rate {config.rates[high]:g}", dead[:, high]),
                        Arm(f"rate {config.rates[low]:g}", dead[:, low]),
                        "more",
                        0.1,
                    )
                ],
            ),
            Tested(
                "A dead unit does not come back, though the rate is lowered.",
                [
                    Comparison(
                        at(high),
                        "share of dead units",
                        Arm("after the low rate", still[:, high]),
                        Arm("before it", dead[:, high]),
                        "same",
                        0.05,
                    )
                ],
            ),
            Tested(
                "Leaky relu, elu and gelu spare the units.",
                [
                    Comparison(
                        f"with {name}, {at(high)}",
                        "share of dead units",
                        Arm(name, found[name][0][:, high]),
                        Arm("relu", dead[:, high]),
                        "less",
                        0.1,
                    )
                    for name in others
                ],
            ),
            Tested(
                "And so they learn where relu has died.",
                [
                    Comparison(
                        f"with {name}, {at(high)}",
                        "test error in the end",
                        Arm(name, found[name][2][:, high]),
                        Arm("relu", error[:, high]),
                        "less",
                        0.05,
                    )
                    for name in others
                ],
            ),
        ],
        seen=[_picture(config, found)],
    )


def _train(config: Config, name: str, key: Key, rate: Array) -> tuple[Array, Array, Array]:
    """The share of dead units after the first and after the second rate, and the test error."""
    activation = ACTIVATIONS[name]
    shape = models.MLPConfig(64, 10, hidden=config.hidden, activation=activation)
    data = digits()
    init_key, first_key, second_key = jax.random.split(key, 3)

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return cross_entropy(models.mlp(params, shape, batch["x"]), batch["y"])

    def run(params: Params, key: Key, rate: Array | float) -> Params:
        trained = fit(
            loss, optim.adam(rate), params, data.train,
            key=key, steps=config.steps, batch_size=config.batch_size,
        )  # fmt: skip
        return trained.params

    first = run(models.init_mlp(init_key, shape), first_key, rate)
    second = run(first, second_key, config.rates[0])
    x = data.train["x"]
    logits = models.mlp(second, shape, data.test["x"])
    dead = [_dead(params, activation, x) for params in (first, second)]
    return dead[0], dead[1], error_rate(logits, data.test["y"])


def _dead(params: Params, activation: Callable[[Array], Array], x: Array) -> Array:
    """The share of hidden units that are the same for every digit; all, if they are not finite."""
    shares = []
    for layer in params["layers"][:-1]:
        x = activation(nn.dense(layer, x))
        same = jnp.max(x, 0) - jnp.min(x, 0) == 0
        shares.append(jnp.mean(same | ~jnp.isfinite(x).all(0)))
    return jnp.mean(jnp.stack(shares))


def _picture(config: Config, found: dict[str, list[np.ndarray]]) -> Seen:
    with panels(["dead units", "test error in the end"]) as (figure, (left, right)):
        for axes, which in ((left, 0), (right, 2)):
            lines = {name: 100 * values[which] for name, values in found.items()}
            draw_lines(axes, config.rates, lines, x_label="first learning rate", log_x=True)
        left.set_ylabel("%")
        left.legend(loc="upper left")
    return Seen(
        figure,
        "By the rate of the first half of training; the second half is at the lowest. Median of "
        "seeds; the band is from the least to the greatest.",
    )
