"""The vanishing gradient: which activations lose it, and what cures that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import beside, between, taken
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.deep_nets import (
    LEARNS,
    LEAST,
    MOST,
    Learnt,
    Shape,
    first_by_last,
    he,
    learnt,
    off,
    signals,
    xavier,
)
from experiments.claims.pictures import draw_lines, draw_seeds, panels
from experiments.claims.rates import best_of_others
from experiments.claims.verdict import Arm, Comparison
from jaxnets.types import Array, Key

TITLE = "Vanishing gradients and their cures"

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}
RESIDUAL = ("residual", "residual by 1/√depth")
NORMALIZED = ("layer norm", "batch norm")


@dataclass(frozen=True)
class Config:
    """Deep nets of each kind, before and after training."""

    depth: int = 40
    width: int = 64
    examples: int = 512
    """Of which error signals are taken."""
    failed: float = 2.0
    """The training loss, nats, above which a net has not learnt; guessing has ln 10 = 2.3."""
    rates: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Of plain SGD; that with the least training loss of the other seeds counts."""
    steps: int = 500
    batch_size: int = 64


FULL = Config()
QUICK = Config(depth=20, rates=(0.002, 0.01, 0.05, 0.25, 1.25), steps=150, batch_size=32)


def examine(config: Config, keys: Key) -> Outcome:
    """Profiles of the error signal over the layers, and test errors after training."""
    shapes = _shapes(config)
    profiles = {
        name: signals(shape, keys, _std(shape), examples=config.examples)[:, 0]
        for name, shape in shapes.items()
    }
    ratio = {
        name: np.asarray(jax.vmap(first_by_last)(jnp.asarray(profile)))
        for name, profile in profiles.items()
    }
    plain = {name: _trained(config, shapes, name, keys) for name in ACTIVATIONS}
    failing = [name for name, net in plain.items() if np.mean(net.loss) > config.failed]
    cured = [f"{name}, {cure}" for name in failing for cure in RESIDUAL + NORMALIZED]
    cures = {name: _trained(config, shapes, name, keys) for name in cured}
    error = {name: np.asarray(net.error) for name, net in (plain | cures).items()}
    return Outcome(
        setting=_setting(config),
        tested=[*_signals(ratio), *_learning(error, failing)],
        seen=[_picture(config, profiles), _errors(error, failing)],
        notes=(
            "Test errors: "
            + "; ".join(f"{name} {100 * values.mean():.1f} %" for name, values in error.items())
            + f". Cures are trained where the plain net fails: {', '.join(failing) or 'nowhere'}."
        ),
    )


def _setting(config: Config) -> str:
    return (
        f"Digits; {config.depth} hidden layers of {config.width} units, Xavier's initialization "
        f"(He's with relu). Error signals are of {config.examples} training digits, before "
        "training; one is carried if the first layer's is within a factor of 10 of the last "
        f"one's, neither vanished nor exploded. Then plain SGD, batches of {config.batch_size}, "
        f"{config.steps} steps, of rates {config.rates} that of the least training loss for the "
        "other seeds, for each net; a loss above that of guessing, or without a number, counts as "
        "that. A residual layer is x + φ(x W), or x + φ(x W)/√depth; a normalized one "
        "φ(norm(x) W), with layer norm or batch norm, without scale and shift; batch norm is "
        "evaluated by the moments of all training digits. A net fails if its training loss is "
        f"{config.failed:g} nats or more on average, of the ln 10 of guessing; of a cure is asked "
        "that the test error is lower by 40 points."
    )


def _shapes(config: Config) -> dict[str, Shape]:
    kinds: dict[str, dict[str, Any]] = {
        "": {},
        ", residual": {"residual": 1.0},
        ", residual by 1/√depth": {"residual": config.depth**-0.5},
        ", layer norm": {"norm": "layer"},
        ", batch norm": {"norm": "batch"},
    }
    return {
        name + kind: Shape(config.depth, config.width, activation, **options)
        for kind, options in kinds.items()
        for name, activation in ACTIVATIONS.items()
    }


def _std(shape: Shape) -> Array:
    return jnp.array([he(shape.width) if shape.activation is jax.nn.relu else xavier(shape.width)])


def _trained(config: Config, shapes: Mapping[str, Shape], name: str, keys: Key) -> Learnt:
    """`[seeds]`, each at the best rate of the other seeds."""
    shape = shapes[name]
    found = learnt(
        shape, keys, _std(shape), jnp.array(config.rates),
        steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip
    best = best_of_others(config.rates, found.loss[:, 0], name)
    return Learnt(*(jnp.asarray(taken(values[:, 0], best)) for values in found))


def _signals(ratio: Mapping[str, np.ndarray]) -> list[Tested]:
    factor = {name: off(values) for name, values in ratio.items()}

    def carried(*names: str) -> list[Comparison]:
        """The signal is, within the margin, as large at the first layer as at the last."""
        return [
            beside(
                1.0, "as it was", Arm(name, ratio[name], LEAST, MOST), where=f"with {name}",
                quantity="error signal at the first layer by that at the last",
                expected="same", margin=10.0, ratio=True,
            )
            for name in names
        ]  # fmt: skip

    (sigmoid,) = carried("sigmoid")
    return [
        Tested("Sigmoids make the gradient vanish.", [sigmoid._replace(expected="less")]),
        Tested(
            "Tanh loses less of it than the sigmoid.",
            [
                between(
                    factor, "tanh", "sigmoid", where="with tanh, beside sigmoid",
                    quantity="factor between the error signals at the first and the last layer",
                    expected="less", margin=10.0, ratio=True, cap=MOST,
                )
            ],
        ),
        Tested("Plain tanh and relu layers carry it.", carried("tanh", "relu")),
        Tested(
            "Residual connections carry the error signal past the layers.",
            carried(*(f"{name}, {cure}" for cure in RESIDUAL for name in ACTIVATIONS)),
        ),
        Tested(
            "Normalization carries the error signal through the layers.",
            carried(*(f"{name}, {cure}" for cure in NORMALIZED for name in ACTIVATIONS)),
        ),
    ]  # fmt: skip


def _learning(error: Mapping[str, np.ndarray], failing: list[str]) -> list[Tested]:
    def cured(cures: tuple[str, ...]) -> list[Comparison]:
        return [
            between(
                error, f"{name}, {cure}", name, where=f"with {name}, {cure}",
                quantity="test error", expected="less", margin=LEARNS,
            )
            for name in failing
            for cure in cures
        ]  # fmt: skip

    # where every plain net learns, there is nothing to be cured
    why = "" if failing else "every plain net learns"
    return [
        Tested(
            "A deep net that does not learn learns with residual connections.",
            cured(RESIDUAL), why,
        ),
        Tested("It learns with normalization.", cured(NORMALIZED), why),
    ]  # fmt: skip


def _picture(config: Config, profiles: Mapping[str, np.ndarray]) -> Seen:
    kinds = {"plain": "", **{cure: f", {cure}" for cure in RESIDUAL + NORMALIZED}}
    with panels(list(kinds)) as (figure, row):
        for axes, kind in zip(row, kinds.values(), strict=True):
            lines = {
                name: profiles[name + kind] / profiles[name + kind][:, -1:] for name in ACTIVATIONS
            }
            layers = np.arange(1, config.depth + 1)
            draw_lines(axes, layers, lines, x_label="layer", log_y=True, marked=False)
        row[0].set_ylabel("error signal, relative to the last layer")
        row[0].legend(loc="lower right")
    return Seen(
        figure,
        "The error signal on its way back from the last layer to the first, before training. "
        "Median of seeds; the band is from the least to the greatest.",
    )


def _errors(error: Mapping[str, np.ndarray], failing: list[str]) -> Seen:
    titles = ["plain nets", *(f"{name}, cured" for name in failing)]
    with panels(titles) as (figure, row):
        draw_seeds(row[0], {name: 100 * error[name] for name in ACTIVATIONS})
        for axes, name in zip(row[1:], failing, strict=True):
            cures = {cure: 100 * error[f"{name}, {cure}"] for cure in RESIDUAL + NORMALIZED}
            draw_seeds(axes, {cure.replace(" ", "\n", 1): of for cure, of in cures.items()})
        row[0].set_ylabel("test error, %")
    return Seen(
        figure,
        "After training, each at its best rate: a point for each seed, and their mean. Cures are "
        "trained where the plain net fails.",
    )
