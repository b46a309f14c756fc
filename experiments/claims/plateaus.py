"""Where training stands still: is it in a minimum?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, draw_seeds, panels
from experiments.claims.training import Batch, digits, fit, mlp_loss
from experiments.claims.verdict import Arm, Comparison
from jaxnets import gradients, models, optim, tree
from jaxnets.types import Array, Key, Params

TITLE = "Plateaus, not local minima"

LEAST = 1e-6
"""Of a share of curvature; less is rounding."""


@dataclass(frozen=True)
class Config:
    """A deep sigmoid net, whose loss stands at ln 10 before it falls."""

    layers: int = 5
    width: int = 32
    examples: int = 360
    rate: float = 1.0
    steps: int = 3000
    every: int = 5
    """Steps between two looks."""
    left: float = 2.0
    """The loss at which the first standstill is over, nats; ln 10 is 2.3."""
    products: int = 60
    """With the Hessian, for its outermost eigenvalues by Lanczos's process."""


FULL = Config(examples=1437)
QUICK = Config()


def examine(config: Config, keys: Key) -> Outcome:
    """Gradient and curvature where the loss stands still, and at the end."""
    losses, slopes, params = jax.jit(jax.vmap(partial(_looks, config)))(keys)
    losses, slopes = np.asarray(losses), np.asarray(slopes)
    seeds, still = np.arange(len(losses)), still_at(losses, slopes, config.left)
    downward = {
        name: np.maximum(
            jax.jit(jax.vmap(partial(_downward, config)))(
                jax.tree.map(lambda leaf, at=at: leaf[seeds, at], params), keys
            ),
            LEAST,
        )
        for name, at in (("still", still), ("end", np.full(len(seeds), -1)))
    }

    def than(what: str, at_still: Arm, other: Arm, expected: Literal["more", "less"]) -> Comparison:
        where = "through sigmoid layers"
        return Comparison(where, what, at_still, other, expected, 3.0, ratio=True)

    def there(values: np.ndarray, floor: float = -np.inf) -> Arm:
        return Arm("there", values, floor=floor)

    return Outcome(
        setting=(
            f"The first {config.examples} digits, an MLP of {config.layers} layers of "
            f"{config.width} sigmoid units, gradient descent on all of them at a rate of "
            f"{config.rate:g}, {config.steps} steps. It stands still until the loss is first "
            f"below {config.left:g} nats (that of who knows nothing is 2.3); its slope is the "
            f"median of the gradient's norms at all looks until then, every {config.every} steps. "
            "(In a first run it was the least of them: of so many looks one is always low.) "
            "Curvature: the lowest eigenvalue of the Hessian where the gradient's norm is least "
            f"until then, nearest to a minimum if there is one, by {config.products} products in "
            "Lanczos's process, as a share of the highest; in a minimum it is not negative. The "
            "margin of all is a factor of 3. After a first run with three layers, "
            "which stood still for 20 steps only, there are five; and slopes are compared with "
            "that where the loss is first below half of ln 10, since the greatest one was that of "
            "a moment of instability."
        ),
        tested=[
            Tested(
                "Where a deep net first stands still, the slope is small, as near a minimum.",
                [
                    than(
                        "norm of the gradient",
                        Arm("while it stands", median_slope(losses, slopes, config.left)),
                        Arm("halfway down", slopes[seeds, halfway(losses)]),
                        "less",
                    )
                ],
            ),
            Tested(
                "But it is none: the loss curves down to some side, more than where training ends.",
                [
                    than(
                        "downward curvature by the highest upward",
                        there(downward["still"], LEAST),
                        Arm("at the end", downward["end"], floor=LEAST),
                        "more",
                    )
                ],
            ),
            Tested(
                "The net gets off it by itself.",
                [
                    than(
                        "training loss, nats",
                        there(losses[seeds, still]),
                        Arm("at the end", losses[:, -1]),
                        "more",
                    )
                ],
            ),
        ],
        seen=[_picture(config, losses, slopes), _curvatures(downward)],
        notes=(
            f"They stand still at step {_listed(config.every * (1 + still))}, at a loss of "
            f"{_listed(losses[seeds, still])}; downward curvature there by the highest upward: "
            f"{_listed(downward['still'])}, at the end {_listed(downward['end'])}."
        ),
    )


def still_at(losses: np.ndarray, slopes: np.ndarray, left: float) -> np.ndarray:
    """`[seeds]`: the look with the least slope, of `[seeds, looks]`, before the loss is below a
    bound; all of them where it never is.
    """
    return np.asarray(np.argmin(np.where(_before(losses, left), slopes, np.inf), 1))


def _before(losses: np.ndarray, left: float) -> np.ndarray:
    """`[seeds, looks]`: those before the loss is first below the bound."""
    before = np.cumsum(losses < left, 1) == 0
    # where the first look is below already, there was no standstill but that one
    before[:, 0] = True
    return np.asarray(before)


def median_slope(losses: np.ndarray, slopes: np.ndarray, left: float) -> np.ndarray:
    """`[seeds]`: of the looks among which `still_at` finds the least."""
    return np.asarray(np.nanmedian(np.where(_before(losses, left), slopes, np.nan), 1))


def halfway(losses: np.ndarray) -> np.ndarray:
    """`[seeds]`: the look at which the loss is first below half of ln 10; the last if it never is.

    A greatest slope would be that of some moment of instability.
    """
    below = losses < np.log(10) / 2
    return np.asarray(np.where(below.any(1), np.argmax(below, 1), losses.shape[1] - 1))


def _shape(config: Config) -> models.MLPConfig:
    hidden = (config.width,) * config.layers
    return models.MLPConfig(64, 10, hidden=hidden, activation=jax.nn.sigmoid)


def _data(config: Config) -> Batch:
    data = digits().train
    return {name: leaf[: config.examples] for name, leaf in data.items()}


def _looks(config: Config, key: Key) -> tuple[Array, Array, Params]:
    """Loss, gradient's norm and parameters after each `every` steps."""
    init_key, run_key = jax.random.split(key)
    loss, data = mlp_loss(_shape(config)), _data(config)

    def look(params: Params) -> tuple[Array, Array, Params]:
        value, gradient = jax.value_and_grad(loss)(params, data, None)
        return value, tree.global_norm(gradient), params

    seen: tuple[Array, Array, Params] = fit(
        loss, optim.sgd(config.rate), models.init_mlp(init_key, _shape(config)), data,
        key=run_key, steps=config.steps, batch_size=config.examples, record=look,
        every=config.every,
    ).records  # fmt: skip
    return seen


def _downward(config: Config, params: Params, key: Key) -> Array:
    """How far the Hessian's lowest eigenvalue is below 0, by its highest one."""
    product = gradients.hvp(mlp_loss(_shape(config)))(params, _data(config), None)

    def highest(product: Callable[[Params], Params]) -> Array:
        found = gradients.top_eigenvalues(product, params, key, steps=config.products)
        return found.values[0]

    return highest(lambda v: jax.tree.map(jnp.negative, product(v))) / highest(product)


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _picture(config: Config, losses: np.ndarray, slopes: np.ndarray) -> Seen:
    with panels(["training loss, nats", "norm of the gradient"], share_y=False) as (figure, row):
        steps = config.every * (1 + np.arange(losses.shape[1]))
        for axes, values in zip(row, (losses, slopes), strict=True):
            draw_lines(
                axes, steps, {"plain": values}, x_label="step", log_x=True, log_y=True,
                marked=False,
            )  # fmt: skip
    return Seen(
        figure,
        "A net of sigmoid layers stands at a loss of ln 10, then falls. Median of seeds; the band "
        "is from the least to the greatest.",
    )


def _curvatures(downward: dict[str, np.ndarray]) -> Seen:
    names = {"still": "where it stands still", "end": "at the end"}
    with panels(["downward curvature"]) as (figure, (axes,)):
        groups = {names[name]: values for name, values in downward.items()}
        draw_seeds(axes, groups, y_label="by the highest upward", log_y=True)
    return Seen(
        figure,
        "The lowest eigenvalue of the Hessian, as far as it is below 0, by the highest one: a "
        "point for each seed, and their mean.",
    )
