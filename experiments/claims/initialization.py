"""Xavier's and He's initializations against naive ones, in depth."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.deep_nets import (
    Shape,
    error_profile,
    first_by_last,
    he,
    init_deep,
    train_deep,
    xavier,
)
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import digits, sweep
from experiments.claims.verdict import Arm, Comparison
from jaxnets.types import Array, Key

TITLE = "Initialization in depth"

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}


@dataclass(frozen=True)
class Config:
    """Nets of so many hidden layers, initialized in several ways."""

    depths: tuple[int, ...] = (2, 5, 10, 20, 50, 100)
    trained_depths: tuple[int, ...] = (5, 20, 50)
    width: int = 64
    small: float = 0.01
    """The deviation of a naive initialization."""
    large: float = 1.0
    """That of another one."""
    rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Of plain SGD; the best counts."""
    steps: int = 500
    batch_size: int = 64


FULL = Config()
QUICK = Config(depths=(2, 5, 10, 20, 50), trained_depths=(5, 20), rates=(0.03, 0.3), steps=150)


def examine(config: Config, keys: Key) -> Outcome:
    """Error signals before training, and test errors after it, for every way and depth."""
    ways = _ways(config)
    stds = jnp.array(list(ways.values()))
    signals: dict[str, dict[int, np.ndarray]] = {}
    errors: dict[str, dict[int, np.ndarray]] = {}
    for name, activation in ACTIVATIONS.items():
        shapes = {d: Shape(d, config.width, activation) for d in config.depths}
        signals[name] = {d: _signals(shape, keys, stds) for d, shape in shapes.items()}
        errors[name] = {
            d: _errors(config, Shape(d, config.width, activation), keys, stds)
            for d in config.trained_depths
            if name != "sigmoid"
        }
    index = {way: i for i, way in enumerate(ways)}
    deepest = [d for d in config.depths if d >= 10]

    def kept(activation: str, depth: int, treated: str, control: str) -> Comparison:
        values = signals[activation][depth]
        return Comparison(
            f"with {activation}, {depth} layers",
            "error signal at the first layer by that at the last",
            Arm(treated, values[:, index[treated]]),
            Arm(control, values[:, index[control]]),
            "more",
            10.0,
            ratio=True,
        )

    def learnt(activation: str, depth: int, treated: str, control: str) -> Comparison:
        values = errors[activation][depth]
        return Comparison(
            f"with {activation}, {depth} layers",
            "test error",
            Arm(treated, values[:, index[treated]]),
            Arm(control, values[:, index[control]]),
            "less",
            0.05,
        )

    sigmoid = [
        Comparison(
            f"with {depth} layers",
            "error signal at the first layer by that at the last",
            Arm("sigmoid, its best way but N(0, 1)", signals["sigmoid"][depth][:, :3].max(1)),
            Arm("relu, He", signals["relu"][depth][:, index["He"]]),
            "less",
            1000.0,
            ratio=True,
        )
        for depth in deepest
    ]
    return Outcome(
        setting=(
            f"Digits; nets of {config.width} units a layer without normalization or residuals. "
            "Hidden kernels are normal: Xavier's √(2/(in + out)), He's √(2/in), or naively "
            f"{config.small:g} or {config.large:g}, whatever the width. Error signals are of all "
            "training digits, before training. Then plain SGD, batches of "
            f"{config.batch_size}, {config.steps} steps, the best of rates {config.rates} for each "
            "way and seed."
        ),
        tested=[
            Tested(
                "Xavier's initialization carries the error signal through many tanh layers.",
                [kept("tanh", d, "Xavier", f"N(0, {config.small:g}²)") for d in deepest],
            ),
            Tested(
                "He's carries it through relu layers, where Xavier's loses half of its square "
                "in each.",
                [kept("relu", d, "He", "Xavier") for d in deepest],
            ),
            Tested("Through sigmoid layers none carries it.", sigmoid),
            Tested(
                "Deep tanh nets learn from Xavier's, and not from weights that are too small.",
                [learnt("tanh", d, "Xavier", f"N(0, {config.small:g}²)") for d in errors["tanh"]],
            ),
            Tested(
                "Nor from weights that are too large.",
                [learnt("tanh", d, "Xavier", f"N(0, {config.large:g}²)") for d in errors["tanh"]],
            ),
            Tested(
                "Deep relu nets learn from He's, and less from Xavier's.",
                [learnt("relu", d, "He", "Xavier") for d in errors["relu"]],
            ),
        ],
        seen=[_picture(config, signals)],
    )


def _ways(config: Config) -> dict[str, float]:
    return {
        "Xavier": xavier(config.width),
        "He": he(config.width),
        f"N(0, {config.small:g}²)": config.small,
        f"N(0, {config.large:g}²)": config.large,
    }


def _signals(shape: Shape, keys: Key, stds: Array) -> np.ndarray:
    """`[seeds, ways]`"""
    data = digits().train

    def one(key: Key, std: Array) -> Array:
        return first_by_last(error_profile(init_deep(key, shape, std), shape, data))

    return np.asarray(sweep(one, keys, stds))


def _errors(config: Config, shape: Shape, keys: Key, stds: Array) -> np.ndarray:
    """`[seeds, ways]`, each at its best rate."""
    train = partial(train_deep, steps=config.steps, batch_size=config.batch_size)

    def one(key: Key, std: Array, rate: Array) -> Array:
        return train(key, shape, std, rate)

    rates = jnp.array(config.rates)
    of_rates = jax.vmap(one, (None, None, 0))
    of_ways = jax.vmap(of_rates, (None, 0, None))
    found = jax.jit(jax.vmap(of_ways, (0, None, None)))(keys, stds, rates)
    return np.asarray(np.min(np.asarray(found), -1))


def _picture(config: Config, signals: dict[str, dict[int, np.ndarray]]) -> Seen:
    with panels(list(signals)) as (figure, row):
        for axes, by_depth in zip(row, signals.values(), strict=True):
            table = np.stack(list(by_depth.values()), 2)
            lines = {way: table[:, i] for i, way in enumerate(_ways(config))}
            draw_lines(axes, config.depths, lines, x_label="layers", log_x=True, log_y=True)
            axes.set_ylim(1e-31, 1e31)
        row[0].set_ylabel("error signal, first / last layer")
        row[-1].legend(loc="lower left")
    return Seen(
        figure,
        "What is left of the error signal at the first layer, by depth, before training; beyond "
        "1e±30 it is cut off. Median of seeds; the band is from the least to the greatest.",
    )
