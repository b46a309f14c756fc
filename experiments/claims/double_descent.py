"""Double descent: the test error beyond the width at which the training data are just learnt."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import digits
from experiments.claims.verdict import Arm, Comparison
from jaxnets.types import Array, Key

TITLE = "Double descent"


@dataclass(frozen=True)
class Config:
    """Least squares on random relu features, of least norm where many fit."""

    examples: int = 300
    """To train on, drawn by seed."""
    noise: tuple[float, ...] = (0.0, 0.2)
    """Shares of their labels that are drawn anew."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
    """Features by examples."""


FULL = Config(examples=1000)
QUICK = Config()


def examine(config: Config, keys: Key) -> Outcome:
    """Test errors by the number of features."""
    errors = {noise: _errors(config, noise, keys) for noise in config.noise}
    ratios = np.asarray(config.ratios)
    edge = int(np.argmin(np.abs(ratios - 1)))

    def above(noise: float, other: np.ndarray, name: str) -> Comparison:
        return Comparison(
            f"with {noise:.0%} wrong labels", "test error",
            Arm("as many features as examples", errors[noise][:, edge]), Arm(name, other),
            "more", 0.02,
        )  # fmt: skip

    return Outcome(
        setting=(
            f"{config.examples} digits, drawn by seed; least squares from max(0, x W) to the ten "
            "classes, W random and fixed, by the pseudo-inverse: exactly the weights of least norm "
            "where many fit. 360 digits to test on."
        ),
        tested=[
            Tested(
                "The test error peaks where features just suffice to learn the data by heart.",
                [above(n, errors[n][:, :edge].min(1), "the best of fewer") for n in config.noise],
            ),
            Tested(
                "Beyond, it falls again.",
                [above(n, errors[n][:, -1], f"{ratios[-1]:g} times as many") for n in config.noise],
            ),
            Tested(
                "More features than examples end below the best of fewer: the second descent goes "
                "deeper than the first.",
                [
                    Comparison(
                        f"with {n:.0%} wrong labels",
                        "test error",
                        Arm(f"{ratios[-1]:g} times as many", errors[n][:, -1]),
                        Arm("the best of fewer", errors[n][:, :edge].min(1)),
                        "less",
                        0.0,
                    )
                    for n in config.noise
                ],
            ),
        ],
        seen=[_picture(config, errors)],
        notes=(
            "The best of fewer is chosen by the test digits themselves, which speaks against the "
            "last sentence, not for it."
        ),
    )


def _errors(config: Config, noise: float, keys: Key) -> np.ndarray:
    """`[seeds, ratios]`"""
    widths = [max(1, round(ratio * config.examples)) for ratio in config.ratios]
    found = [jax.jit(jax.vmap(partial(_error, config, noise, width)))(keys) for width in widths]
    return np.stack(list(map(np.asarray, found)), 1)


def _error(config: Config, noise: float, width: int, key: Key) -> Array:
    rows_key, wrong_key, drawn_key, features_key = jax.random.split(key, 4)
    data = digits()
    rows = jax.random.permutation(rows_key, len(data.train["y"]))[: config.examples]
    x, y = data.train["x"][rows], data.train["y"][rows]
    drawn = jax.random.randint(drawn_key, y.shape, 0, 10)
    y = jnp.where(jax.random.uniform(wrong_key, y.shape) < noise, drawn, y)
    kernel = jax.random.normal(features_key, (x.shape[1], width)) / jnp.sqrt(x.shape[1])
    return jnp.mean(
        jnp.argmax(features(data.test["x"], kernel) @ fitted(features(x, kernel), y), 1)
        != data.test["y"]
    )


def features(x: Array, kernel: Array) -> Array:
    """`max(0, x W)`, by the root of how many there are."""
    return jax.nn.relu(x @ kernel) / jnp.sqrt(kernel.shape[1])


def fitted(phi: Array, y: Array) -> Array:
    """`Φ⁺ Y`, with Y one-hot, less the share of each class by chance: `[features, 10]`."""
    return jnp.linalg.pinv(phi, rtol=1e-6) @ (jax.nn.one_hot(y, 10) - 0.1)


def _picture(config: Config, errors: dict[float, np.ndarray]) -> Seen:
    with panels(["test error"]) as (figure, (axes,)):
        lines = {f"{noise:.0%} wrong labels": 100 * e for noise, e in errors.items()}
        draw_lines(
            axes, config.ratios, lines, x_label="features by examples", y_label="%",
            log_x=True, log_y=True,
        )  # fmt: skip
        axes.axvline(1, color="#888888", linestyle=":", linewidth=1)
        axes.legend()
    return Seen(
        figure,
        "Dotted: as many features as examples. Median of seeds; the band is from the least to the "
        "greatest.",
    )
