"""Minima of separately trained nets: how good each is, and whether a low path joins them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import modes_pictures as pictures_of
from experiments.claims.claim import Outcome, Tested
from experiments.claims.training import Batch, digits, error_rate, fit, mlp_loss
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

TITLE = "Local minima and the paths between them"

POINTS = 21
"""Along a path, its ends included."""
LEAST = 1e-4
"""Nats; lower barriers are none."""


@dataclass(frozen=True)
class Config:
    """Nets of one hidden layer, the same but for their initial weights and batches."""

    widths: tuple[int, ...] = (8, 128)
    """Narrow and wide."""
    starts: int = 6
    """Nets for each seed; paths are between the first two."""
    rate: float = 1e-3
    """Of Adam."""
    steps: int = 6000
    batch_size: int = 64
    curve_steps: int = 2000
    """Of training a bend between two nets."""


FULL = Config()
QUICK = Config(starts=4, steps=2500, curve_steps=800)


def examine(config: Config, keys: Key) -> Outcome:
    """The rise of the training loss on three paths between two nets, by width."""
    narrow, wide = config.widths
    nets = {width: _trained(config, width, keys) for width in config.widths}
    paths = {width: _paths(config, width, nets[width], keys) for width in config.widths}
    judged = {
        width: [np.asarray(x) for x in jax.jit(jax.vmap(jax.vmap(partial(_judged, width))))(of)]
        for width, of in nets.items()
    }
    barrier = {
        width: {name: _barrier(losses) for name, losses in found.items()}
        for width, found in paths.items()
    }

    def lower(treated: str, width: int) -> Comparison:
        return Comparison(
            f"with {width} units", "barrier, nats",
            Arm(treated, barrier[width][treated], floor=LEAST),
            Arm("straight", barrier[width]["straight"], floor=LEAST),
            "less", 2.0, ratio=True,
        )  # fmt: skip

    def spread(width: int, what: str, values: np.ndarray, expected: Expected, margin: float) -> Any:
        return Comparison(
            f"with {width} units, by {what}", what,
            Arm(f"the worst of {config.starts}", values.max(1)),
            Arm("the best", values.min(1)),
            expected, margin,
        )  # fmt: skip

    def mean_loss(width: int) -> Arm:
        return Arm(f"{width} units", np.maximum(judged[width][0].mean(1), 1e-6), floor=1e-6)

    return Outcome(
        setting=(
            f"Digits; MLPs with one layer of {narrow} or {wide} relu units, Adam at "
            f"{config.rate:g}, {config.steps} steps of {config.batch_size}. For each seed "
            f"{config.starts} nets are trained, of other initial weights and batches; minima are "
            "equally good if the worst of these is not above the best by more than 0.01 nats, or 2 "
            "points of test error. The barrier is the highest training loss on the way from the "
            "first to the second above the straight line between its ends (at least 1e-4): on the "
            "segment; on that to the second net with its hidden units in the order in which they "
            "match the first's best, which leaves it the same function; "
            f"and on a curve with one bend (Bézier's), which is trained for {config.curve_steps} "
            "steps (Garipov et al., 2018)."
        ),
        tested=[
            Tested(
                "Wide nets end in minima that are equally good, whatever the start.",
                [
                    spread(wide, "training loss", judged[wide][0], "not more", 0.01),
                    spread(wide, "test error", judged[wide][1], "not more", 0.02),
                ],
            ),
            Tested(
                "In narrow nets some starts end higher than others.",
                [spread(narrow, "training loss", judged[narrow][0], "more", 0.01)],
            ),
            Tested(
                "A wide net's minimum is lower than a narrow one's after as many steps.",
                [
                    Comparison(
                        "on the digits",
                        "training loss, nats",
                        mean_loss(wide),
                        mean_loss(narrow),
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
                        Arm("on the way", barrier[width]["straight"], floor=LEAST),
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
        seen=[pictures_of.paths(paths), pictures_of.minima(judged), pictures_of.barriers(barrier)],
    )


def _shape(width: int) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=(width,))


def _trained(config: Config, width: int, keys: Key) -> Params:
    """`[seeds, starts, …]`."""
    shape, data = _shape(width), digits().train

    def trained(key: Key) -> Params:
        init_key, run_key = jax.random.split(key)
        return fit(
            mlp_loss(shape), optim.adam(config.rate), models.init_mlp(init_key, shape), data,
            key=run_key, steps=config.steps, batch_size=config.batch_size,
        ).params  # fmt: skip

    starts = jax.vmap(lambda key: jax.random.split(key, config.starts))(keys)
    return jax.jit(jax.vmap(jax.vmap(trained)))(starts)


def _judged(width: int, params: Params) -> tuple[Array, Array]:
    """Training loss and test error."""
    data = digits()
    logits = models.mlp(params, _shape(width), data.test["x"])
    return mlp_loss(_shape(width))(params, data.train, None), error_rate(logits, data.test["y"])


def _paths(config: Config, width: int, nets: Params, keys: Key) -> dict[str, np.ndarray]:
    """The training loss along each way between two nets of a seed: `[seeds, POINTS]`."""
    loss, data = mlp_loss(_shape(width)), digits().train
    first, second = (jax.tree.map(lambda x, i=i: x[:, i], nets) for i in (0, 1))
    matched = match_units(first, second)
    at = jnp.linspace(0, 1, POINTS)

    def along(a: Params, b: Params, bend: Params) -> Array:
        losses: Array = jax.lax.map(lambda t: loss(_between(a, b, bend, t), data, None), at)
        return losses

    def bent(key: Key, a: Params, b: Params) -> Params:
        def on_curve(bend: Params, batch: Batch, key: Key) -> Array:
            return loss(_between(a, b, bend, jax.random.uniform(key)), batch, None)

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
    """`[seeds]`, at least `LEAST`."""
    t = np.linspace(0, 1, losses.shape[1])
    line = (1 - t) * losses[:, :1] + t * losses[:, -1:]
    return np.asarray(np.maximum((losses - line).max(1), LEAST))
