"""Minima of separately trained nets: how good each is, and whether a low path joins them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import Batch, cross_entropy, digits, fit
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

TITLE = "Local minima and the paths between them"

POINTS = 21
"""Along a path, its ends included."""


@dataclass(frozen=True)
class Config:
    """Pairs of nets of one hidden layer, the same but for their initial weights and batches."""

    widths: tuple[int, ...] = (8, 128)
    """Narrow and wide."""
    rate: float = 1e-3
    """Of Adam."""
    steps: int = 6000
    batch_size: int = 64
    curve_steps: int = 2000
    """Of training a bend between two nets."""


FULL = Config()
QUICK = Config(steps=2500, curve_steps=800)


def examine(config: Config, keys: Key) -> Outcome:
    """The rise of the training loss on three paths between two nets, by width."""
    paths = {width: _paths(config, width, keys) for width in config.widths}
    narrow, wide = config.widths
    ends = {width: found["straight"][:, [0, -1]] for width, found in paths.items()}
    barrier = {
        width: {name: _barrier(losses) for name, losses in found.items()}
        for width, found in paths.items()
    }

    def lower(treated: str, width: int) -> Comparison:
        return Comparison(
            f"with {width} units", "barrier, nats",
            Arm(treated, barrier[width][treated]), Arm("straight", barrier[width]["straight"]),
            "less", 2.0, ratio=True,
        )  # fmt: skip

    return Outcome(
        setting=(
            f"Digits; MLPs with one layer of {narrow} or {wide} relu units, Adam at "
            f"{config.rate:g}, {config.steps} steps of {config.batch_size}. For each seed two nets "
            "are trained, of other initial weights and batches. The barrier is the highest "
            "training loss on the way from one to the other above the straight line between its "
            "ends (at least 1e-4): on the segment; on that to the second net with its hidden units "
            "in the order in which they match the first's best, which leaves it the same function; "
            f"and on a curve with one bend (Bézier's), which is trained for {config.curve_steps} "
            "steps (Garipov et al., 2018)."
        ),
        tested=[
            Tested(
                "Wide nets end in minima that are equally good, whatever the start.",
                [
                    Comparison(
                        f"with {wide} units",
                        "training loss of the two nets of a seed, nats",
                        Arm("the one", ends[wide][:, 0]),
                        Arm("the other", ends[wide][:, 1]),
                        "same",
                        0.01,
                    )
                ],
            ),
            Tested(
                "A wide net's minimum is lower than a narrow one's.",
                [
                    Comparison(
                        "on the digits",
                        "training loss, nats",
                        Arm(f"{wide} units", np.maximum(ends[wide].mean(1), 1e-6)),
                        Arm(f"{narrow} units", np.maximum(ends[narrow].mean(1), 1e-6)),
                        "less",
                        2.0,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "On the straight way from one minimum to another the loss rises.",
                [
                    Comparison(
                        f"with {width} units",
                        "highest loss above the ends', nats",
                        Arm("on the way", barrier[width]["straight"]),
                        Arm("at the ends", np.zeros(len(keys))),
                        "more",
                        0.1,
                    )
                    for width in config.widths
                ],
            ),
            Tested(
                "Most of that is the units' order: once they match, the barrier is lower.",
                [lower("matched", width) for width in config.widths],
            ),
            Tested(
                "A curved way joins the minima with a fraction of that barrier.",
                [lower("curved", width) for width in config.widths],
            ),
        ],
        seen=[_picture(paths)],
    )


def _shape(width: int) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=(width,))


def _paths(config: Config, width: int, keys: Key) -> dict[str, np.ndarray]:
    """The training loss along each way between the two nets of a seed: `[seeds, POINTS]`."""
    shape, data = _shape(width), digits().train

    def loss(params: Params, batch: Batch, key: Key | None = None) -> Array:
        return cross_entropy(models.mlp(params, shape, batch["x"]), batch["y"])

    def trained(key: Key) -> Params:
        init_key, run_key = jax.random.split(key)
        return fit(
            loss, optim.adam(config.rate), models.init_mlp(init_key, shape), data,
            key=run_key, steps=config.steps, batch_size=config.batch_size,
        ).params  # fmt: skip

    pairs = jax.jit(jax.vmap(jax.vmap(trained)))(jax.vmap(lambda k: jax.random.split(k, 2))(keys))
    first, second = (jax.tree.map(lambda x, i=i: x[:, i], pairs) for i in (0, 1))
    matched = match_units(first, second)
    at = jnp.linspace(0, 1, POINTS)

    def along(a: Params, b: Params, bend: Params) -> Array:
        losses: Array = jax.lax.map(lambda t: loss(_between(a, b, bend, t), data), at)
        return losses

    def bent(key: Key, a: Params, b: Params) -> Params:
        def on_curve(bend: Params, batch: Batch, key: Key) -> Array:
            return loss(_between(a, b, bend, jax.random.uniform(key)), batch)

        return fit(
            on_curve, optim.adam(config.rate), _middle(a, b), data,
            key=key, steps=config.curve_steps, batch_size=config.batch_size,
        ).params  # fmt: skip

    def straight(a: Params, b: Params) -> Array:
        return along(a, b, _middle(a, b))

    bends = jax.jit(jax.vmap(bent))(keys, first, second)
    return {
        "straight": np.asarray(jax.jit(jax.vmap(straight))(first, second)),
        "matched": np.asarray(jax.jit(jax.vmap(straight))(first, matched)),
        "curved": np.asarray(jax.jit(jax.vmap(along))(first, second, bends)),
    }


def _middle(a: Params, b: Params) -> Params:
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


def _between(a: Params, b: Params, bend: Params, t: Any) -> Params:
    """`(1 - t)² a + 2 t (1 - t) bend + t² b`: the segment itself, where the bend is its middle."""
    return jax.tree.map(
        lambda x, y, z: (1 - t) ** 2 * x + 2 * t * (1 - t) * z + t**2 * y, a, b, bend
    )


def match_units(first: Params, second: Params) -> Params:
    """The second nets `[seeds, …]` with their hidden units in the order that fits the first best.

    By the inner products of all weights of a unit (Ainsworth, Hayase and Srinivasa, 2022); for one
    hidden layer the assignment is exact, and the nets remain the same functions.
    """
    from scipy.optimize import linear_sum_assignment

    def weights(params: Params) -> np.ndarray:
        hidden, out = params["layers"]
        parts = [np.swapaxes(hidden["kernel"], 1, 2), hidden["bias"][..., None], out["kernel"]]
        return np.concatenate(list(map(np.asarray, parts)), -1)

    alike = np.einsum("sud,svd->suv", weights(first), weights(second))
    orders = jnp.asarray(np.stack([linear_sum_assignment(-table)[1] for table in alike]))

    def reorder(params: Params, order: Array) -> Params:
        hidden, out = params["layers"]
        return {
            "layers": [
                {"kernel": hidden["kernel"][:, order], "bias": hidden["bias"][order]},
                {"kernel": out["kernel"][order], "bias": out["bias"]},
            ]
        }

    return jax.vmap(reorder)(second, orders)


def _barrier(losses: np.ndarray) -> np.ndarray:
    """`[seeds]`, at least 1e-4."""
    t = np.linspace(0, 1, losses.shape[1])
    line = (1 - t) * losses[:, :1] + t * losses[:, -1:]
    return np.asarray(np.maximum((losses - line).max(1), 1e-4))


def _picture(paths: dict[int, dict[str, np.ndarray]]) -> Seen:
    with panels([f"{width} units" for width in paths]) as (figure, row):
        for axes, found in zip(row, paths.values(), strict=True):
            at = np.linspace(0, 1, POINTS)
            lines = {name: np.maximum(losses, 1e-5) for name, losses in found.items()}
            draw_lines(axes, at, lines, x_label="from one net to the other", log_y=True,
                       marked=False)  # fmt: skip
        row[0].set_ylabel("training loss, nats")
        row[-1].legend(loc="lower center")
    return Seen(
        figure,
        "The loss on the way between two nets that were trained apart. Median of seeds; the band "
        "is from the least to the greatest.",
    )
