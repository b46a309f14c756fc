"""The net, and its training at one level of noise; compiled once for all levels and seeds."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import named_optimizers
from experiments.classification import Batch, example_loss
from experiments.data import Dataset
from experiments.optimizers.images import Split, split
from experiments.private.training import UNBOUNDED, Schedule, descend
from jaxnets import models
from jaxnets.types import Array, ArrayLike, Params


class Outcome(NamedTuple):
    """What a run gave."""

    held_out: Array
    """`[points]`, accuracies on the way, the last at the end."""
    test: Array
    """Accuracy at the end."""
    loss: Array
    """`[steps]`, of those drawn."""
    clipped: Array
    """`[steps]`, the share of those drawn whose gradient was clipped."""


def images_of(data: Dataset) -> Split:
    """The images moved from [0, 1] to [-1, 1], a fifth of those for training held out.

    By constants: the moments of private images would be a second release of theirs.

    Raises:
      UsageError: if nothing would be left to train on.
    """
    moved = data._replace(train_x=2 * data.train_x - 1, test_x=2 * data.test_x - 1)
    return split(moved, standardize=False)


def net_config(data: Dataset, hidden: int) -> models.MLPConfig:
    """One hidden layer with tanh.

    Bounded activations keep gradients small, so that less of them is clipped away (Papernot et al.,
    [Tempered sigmoid activations](https://arxiv.org/abs/2007.14191), 2021); and of few parameters,
    since the noise's norm grows with the square root of how many there are.
    """
    return models.MLPConfig(
        n_in=int(np.prod(data.train_x.shape[1:])),
        n_out=len(data.classes),
        hidden=(hidden,),
        activation=jnp.tanh,
    )


def logits(params: Params, model: models.MLPConfig, x: Array) -> Array:
    """Of images `[..., height, width, channels]`."""
    return models.mlp(params, model, x.reshape(*x.shape[:-3], -1))


def accuracy(params: Params, model: models.MLPConfig, part: Batch) -> Array:
    """The share of `part` named rightly."""
    return jnp.mean(jnp.argmax(logits(params, model, part["x"]), -1) == part["y"])


def make_program(
    model: models.MLPConfig, optimizer: str, schedule: Schedule
) -> Callable[..., Outcome]:
    """`run(seed, data, learning_rate, noise_multiplier, clip_norm) -> Outcome`, compiled.

    Args:
      model: the net.
      optimizer: by its name in `named_optimizers`.
      schedule: see there; `n` is that of the training images.
    """

    def loss(params: Params, example: Batch) -> Array:
        return example_loss(logits(params, model, example["x"]), example["y"])

    @jax.jit
    def run(
        seed: ArrayLike,
        data: Split,
        learning_rate: ArrayLike,
        noise_multiplier: ArrayLike,
        clip_norm: ArrayLike,
    ) -> Outcome:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        train = descend(
            loss,
            named_optimizers.make(optimizer, learning_rate),
            schedule,
            watch=lambda params: accuracy(params, model, data.held_out),
        )
        params, trace = train(
            models.init_mlp(init_key, model), data.train, run_key, clip_norm, noise_multiplier
        )
        test = accuracy(params, model, data.test)
        return Outcome(trace.watched, test, trace.loss, trace.clipped)

    return run


class Level(NamedTuple):
    """A promise, and the noise that keeps it."""

    epsilon: float
    """Infinite for the run that is not private."""
    noise_multiplier: float

    @property
    def name(self) -> str:
        """For tables and pictures."""
        return f"ε = {self.epsilon:g}" if self.private else "not private"

    @property
    def private(self) -> bool:
        """Whether it promises anything."""
        return bool(np.isfinite(self.epsilon))


NOT_PRIVATE = Level(np.inf, 0.0)
"""No noise, and nothing clipped; the same batches, steps and net."""


class Judged(NamedTuple):
    """A level at the learning rate that did best on the held-out images."""

    level: Level
    rate: float
    at_edge: bool
    """Whether it is the grid's first or last: a better one may lie beyond."""
    seeds: list[Outcome]


def judge(
    run: Callable[..., Outcome],
    data: Split,
    level: Level,
    rates: tuple[float, ...],
    seeds: range,
    clip_norm: float,
) -> tuple[Judged, dict[float, list[Outcome]]]:
    """Every rate from every seed; the mean held-out accuracy at the end chooses the rate.

    Returns:
      The choice, and by rate the outcomes of all seeds. The test images choose nothing.
    """
    bound = clip_norm if level.private else UNBOUNDED
    outcomes: dict[float, list[Outcome]] = {
        rate: [
            jax.device_get(run(seed, data, rate, level.noise_multiplier, bound)) for seed in seeds
        ]
        for rate in rates
    }
    best = max(rates, key=lambda rate: np.mean([o.held_out[-1] for o in outcomes[rate]]))
    at_edge = len(rates) > 1 and best in (rates[0], rates[-1])
    return Judged(level, best, at_edge, outcomes[best]), outcomes
