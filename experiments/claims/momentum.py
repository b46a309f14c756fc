"""Momentum crosses plateaus and ravines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import cross_entropy, digits, fit, steps_to
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

TITLE = "Momentum crosses ravines and plateaus"


@dataclass(frozen=True)
class Config:
    """Of gradient descent with and without momentum, each at its own best rate."""

    momentum: float = 0.9
    conditions: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    """Of ravines: the largest curvature by the smallest."""
    ravine_steps: int = 4000
    rates: int = 26
    """Learning rates tried for each, at equal factors."""
    plateau_steps: int = 2000
    net_steps: int = 1000
    net_target: float = 0.1
    """Training loss to be reached, nats."""
    width: int = 32


FULL = Config()
QUICK = Config(ravine_steps=2000, rates=11, plateau_steps=1000, net_steps=400)


def examine(config: Config, keys: Key) -> Outcome:
    """Steps until a loss is reached, by the best of many rates."""
    ravines = {c: _both(config, partial(_ravine, config, c), keys) for c in config.conditions}
    plateau = _both(config, partial(_plateau, config), keys)
    net = _both(config, partial(_net, config), keys)

    def compare(where: str, steps: tuple[np.ndarray, np.ndarray], expected: Any = "less") -> Any:
        with_momentum, without = steps
        return Comparison(
            where,
            "steps to the target",
            Arm(f"momentum {config.momentum:g}", with_momentum),
            Arm("plain", without),
            expected,
            1.5,
            ratio=True,
        )

    round_, *narrow = config.conditions
    with panels(["quadratic bowls"]) as (figure, (axes,)):
        names = ("plain", f"momentum {config.momentum:g}")
        of_names = zip(*(ravines[c][::-1] for c in config.conditions), strict=True)
        draw_lines(
            axes,
            config.conditions,
            {name: np.stack(steps, 1) for name, steps in zip(names, of_names, strict=True)},
            x_label="largest by smallest curvature",
            y_label="steps",
            log_x=True,
            log_y=True,
        )
        axes.legend()
    return Outcome(
        setting=(
            f"Gradient descent with momentum {config.momentum:g} and without, each at the best of "
            f"{config.rates} rates for each seed (equal factors from 1e-4 to 10), on quadratic "
            "bowls of 20 directions with curvatures spread from 1 to 1/condition, from a random "
            "start until the loss is 1e-4 of the first; on a plateau, 1 - exp(-|x|²/2), from about "
            f"4 away; and on the digits, an MLP of two layers of {config.width} tanh units, full "
            f"batch, until the training loss is {config.net_target:g}. A run that never gets there "
            "counts as one step more than it was given."
        ),
        tested=[
            Tested(
                "Momentum speeds descent along a narrow ravine.",
                [compare(f"with curvatures 1 to 1/{c:g}", ravines[c]) for c in narrow],
            ),
            Tested(
                "Where all directions are alike, it is of no use.",
                [compare(f"with curvatures 1 to 1/{round_:g}", ravines[round_], "same")],
            ),
            Tested("Momentum crosses plateaus.", [compare("on the plateau", plateau)]),
            Tested("Momentum trains a net in fewer steps.", [compare("on the digits", net)]),
        ],
        seen=[
            Seen(
                figure,
                "Steps until the loss is 1e-4 of the first, at the best rate: plain descent needs "
                "steps in proportion to the condition, momentum to its root. Median of seeds; the "
                "band is from the least to the greatest.",
            )
        ],
    )


def _both(
    config: Config, steps: Callable[[Key, Any, Array], Array], keys: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Steps with momentum and without, `[seeds]` each, at the best rate of each seed."""
    rates = jnp.logspace(-4, 1, config.rates)
    momenta = jnp.array([config.momentum, 0.0])
    of_rates = jax.vmap(steps, (None, None, 0))
    of_momenta = jax.vmap(of_rates, (None, 0, None))
    found = jax.jit(jax.vmap(of_momenta, (0, None, None)))(keys, momenta, rates)
    with_momentum, without = np.moveaxis(np.min(np.asarray(found), -1), -1, 0)
    return with_momentum, without


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


def _ravine(config: Config, condition: float, key: Key, momentum: Array, rate: Array) -> Array:
    curvatures = jnp.logspace(0, -np.log10(condition), 20)
    start = jax.random.normal(key, (20,)) / jnp.sqrt(curvatures)

    def loss(x: Array) -> Array:
        return jnp.sum(curvatures * x**2) / 2

    values = _descend(loss, start, momentum, rate, config.ravine_steps)
    return steps_to(values, 1e-4 * loss(start))


def _plateau(config: Config, key: Key, momentum: Array, rate: Array) -> Array:
    direction = jax.random.normal(key, (2,))
    start = direction / jnp.linalg.norm(direction) * 4.0

    def loss(x: Array) -> Array:
        return -jnp.expm1(-jnp.sum(x**2) / 2)

    return steps_to(_descend(loss, start, momentum, rate, config.plateau_steps), 0.01)


def _net(config: Config, key: Key, momentum: Array, rate: Array) -> Array:
    data = digits().train
    shape = models.MLPConfig(64, 10, hidden=(config.width, config.width), activation=jnp.tanh)
    init_key, run_key = jax.random.split(key)

    def loss(params: Params, batch: Any, key: Key) -> Array:
        return cross_entropy(models.mlp(params, shape, batch["x"]), batch["y"])

    optimizer = optim.sgd(rate, momentum=momentum)
    params = models.init_mlp(init_key, shape)
    trained = fit(
        loss, optimizer, params, data,
        key=run_key, steps=config.net_steps, batch_size=len(data["y"]),
    )  # fmt: skip
    return steps_to(trained.losses, config.net_target)
