"""Recurrent nets: error signals that vanish or explode through time, and clipping."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import exploding_pictures as pictures_of
from experiments.claims.arms import beside, between
from experiments.claims.claim import Outcome, Tested
from experiments.claims.deep_nets import LEAST, MOST, first_by_last, off, root_mean_square
from experiments.claims.rates import at_best, highest
from experiments.claims.recurrent_cells import (
    Cell,
    cell_of_radius,
    default_cell,
    last_output,
    lstm_cell,
)
from experiments.claims.training import (
    Batch,
    bounded,
    cross_entropy,
    digits,
    fit,
    rates_around,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import nn, optim
from jaxnets.types import Array, Key, Params

TITLE = "Exploding gradients through time, and clipping"


@dataclass(frozen=True)
class Config:
    """Recurrent nets that read a digit pixel by pixel, 64 steps."""

    features: int = 32
    radii: tuple[float, ...] = (0.8, 1.0, 1.5)
    """What an orthogonal recurrent matrix is multiplied by: all its eigenvalues' sizes."""
    low: float = 0.003
    high: float = 10.0
    per_decade: int = 4
    """Of rates of SGD, for the recurrence of the largest radius."""
    clip: float = 1.0
    """Greatest norm of the gradient."""
    trained: float = 2.0
    """The training loss, nats, below which training has not failed; guessing has ln 10 = 2.3."""
    steps: int = 1500
    batch_size: int = 64
    examples: int = 256
    """Of which error signals are taken."""


FULL = Config()
QUICK = Config(steps=400, examples=128)


def examine(config: Config, keys: Key) -> Outcome:
    """Error signals at every step before training, and training with and without clipping."""
    names = [f"radius {radius:g}" for radius in config.radii]
    cells: dict[str, Callable[[Key], Cell]] = {
        name: partial(cell_of_radius, config.features, radius=radius)
        for name, radius in zip(names, config.radii, strict=True)
    }
    cells["vanilla cell"] = partial(default_cell, config.features)
    cells["LSTM"] = partial(lstm_cell, config.features, forget_bias=0.0)
    cells["LSTM, forget bias 1"] = partial(lstm_cell, config.features, forget_bias=1.0)
    profiles = {
        name: np.asarray(jax.jit(jax.vmap(partial(_profile, config, cell)))(keys))
        for name, cell in cells.items()
    }
    ratio = {
        name: np.asarray(jax.vmap(first_by_last)(jnp.asarray(profile)))
        for name, profile in profiles.items()
    }
    losses = {
        name: np.asarray(sweep(partial(_train, config, name == "clipped"), keys, _rates(config)))
        for name in ("clipped", "not clipped")
    }
    return Outcome(
        setting=_setting(config),
        tested=[*_signals(ratio, names), *_clipping(config, losses)],
        seen=[
            pictures_of.error_signals(profiles),
            pictures_of.losses(config, np.asarray(_rates(config)), losses),
        ],
        notes=(
            "The net of radius 1 is a vanilla cell too, with smaller input weights, which saturate "
            "it less; it was put beside the LSTM after a first run."
        ),
    )


def _setting(config: Config) -> str:
    return (
        f"Digits read pixel by pixel, 64 steps, by {config.features} units: tanh units whose "
        "recurrent matrix is orthogonal times a radius, with input weights of deviation "
        f"1/√{config.features}; or the library's vanilla cell and LSTM as they are by default "
        "(orthogonal, input weights of deviation 1, biases 0), the LSTM also with biases of 1 at "
        f"its forget gate. Error signals are of {config.examples} digits before training, at the "
        "state (of an LSTM, its cell state), at the first step by that at the last but one, since "
        "nothing reads what is added to an LSTM's last cell state. Then the net of radius "
        f"{config.radii[-1]:g} by SGD, {config.steps} steps of {config.batch_size}, with gradients "
        f"clipped at a norm of {config.clip:g} and not, at {len(_rates(config))} rates from "
        f"{config.low:g} to {config.high:g}; losses are means of the last twentieth of the steps, "
        "and those above ln 10 or not finite count as that; the best rate for a seed is the one "
        "that was best for the others. The highest rate that works is known to a factor of "
        f"{10 ** (1 / config.per_decade):.2f}, which is not in the interval but less than the "
        "margin."
    )


def _rates(config: Config) -> Array:
    return rates_around(config.low, config.high, config.per_decade)


def _signals(ratio: dict[str, np.ndarray], names: list[str]) -> list[Tested]:
    small, *_, large = names
    quantity = "error signal at the first step by that at the last but one"
    factor = {name: off(values) for name, values in ratio.items()}

    def as_it_was(name: str) -> Comparison:
        return beside(
            1.0, "as it was", Arm(name, ratio[name], LEAST, MOST), where=f"with {name}",
            quantity=quantity, expected="same", margin=10.0, ratio=True,
        )  # fmt: skip

    def farther(treated: str, control: str) -> Comparison:
        return between(
            factor, treated, control, where=f"with {treated}, beside {control}",
            quantity="factor between the error signals at the first step and at the last but one",
            expected="less", margin=10.0, ratio=True, cap=MOST,
        )  # fmt: skip

    return [
        Tested(
            "A small recurrent matrix makes the error signal vanish through time.",
            [
                between(
                    ratio, small, "radius 1", where=f"with {small}, beside 1", quantity=quantity,
                    expected="less", margin=1000.0, ratio=True, floor=LEAST, cap=MOST,
                )
            ],
        ),
        Tested("A large one makes it explode.", [as_it_was(large)._replace(expected="more")]),
        Tested("An orthogonal one carries it.", [as_it_was("radius 1")]),
        Tested(
            "An LSTM carries it farther than a vanilla cell.",
            [farther("LSTM", "vanilla cell"), farther("LSTM", "radius 1")],
        ),
        Tested(
            "With a forget bias of 1 it carries it farther than with 0.",
            [farther("LSTM, forget bias 1", "LSTM")],
        ),
        Tested(
            "And then farther than a vanilla cell.",
            [
                farther("LSTM, forget bias 1", "vanilla cell"),
                farther("LSTM, forget bias 1", "radius 1"),
            ],
        ),
    ]  # fmt: skip


def _clipping(config: Config, losses: dict[str, np.ndarray]) -> list[Tested]:
    rates = _rates(config)
    top = {
        name: highest(rates, loss, below=config.trained, of=name) for name, loss in losses.items()
    }
    lowest = {name: at_best(rates, loss, name) for name, loss in losses.items()}
    return [
        Tested(
            "Clipping the gradient makes training possible at rates where it fails.",
            [
                between(
                    top, "clipped", "not clipped", where=f"with radius {config.radii[-1]:g}",
                    quantity=f"highest rate at which the loss ends below {config.trained:g}",
                    # above a step of the grid
                    expected="more", margin=3.0, ratio=True,
                )
            ],
        ),
        Tested(
            "Each at its best rate, a clipped net ends no higher.",
            [
                between(
                    lowest, "clipped", "not clipped", where=f"with radius {config.radii[-1]:g}",
                    quantity="training loss, nats", expected="not more", margin=0.1,
                )
            ],
        ),
    ]  # fmt: skip


def _profile(config: Config, make: Callable[[Key], Cell], key: Key) -> Array:
    """Root mean square of the error signal at each step but the last: `[63]`."""
    cell_key, out_key = jax.random.split(key)
    cell, out = make(cell_key), nn.init_dense(out_key, config.features, 10)
    x, y = (leaf[: config.examples] for leaf in (digits().train["x"], digits().train["y"]))

    def loss(taps: Array) -> Array:
        return len(y) * cross_entropy(nn.dense(out, last_output(cell, x, taps)), y)

    errors = jax.grad(loss)(jnp.zeros((64, len(y), config.features)))
    return root_mean_square(errors)[:-1]


def _train(config: Config, clip: bool, key: Key, rate: Array) -> Array:
    init_key, out_key, run_key = jax.random.split(key, 3)
    cell = cell_of_radius(config.features, init_key, config.radii[-1])
    params = {"cell": cell.params, "out": nn.init_dense(out_key, config.features, 10)}

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        h = last_output(cell._replace(params=params["cell"]), batch["x"])
        return cross_entropy(nn.dense(params["out"], h), batch["y"])

    optimizer = optim.sgd(rate)
    if clip:
        optimizer = optim.chain(optim.clip_by_global_norm(config.clip), optimizer)
    trained = fit(
        loss, optimizer, params, digits().train, key=run_key, steps=config.steps,
        batch_size=config.batch_size,
    )  # fmt: skip
    return bounded(jnp.mean(trained.losses[-max(1, config.steps // 20) :]))
