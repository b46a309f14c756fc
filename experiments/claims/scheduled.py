"""A net trained with a learning rate that changes along the way."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.claims.training import Batch, bounded, digits, error_rate, fit, mlp_loss
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

CLASSES = 10

FALLING = {
    "cosine": "along half a cosine",
    "linear": "along a line",
    "in steps": "in steps, to a tenth at half of the way and again at three quarters",
    "1/√step": "by the root of the step",
}
"""Schedules, all the way to 0 but the last two; the last is `rate / √(1 + step/10)`."""
WARM = "warm-up, cosine"


def schedules(rate: Array, steps: int, warmup: float) -> dict[str, Any]:
    """By name; `rate` is the highest of each, `warmup` the share of steps in which one rises."""
    halves = {steps // 2: 0.1, 3 * steps // 4: 0.1}
    return {
        "constant": rate,
        "cosine": optim.cosine_decay_schedule(rate, steps),
        "linear": optim.linear_schedule(rate, 0.0, steps),
        "in steps": optim.piecewise_constant_schedule(rate, halves),
        "1/√step": lambda step: rate / jnp.sqrt(1 + step / 10),
        WARM: optim.warmup_cosine_decay_schedule(0.0, rate, round(warmup * steps), steps),
    }


def net(config: Any) -> models.MLPConfig:
    """That of `learning_rate`."""
    return models.MLPConfig(64, CLASSES, hidden=config.hidden)


def end(
    config: Any, schedule: str, key: Key, rate: Array, *, redrawn: float = 0.0
) -> tuple[Array, Array]:
    """Training loss, above its least, and test error after training.

    Args:
      config: of `learning_rate`.
      schedule: one of `schedules`.
      key: of weights, batches and labels.
      rate: the schedule's highest.
      redrawn: the share of labels drawn anew in each batch. The loss is then the expected one,
        above the labels' own entropy.
    """
    init_key, run_key = jax.random.split(key)
    data, loss = digits(), mlp_loss(net(config))

    def noisy(params: Params, batch: Batch, key: Key) -> Array:
        which_key, label_key = jax.random.split(key)
        y = batch["y"]
        drawn = jax.random.randint(label_key, y.shape, 0, CLASSES)
        anew = jax.random.bernoulli(which_key, redrawn, y.shape)
        return loss(params, batch | {"y": jnp.where(anew, drawn, y)}, None)

    trained = fit(
        noisy if redrawn else loss,
        optim.sgd(schedules(rate, config.steps, config.warmup)[schedule], momentum=config.momentum),
        models.init_mlp(init_key, net(config)), data.train,
        key=run_key, steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip
    logits = models.mlp(trained.params, net(config), data.train["x"])
    value = jnp.mean(above_least(logits, data.train["y"], redrawn))
    logits = models.mlp(trained.params, net(config), data.test["x"])
    return bounded(value), error_rate(logits, data.test["y"])


def above_least(logits: Array, labels: Array, redrawn: float) -> Array:
    """Each example's cross-entropy expected over redrawn labels, less their entropy, nats."""
    shares = (1 - redrawn) * jax.nn.one_hot(labels, CLASSES) + redrawn / CLASSES
    entropy = -jnp.sum(jax.scipy.special.xlogy(shares, shares), -1)
    return -jnp.sum(shares * jax.nn.log_softmax(logits), -1) - entropy
