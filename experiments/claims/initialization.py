"""Xavier's and He's initializations against naive ones, in depth."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import beside, between, taken
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.deep_nets import (
    LEAST,
    MOST,
    Shape,
    first_by_last,
    he,
    learnt,
    off,
    signals,
    xavier,
)
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.rates import best_of_others
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets.types import Key

TITLE = "Initialization in depth"

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}
CHANCE = 0.9

ByWay = dict[str, np.ndarray]
"""Each way's values, `[seeds]`."""


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
    examples: int = 512
    """Of which error signals are taken."""
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Of plain SGD; that with the least training loss of the other seeds counts."""
    steps: int = 500
    batch_size: int = 64


FULL = Config()
QUICK = Config(
    depths=(2, 5, 10, 20, 50),
    trained_depths=(5, 20),
    rates=(0.002, 0.01, 0.05, 0.25, 1.25),
    steps=120,
    batch_size=32,
)


def examine(config: Config, keys: Key) -> Outcome:
    """Error signals before training, and test errors after it, for every way and depth."""
    kept = {
        name: {d: _kept(config, Shape(d, config.width, activation), keys) for d in config.depths}
        for name, activation in ACTIVATIONS.items()
    }
    errors = {name: {d: _errors(config, name, d, keys) for d in config.trained_depths}
              for name in ACTIVATIONS}  # fmt: skip
    return Outcome(
        setting=(
            f"Digits; nets of {config.width} units a layer without normalization or residuals, of "
            f"{config.depths} hidden layers. Hidden kernels are normal: Xavier's √(2/(in + out)), "
            f"He's √(2/in), or naively {config.small:g} or {config.large:g}, whatever the width. "
            f"Error signals are of {config.examples} training digits, before training; one is "
            "carried if the first layer's is within a factor of 10 of the last one's. Then plain "
            "SGD, "
            f"{config.trained_depths} layers, batches of {config.batch_size}, {config.steps} "
            f"steps, of rates {config.rates} that of the least training loss for the other seeds, "
            "for each way; a loss above that of guessing, or without a number, counts as that."
        ),
        tested=[*_signals(config, kept), *_learning(config, errors)],
        seen=[_picture(config, kept)],
        notes=(
            "Relu layers are homogeneous: Xavier's signal is He's divided by √2 in each layer, but "
            "for where they start, so what is said of the one and of the other is one measurement. "
            "A signal that is not finite counts as 1e30. After a first run the rates of the short "
            "form were spread, since an end of them was the best one of many nets."
        ),
    )


def _ways(config: Config) -> dict[str, float]:
    small, large = _naive(config)
    return {
        "Xavier": xavier(config.width),
        "He": he(config.width),
        small: config.small,
        large: config.large,
    }


def _naive(config: Config) -> tuple[str, str]:
    return f"N(0, {config.small:g}²)", f"N(0, {config.large:g}²)"


def _kept(config: Config, shape: Shape, keys: Key) -> ByWay:
    """The error signal at the first layer by that at the last."""
    ways = _ways(config)
    profiles = signals(shape, keys, jnp.array(list(ways.values())), examples=config.examples)
    ratio = np.asarray(jax.vmap(jax.vmap(first_by_last))(jnp.asarray(profiles)))
    return {way: ratio[:, i] for i, way in enumerate(ways)}


def _errors(config: Config, activation: str, depth: int, keys: Key) -> ByWay:
    """Test errors, each at its best rate."""
    ways = _ways(config)
    found = learnt(
        Shape(depth, config.width, ACTIVATIONS[activation]), keys,
        jnp.array(list(ways.values())), jnp.array(config.rates),
        steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip

    def at_best(i: int, way: str) -> np.ndarray:
        what = f"{activation}, {depth} layers, {way}"
        return taken(found.error[:, i], best_of_others(config.rates, found.loss[:, i], what))

    return {way: at_best(i, way) for i, way in enumerate(ways)}


def _signals(config: Config, kept: dict[str, dict[int, ByWay]]) -> list[Tested]:
    small, large = _naive(config)

    def carried(activation: str, way: str, expected: Expected = "same") -> list[Comparison]:
        """Beside a signal that stays as it is."""
        return [
            beside(
                1.0, "as it was", Arm(way, values[way], LEAST, MOST),
                where=f"with {depth} layers, {way}",
                quantity="error signal at the first layer by that at the last",
                expected=expected, margin=10.0, ratio=True,
            )
            for depth, values in kept[activation].items()
        ]  # fmt: skip

    def farther(activation: str, way: str, *others: str) -> list[Comparison]:
        """It grows or shrinks by a smaller factor."""
        return [
            between(
                {name: off(values[name]) for name in (way, other)}, way, other,
                where=f"with {depth} layers, beside {other}",
                quantity="factor between the error signals at the first and the last layer",
                expected="less", margin=2.0, ratio=True, cap=MOST,
            )
            for depth, values in kept[activation].items()
            for other in others
        ]  # fmt: skip

    halved = [
        beside(
            0.5, "half", Arm("Xavier", values["Xavier"] ** (2 / (depth - 1))),
            where=f"with {depth} layers",
            quantity="squared error signal at a layer by that at the next", expected="same",
            margin=1.1, ratio=True,
        )
        for depth, values in kept["relu"].items()
    ]  # fmt: skip
    return [
        Tested(
            "Xavier's initialization carries the error signal through many tanh layers.",
            carried("tanh", "Xavier"),
        ),
        Tested(
            "It carries it farther than naive ones through tanh.",
            farther("tanh", "Xavier", small, large),
        ),
        Tested("He's carries it through many relu layers.", carried("relu", "He")),
        Tested(
            "It carries it farther than naive ones through relu.",
            farther("relu", "He", small, large),
        ),
        Tested("Xavier's loses half of its square in each relu layer.", halved),
        Tested(
            "Neither Xavier's nor He's carries it through sigmoid layers.",
            carried("sigmoid", "Xavier", "less") + carried("sigmoid", "He", "less"),
        ),
        Tested(
            "Through sigmoid layers, large weights carry it farther than theirs.",
            farther("sigmoid", large, "Xavier", "He"),
        ),
    ]


def _learning(config: Config, errors: dict[str, dict[int, ByWay]]) -> list[Tested]:
    small, large = _naive(config)

    def better(activation: str, way: str, *others: str) -> list[Comparison]:
        return [
            between(
                values, way, other, where=f"with {depth} layers, beside {other}",
                quantity="test error", expected="less", margin=0.05,
            )
            for depth, values in errors[activation].items()
            for other in others
        ]  # fmt: skip

    at_chance = [
        beside(
            CHANCE, "chance", Arm(way, values[way]), where=f"with {depth} layers, {way}",
            quantity="test error", expected="not less", margin=0.1,
        )
        for depth, values in errors["sigmoid"].items()
        for way in values
    ]  # fmt: skip
    return [
        Tested(
            "Deep tanh nets learn better from Xavier's than from weights that are too small.",
            better("tanh", "Xavier", small),
        ),
        Tested(
            "They learn better from Xavier's than from weights that are too large.",
            better("tanh", "Xavier", large),
        ),
        Tested(
            "Deep relu nets learn better from He's than from naive ones.",
            better("relu", "He", small, large),
        ),
        Tested("They learn better from He's than from Xavier's.", better("relu", "He", "Xavier")),
        Tested("Deep sigmoid nets learn from none of them.", at_chance),
    ]


def _picture(config: Config, kept: dict[str, dict[int, ByWay]]) -> Seen:
    with panels(list(kept)) as (figure, row):
        for axes, by_depth in zip(row, kept.values(), strict=True):
            lines = {
                way: np.stack([values[way] for values in by_depth.values()], 1)
                for way in _ways(config)
            }
            draw_lines(axes, config.depths, lines, x_label="layers", log_x=True, log_y=True)
            axes.set_ylim(1e-31, 1e31)
        row[0].set_ylabel("error signal, first / last layer")
        row[-1].legend(loc="lower left")
    return Seen(
        figure,
        "What is left of the error signal at the first layer, by depth, before training; beyond "
        "1e±30 it is cut off, and one that is not finite is at 1e30. Median of seeds; the band is "
        "from the least to the greatest.",
    )
