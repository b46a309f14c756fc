"""Momentum crosses plateaus and ravines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, draw_seeds, panels
from experiments.claims.rates import at_best
from experiments.claims.training import digits, fit, mlp_loss, rates_around, sweep
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets import models, optim
from jaxnets.types import Array, Key

TITLE = "Momentum crosses ravines and plateaus"


@dataclass(frozen=True)
class Config:
    """Of gradient descent with and without momentum, each at its own best rate."""

    momentum: float = 0.9
    conditions: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    """Of ravines: the largest curvature by the smallest."""
    bowl_steps: int = 6000
    """Of ravines and of the plateau in two directions."""
    bowl_rates: int = 10
    """A decade, from 0.01 to 10."""
    examples: int = 1437
    """Of the digits that the nets learn, all in each step."""
    net_steps: int = 300
    net_target: float = 0.1
    """Training loss to be reached by the tanh net, nats."""
    plateau_target: float = 1.5
    """By the sigmoid net, which begins at ln 10 = 2.3."""
    net_rates: int = 4
    """A decade, from 0.01 to 100."""
    width: int = 32


FULL = Config()
QUICK = Config(examples=360, net_rates=3)

MARGIN = 1.5


class Steps(NamedTuple):
    """Until the loss is low and stays so, `[seeds]` each, at the best rate of the other seeds."""

    plain: np.ndarray
    momentum: np.ndarray
    cap: int
    """Where runs that do not get there are counted."""


def examine(config: Config, keys: Key) -> Outcome:
    """Steps until a loss is reached for good, by the best of many rates."""
    low, high = (
        rates_around(0.01, 10.0, config.bowl_rates),
        rates_around(0.01, 100, config.net_rates),
    )

    def both(run: Callable[[Array, Key, Array], Array], rates: Array, steps: int) -> Steps:
        plain, momentum = (
            at_best(rates, sweep(partial(run, jnp.asarray(m)), keys, rates))
            for m in (0.0, config.momentum)
        )
        return Steps(plain, momentum, steps + 1)

    ravines = {
        c: both(partial(_ravine, config, c), low, config.bowl_steps) for c in config.conditions
    }
    rim = both(partial(_rim, config), low, config.bowl_steps)
    tanh = both(partial(_net, config, 2, jnp.tanh, config.net_target), high, config.net_steps)
    sigmoid = both(
        partial(_net, config, 3, jax.nn.sigmoid, config.plateau_target), high, config.net_steps
    )
    name = f"momentum {config.momentum:g}"

    def compare(where: str, steps: Steps, expected: Expected = "less") -> Comparison:
        return Comparison(
            where,
            "steps to the target",
            Arm(name, steps.momentum, cap=steps.cap),
            Arm("plain", steps.plain, cap=steps.cap),
            expected,
            MARGIN,
            ratio=True,
        )

    round_, *narrow = config.conditions
    return Outcome(
        setting=(
            f"Gradient descent with momentum {config.momentum:g} and without, each at the rate "
            "with the fewest steps for the other seeds, until the loss is at its target and stays "
            "there to the end. Quadratic bowls of 20 directions: the largest curvature is drawn "
            "from 0.5 to 1 for each seed, so that no rate of the grid fits it by design, the "
            "others spread evenly in the logarithm down to 1/condition of it; from a random start "
            f"to 1e-4 of the first loss; {config.bowl_rates} rates a decade from 0.01 to 10. Two "
            "plateaus: 1 - exp(-|x|²/2) from a distance drawn from 3.5 to 4.5, where the slope is "
            "0.008 to 0.0002, to a loss of 0.01, with the same rates; and an MLP of three layers "
            f"of {config.width} sigmoid units, whose loss stands at ln 10 at first, to "
            f"{config.plateau_target:g}. A net: two layers of {config.width} tanh units, to a loss "
            f"of {config.net_target:g}. Both nets learn {config.examples} digits, all in each "
            f"step, {config.net_rates} rates a decade from 0.01 to 100. Runs end after "
            f"{config.bowl_steps} steps in bowls and {config.net_steps} of nets (1,000 in a first "
            "run, in which the best took 61 at most); one that is not at its target then counts as "
            "one step more, and the effect as a bound."
        ),
        tested=[
            Tested(
                "Momentum speeds descent along a narrow ravine.",
                [compare(f"with curvatures 1 to 1/{c:g}", ravines[c]) for c in narrow],
            ),
            Tested(
                "Where all directions are alike, it is of no use.",
                [compare(f"with curvatures 1 to 1/{round_:g}", ravines[round_], "not less")],
            ),
            Tested(
                "Momentum crosses plateaus.",
                [
                    compare("on the rim of a bowl", rim),
                    compare("through three sigmoid layers", sigmoid),
                ],
            ),
            Tested("Momentum trains a net in fewer steps.", [compare("on the digits", tanh)]),
        ],
        seen=[_bowls(config, name, ravines), _others(name, rim, sigmoid, tanh)],
    )


def settled(values: Array, target: Any) -> Array:
    """Steps until `values [steps]` lie at or below `target` to the end; one more than there are
    where the last one does not.

    A first passage would count what a high rate throws across the target and out again.
    """
    above = ~(values <= target)
    last = len(values) - 1 - jnp.argmax(above[::-1])
    return jnp.where(jnp.any(above), last + 1, 0) + 1


def _descend(
    loss: Callable[[Array], Array], start: Array, momentum: Array, rate: Array, steps: int
) -> Array:
    """The loss after each step, `[steps]`."""
    optimizer = optim.sgd(rate, momentum=momentum)

    def step(carry: Any, _: None) -> Any:
        x, state = carry
        updates, state = optimizer.update(jax.grad(loss)(x), state, x)
        x = optim.apply_updates(x, updates)
        return (x, state), loss(x)

    values: Array
    _, values = lax.scan(step, (start, optimizer.init(start)), length=steps)
    return values


def _ravine(config: Config, condition: float, momentum: Array, key: Key, rate: Array) -> Array:
    top_key, start_key = jax.random.split(key)
    top = jax.random.uniform(top_key, minval=0.5, maxval=1.0)
    curvatures = top * jnp.logspace(0, -np.log10(condition), 20)
    start = jax.random.normal(start_key, (20,)) / jnp.sqrt(curvatures)

    def loss(x: Array) -> Array:
        return jnp.sum(curvatures * x**2) / 2

    return settled(_descend(loss, start, momentum, rate, config.bowl_steps), 1e-4 * loss(start))


def _rim(config: Config, momentum: Array, key: Key, rate: Array) -> Array:
    way_key, distance_key = jax.random.split(key)
    direction = jax.random.normal(way_key, (2,))
    distance = jax.random.uniform(distance_key, minval=3.5, maxval=4.5)
    start = distance * direction / jnp.linalg.norm(direction)

    def loss(x: Array) -> Array:
        return -jnp.expm1(-jnp.sum(x**2) / 2)

    return settled(_descend(loss, start, momentum, rate, config.bowl_steps), 0.01)


def _net(
    config: Config,
    layers: int,
    activation: Callable[[Array], Array],
    target: float,
    momentum: Array,
    key: Key,
    rate: Array,
) -> Array:
    data = jax.tree.map(lambda leaf: leaf[: config.examples], digits().train)
    shape = models.MLPConfig(64, 10, hidden=(config.width,) * layers, activation=activation)
    init_key, run_key = jax.random.split(key)
    trained = fit(
        mlp_loss(shape), optim.sgd(rate, momentum=momentum), models.init_mlp(init_key, shape), data,
        key=run_key, steps=config.net_steps, batch_size=config.examples,
    )  # fmt: skip
    return settled(trained.losses, target)


def _bowls(config: Config, name: str, ravines: dict[float, Steps]) -> Seen:
    with panels(["quadratic bowls"]) as (figure, (axes,)):
        lines = {
            "plain": np.stack([ravines[c].plain for c in config.conditions], 1),
            name: np.stack([ravines[c].momentum for c in config.conditions], 1),
        }
        label = "largest by smallest curvature"
        draw_lines(
            axes, config.conditions, lines, x_label=label, y_label="steps", log_x=True, log_y=True
        )
        axes.legend()
    return Seen(
        figure,
        "Steps until the loss is 1e-4 of the first, at the best rate: plain descent needs steps in "
        "proportion to the condition, momentum to its root. Median of seeds; the band is from the "
        "least to the greatest.",
    )


def _others(name: str, *others: Steps) -> Seen:
    titles = ["rim of a bowl", "three sigmoid layers", "two tanh layers"]
    with panels(titles, share_y=False) as (figure, row):
        for axes, steps in zip(row, others, strict=True):
            draw_seeds(axes, {"plain": steps.plain, name: steps.momentum}, log_y=True)
        row[0].set_ylabel("steps")
    return Seen(
        figure,
        "Steps to each one's target, at the best rate: a point for each seed, and their mean.",
    )
