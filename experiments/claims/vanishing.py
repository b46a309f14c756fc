"""The vanishing gradient: which activations lose it, and what cures that."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

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

TITLE = "Vanishing gradients and their cures"


@dataclass(frozen=True)
class Config:
    """Deep nets of each kind, before and after training."""

    depth: int = 40
    width: int = 64
    rates: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    """Of plain SGD; the best counts."""
    steps: int = 500
    batch_size: int = 64


FULL = Config()
QUICK = Config(depth=20, rates=(0.001, 0.03, 0.3), steps=150)


def examine(config: Config, keys: Key) -> Outcome:
    """Profiles of the error signal over the layers, and test errors after training."""
    shapes = _shapes(config)
    profiles = {name: _profile(shape, keys) for name, shape in shapes.items()}
    ratio = {
        name: np.asarray(jax.vmap(first_by_last)(jnp.asarray(profile)))
        for name, profile in profiles.items()
    }
    error = {name: _error(config, shape, keys) for name, shape in shapes.items()}

    def signal(treated: str, control: str, expected: Literal["less", "more"]) -> Comparison:
        return Comparison(
            f"{treated} beside {control}",
            "error signal at the first layer by that at the last",
            Arm(treated, ratio[treated]),
            Arm(control, ratio[control]),
            expected,
            10.0,
            ratio=True,
        )

    def learnt(treated: str, control: str) -> Comparison:
        arms = Arm(treated, error[treated]), Arm(control, error[control])
        return Comparison(f"{treated} beside {control}", "test error", *arms, "less", 0.05)

    plain = ("sigmoid", "tanh", "relu")
    return Outcome(
        setting=(
            f"Digits; {config.depth} hidden layers of {config.width} units, Xavier's "
            "initialization (He's with relu). Error signals are of all training digits, before "
            f"training; then plain SGD, batches of {config.batch_size}, {config.steps} steps, the "
            f"best of rates {config.rates} for each net and seed. A residual layer is x + φ(x W), "
            "a normalized one φ(norm(x) W)."
        ),
        tested=[
            Tested("Sigmoids make the gradient vanish.", [signal("sigmoid", "relu", "less")]),
            Tested("Tanh loses less of it than the sigmoid.", [signal("tanh", "sigmoid", "more")]),
            Tested(
                "Residual connections carry the error signal past the layers.",
                [signal(f"{name}, residual", name, "more") for name in plain],
            ),
            Tested(
                "Normalization keeps the error signal from vanishing.",
                [signal(f"{name}, normalized", name, "more") for name in plain],
            ),
            Tested(
                "A deep net that does not learn learns with residual connections.",
                [learnt(f"{name}, residual", name) for name in plain],
            ),
            Tested(
                "It learns with normalization.",
                [learnt(f"{name}, normalized", name) for name in plain],
            ),
        ],
        seen=[_picture(config, profiles)],
        notes="Test errors: "
        + "; ".join(f"{name} {100 * values.mean():.1f} %" for name, values in error.items())
        + ".",
    )


def _shapes(config: Config) -> dict[str, Shape]:
    activations = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}
    kinds: dict[str, dict[str, Any]] = {
        "": {}, ", residual": {"residual": True}, ", normalized": {"norm": True},
    }  # fmt: skip
    return {
        name + kind: Shape(config.depth, config.width, activation, **options)
        for kind, options in kinds.items()
        for name, activation in activations.items()
    }


def _std(shape: Shape) -> float:
    return he(shape.width) if shape.activation is jax.nn.relu else xavier(shape.width)


def _profile(shape: Shape, keys: Key) -> np.ndarray:
    data = digits().train

    def one(key: Key) -> Array:
        return error_profile(init_deep(key, shape, _std(shape)), shape, data)

    return np.asarray(jax.jit(jax.vmap(one))(keys))


def _error(config: Config, shape: Shape, keys: Key) -> np.ndarray:
    train = partial(train_deep, steps=config.steps, batch_size=config.batch_size)

    def one(key: Key, rate: Array) -> Array:
        return train(key, shape, _std(shape), rate)

    found = np.asarray(sweep(one, keys, jnp.array(config.rates)))
    return np.asarray(np.min(found, 1))


def _picture(config: Config, profiles: dict[str, np.ndarray]) -> Seen:
    kinds = {"plain": "", "residual": ", residual", "normalized": ", normalized"}
    with panels(list(kinds)) as (figure, row):
        for axes, kind in zip(row, kinds.values(), strict=True):
            lines = {
                name: profiles[name + kind] / profiles[name + kind][:, -1:]
                for name in ("sigmoid", "tanh", "relu")
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
