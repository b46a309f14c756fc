"""Double descent: the test error beyond the width at which the training data are just learnt."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import between, least, taken
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.few_digits import with_wrong_labels
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import digits
from experiments.claims.verdict import Comparison, Expected
from jaxnets.types import Array, Key

TITLE = "Double descent"


@dataclass(frozen=True)
class Config:
    """Least squares on random relu features, of least norm where many fit."""

    examples: int = 300
    """To train on, drawn by seed."""
    validation: int = 300
    """Others of the training digits, which choose the best of fewer features."""
    noise: tuple[float, ...] = (0.0, 0.2)
    """Shares of their labels that are wrong."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
    """Features by examples."""


FULL = Config(examples=1000)
QUICK = Config()


def examine(config: Config, keys: Key) -> Outcome:
    """Test errors by the number of features."""
    held_out, errors = {}, {}
    for noise in config.noise:
        held_out[noise], errors[noise] = _errors(config, noise, keys)
    ratios = np.asarray(config.ratios)
    edge = int(np.argmin(np.abs(ratios - 1)))
    peak, fewer, many = (
        "as many features as examples", "the best of fewer", f"{ratios[-1]:g} times as many",
    )  # fmt: skip
    arms = {
        noise: {
            peak: error[:, edge],
            fewer: taken(error, least(held_out[noise][:, :edge])),
            many: error[:, -1],
        }
        for noise, error in errors.items()
    }

    def errs(treated: str, control: str, expected: Expected, margin: float) -> list[Comparison]:
        return [
            between(
                of_noise, treated, control, where=f"with {noise:.0%} wrong labels",
                quantity="test error", expected=expected, margin=margin,
            )
            for noise, of_noise in arms.items()
        ]  # fmt: skip

    return Outcome(
        setting=(
            f"{config.examples} digits, drawn by seed; least squares from max(0, x W) to the ten "
            "classes, W random and fixed, by the pseudo-inverse: exactly the weights of least norm "
            f"where many fit. The best number of fewer features is chosen by {config.validation} "
            "other training digits, for each seed; 360 digits to test on."
        ),
        tested=[
            Tested(
                "The test error peaks where features just suffice to learn the data by heart.",
                errs(peak, fewer, "more", 0.02),
            ),
            Tested("Beyond, it falls again.", errs(peak, many, "more", 0.02)),
            Tested(
                "More features than examples end below the best of fewer: the second descent goes "
                "deeper than the first.",
                errs(many, fewer, "less", 0.0),
            ),
        ],
        seen=[_picture(config, errors)],
        notes=(
            "The other digits that choose have true labels. The best of fewer has a choice that "
            f"the {ratios[-1]:g} times as many have not."
        ),
    )


def _errors(config: Config, noise: float, keys: Key) -> tuple[np.ndarray, np.ndarray]:
    """On validation and on test digits, each `[seeds, ratios]`."""
    widths = [max(1, round(ratio * config.examples)) for ratio in config.ratios]
    found = [jax.jit(jax.vmap(partial(_error, config, noise, width)))(keys) for width in widths]
    held_out, errors = (np.stack(list(map(np.asarray, of)), 1) for of in zip(*found, strict=True))
    return held_out, errors


def _error(config: Config, noise: float, width: int, key: Key) -> tuple[Array, Array]:
    rows_key, wrong_key, features_key = jax.random.split(key, 3)
    data = digits()
    rows = jax.random.permutation(rows_key, len(data.train["y"]))
    few, held = rows[: config.examples], rows[config.examples :][: config.validation]
    x, y = data.train["x"][few], data.train["y"][few]
    y = with_wrong_labels(wrong_key, y, noise)
    kernel = jax.random.normal(features_key, (x.shape[1], width)) / jnp.sqrt(x.shape[1])
    weights = fitted(features(x, kernel), y)

    def wrong(x: Array, y: Array) -> Array:
        return jnp.mean(jnp.argmax(features(x, kernel) @ weights, 1) != y)

    return wrong(data.train["x"][held], data.train["y"][held]), wrong(**data.test)


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
