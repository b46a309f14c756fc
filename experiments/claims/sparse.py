"""Softmax regression on features of which many are rare, the same rotated, and its optimum."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_seeds, panels
from experiments.claims.rates import best_of_others
from experiments.claims.training import (
    Batch,
    cross_entropy,
    digits,
    fit,
    rates_around,
    sweep,
)
from jaxnets import nn, optim
from jaxnets.types import Array, Key, Params

LEVELS, CLASSES = 17, 10
PENALTY = 1e-3
"""Of half the squared kernel: without it the digits are separable, and no rate too high."""
LEAST = 1e-6
"""Of the objective above its least; less is rounding."""
RARE, FREQUENT = 0.05, 0.2
"""Features of a smaller share of the digits, and of a larger one."""


class Problem(NamedTuple):
    """Digits whose pixels are one-hot in 17 intensities: 64 of 1,088 features are 1."""

    x: np.ndarray
    """`[n, 1088]`"""
    y: np.ndarray
    rotated: np.ndarray
    """`x` times a random rotation: the same problem to gradient descent and to the penalty, whose
    every feature is dense."""
    kernel: np.ndarray
    """Where the objective is least."""
    least: float
    """The objective there."""


def one_hot(x: np.ndarray) -> np.ndarray:
    """`[n, 64]` pixels as `[n, 64 · 17]` indicators of their intensities."""
    level = np.rint((x - x.min()) / (x.max() - x.min()) * (LEVELS - 1)).astype(int)
    return np.asarray(np.eye(LEVELS, dtype=np.float32)[level].reshape(len(x), -1))


@cache
def problem() -> Problem:
    """Of all digits that are trained on; its optimum by L-BFGS in float64."""
    from scipy.optimize import minimize
    from scipy.sparse import csr_array

    data = digits().train
    x, y = one_hot(np.asarray(data["x"])), np.asarray(data["y"])
    few, wanted = csr_array(x.astype(np.float64)), np.eye(CLASSES)[y]
    split = x.shape[1] * CLASSES

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[:split].reshape(-1, CLASSES), flat[split:]
        logits = few @ kernel + bias
        logits = logits - logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        missed = (np.exp(logs) - wanted) / len(y)
        value = -np.mean(logs[wanted > 0]) + PENALTY / 2 * np.sum(kernel**2)
        slopes = few.T @ missed + PENALTY * kernel
        return value, np.concatenate([slopes.ravel(), missed.sum(0)])

    found = minimize(
        value_and_gradient, np.zeros(split + CLASSES), jac=True, method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-7},
    )  # fmt: skip
    square = np.random.default_rng(0).normal(size=(x.shape[1], x.shape[1]))
    rotation = np.linalg.qr(square)[0]
    rotated = (few @ rotation).astype(np.float32)
    return Problem(x, y, rotated, found.x[:split].reshape(-1, CLASSES), float(found.fun))


def objective(params: Params, x: Array, y: Array) -> Array:
    """Cross-entropy and penalty."""
    penalty = PENALTY / 2 * jnp.sum(params["kernel"] ** 2)
    return cross_entropy(nn.dense(params, x), y) + penalty


def distances(kernel: Array) -> Array:
    """From the optimum, of the weights of rare features and of frequent ones, relative: `[2]`."""
    best = problem()
    shares = best.x.mean(0)
    rows = jnp.asarray(np.stack([(shares > 0) & (shares < RARE), shares > FREQUENT]))
    optimum = jnp.asarray(best.kernel, jnp.float32)

    def norm(rows: Array, values: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.where(rows[:, None], values, 0.0) ** 2))

    norms = jax.vmap(norm, (0, None))
    return norms(rows, kernel - optimum) / norms(rows, optimum)


def falling(rate: Any) -> optim.GradientTransformation:
    """SGD at `rate / √step`: what Adagrad's rate does where gradients keep their size."""
    return optim.sgd(lambda step: rate / jnp.sqrt(1.0 + step))


OPTIMIZERS: dict[str, dict[Any, tuple[float, float]]] = {
    "SGD": {falling: (0.1, 100.0), optim.sgd: (0.01, 10.0)},
    "Adagrad": {optim.adagrad: (0.01, 10.0)},
}
"""Ways to run each, with the rates between which the best is looked for."""


class Fitted(NamedTuple):
    """`[seeds]` each, at the best rate of the other seeds."""

    excess: np.ndarray
    """Of the objective, over its least."""
    rare: np.ndarray
    """Distance from the optimum of the weights of rare features, relative; of frequent ones."""
    frequent: np.ndarray


def regression(config: Any, name: str, x: np.ndarray, keys: Key) -> Fitted:
    """Of `problem()`'s classes on `x [n, features]`, by the better way to run an optimizer."""
    ways = [_fitted(config, make, ends, x, keys) for make, ends in OPTIMIZERS[name].items()]
    return min(ways, key=lambda fitted: float(np.mean(np.log(fitted.excess))))


def _fitted(config: Any, make: Any, ends: tuple[float, float], x: np.ndarray, keys: Key) -> Fitted:
    rates = rates_around(*ends, config.per_decade)
    data = {"x": jnp.asarray(x), "y": jnp.asarray(problem().y)}

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return objective(params, batch["x"], batch["y"])

    def run(key: Key, rate: Array) -> tuple[Array, Array]:
        params = {"kernel": jnp.zeros((x.shape[1], CLASSES)), "bias": jnp.zeros(CLASSES)}
        trained = fit(
            loss, make(rate), params, data,
            key=key, steps=config.sparse_steps, batch_size=config.batch_size,
        ).params  # fmt: skip
        excess = jnp.nan_to_num(loss(trained, data, key) - problem().least, nan=1e3)
        return jnp.maximum(excess, LEAST), distances(trained["kernel"])

    excess, apart = map(np.asarray, sweep(run, keys, rates))
    best = best_of_others(rates, excess)
    seeds = np.arange(len(best))
    return Fitted(excess[seeds, best], *apart[seeds, best].T)


def picture(rare: dict[str, Fitted], dense: dict[str, Fitted]) -> Seen:
    """Of objectives with sparse and dense features, and of distances with sparse ones."""
    titles = ["objective above its least", "distance from the optimum, one-hot"]
    with panels(titles, share_y=False) as (figure, (left, right)):
        excess = {
            f"{name}\n{what}": found[name].excess
            for what, found in (("one-hot", rare), ("rotated", dense))
            for name in rare
        }
        apart = {
            f"{name}\n{what}": getattr(found, what)
            for what in ("rare", "frequent")
            for name, found in rare.items()
        }
        # an optimizer has its colour with both kinds of features
        colors = list(range(len(rare))) * 2
        draw_seeds(left, excess, y_label="nats", log_y=True, colors=colors)
        draw_seeds(right, apart, y_label="relative", log_y=True, colors=colors)
    return Seen(
        figure,
        "Softmax regression on pixels as indicators of their intensities, and the same rotated, "
        "where no feature is rare: a point for each seed, and their mean. SGD's runs stand for "
        "both.",
    )
