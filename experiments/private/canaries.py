"""One audited run: canaries among the images, each there or not by a coin, and guesses at that.

A canary is the strongest example there can be, one whose gradient no other shares: its loss is
`2 C wᵢ`, of a parameter `wᵢ` that it alone has, next to the net's. Clipping cuts its gradient to
`C eᵢ`; sampling, noise and accounting treat it as any image, and the net trains beside it.

Who guesses sees what DP-SGD's accounting supposes is seen, every noisy gradient, and knows all but
the coins and who was drawn. A canary's score is the sum over steps of its entry of the gradients;
those with the highest scores are said to have been there, and those with the lowest not.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import named_optimizers
from experiments.classification import Batch, example_loss
from experiments.optimizers.images import Split
from experiments.private.bound import lower_bound
from experiments.private.classifier import accuracy, logits
from experiments.private.training import Schedule, descend
from jaxnets import models
from jaxnets.types import Array, ArrayLike, Params


class Scores(NamedTuple):
    """What an audited run gave."""

    coins: Array
    """`[canaries]`, whether each was in the data."""
    scores: Array
    """`[canaries]`, the higher the more likely."""
    test: Array
    """The net's test accuracy."""


class Guesses(NamedTuple):
    """How good the guesses are, and what they prove."""

    made: int
    right: int
    bound: float
    """On `ε`, from below, at 95 % confidence."""


class Audited(NamedTuple):
    """One audited run, judged."""

    noise_multiplier: float
    share: float
    """Of the noise that the promise needs."""
    seed: int
    coins: np.ndarray
    scores: np.ndarray
    guesses: Guesses
    test: float
    """The net's test accuracy."""


def planted(train: Batch, canaries: int) -> Batch:
    """The images and the canaries; `"canary"` is -1 for images, else its number."""
    n = len(train["y"])

    def behind(leaf: Array) -> Array:
        return jnp.concatenate([leaf, jnp.zeros((canaries, *leaf.shape[1:]), leaf.dtype)])

    number = jnp.concatenate([jnp.full(n, -1), jnp.arange(canaries)])
    images: Batch = jax.tree.map(behind, train)
    return images | {"canary": number}


def make_audit(
    model: models.MLPConfig, optimizer: str, schedule: Schedule, canaries: int
) -> Callable[..., Scores]:
    """`run(seed, data, learning_rate, noise_multiplier, clip_norm) -> Scores`, compiled.

    Args:
      model: the net.
      optimizer: by its name in `named_optimizers`.
      schedule: see there; `n` is that of images and canaries.
      canaries: how many.
    """

    @jax.jit
    def run(
        seed: ArrayLike,
        data: Split,
        learning_rate: ArrayLike,
        noise_multiplier: ArrayLike,
        clip_norm: ArrayLike,
    ) -> Scores:
        init_key, run_key, coin_key = jax.random.split(jax.random.key(seed), 3)
        coins = jax.random.bernoulli(coin_key, 0.5, (canaries,))
        images = schedule.n - canaries

        def loss(params: Params, example: Batch) -> Array:
            of_image = example_loss(logits(params["net"], model, example["x"]), example["y"])
            of_canary = 2 * clip_norm * params["canaries"][example["canary"]]
            return jnp.where(example["canary"] < 0, of_image, of_canary)

        train = descend(
            loss,
            named_optimizers.make(optimizer, learning_rate),
            schedule,
            watch=lambda params: (),
            release=lambda gradient: gradient["canaries"],
        )
        params, trace = train(
            {"net": models.init_mlp(init_key, model), "canaries": jnp.zeros(canaries)},
            planted(data.train, canaries),
            run_key,
            clip_norm,
            noise_multiplier,
            jnp.concatenate([jnp.ones(images, bool), coins]),
        )
        return Scores(coins, trace.released, accuracy(params["net"], model, data.test))

    return run


def guess(coins: np.ndarray, scores: np.ndarray, guesses: int, delta: float) -> Guesses:
    """Half of the guesses for the highest scores, "there", and half for the lowest, "not there".

    Args:
      coins: boolean `[m]`.
      scores: `[m]`.
      guesses: how many, chosen beforehand; even, at most `m`.
      delta: `δ` of the promise that is audited.
    """
    half = guesses // 2
    order = np.argsort(scores)
    right = int(coins[order[-half:]].sum() + (~coins[order[:half]]).sum())
    return Guesses(2 * half, right, lower_bound(len(coins), 2 * half, right, delta))
