"""One optimizer on a data set: a small net at every rate, from several seeds, as one program."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.classification import Batch, batch_of, example_loss
from experiments.data import Dataset, standardizer
from experiments.errors import UsageError
from experiments.optimizers.descent import advance
from experiments.optimizers.families import Contender
from jaxnets import models, optim, train
from jaxnets.types import Array, PyTree

HELD_OUT = 0.2
"""The share of the training images by which a rate is chosen."""


class Split(NamedTuple):
    """Images and their labels, on the device."""

    train: Batch
    held_out: Batch
    test: Batch


class Outcome(NamedTuple):
    """What training gave: `[seeds, rates]` each."""

    loss: np.ndarray
    """Mean training loss of the last epoch."""
    held_out: np.ndarray
    """Accuracies."""
    test: np.ndarray


class Choice(NamedTuple):
    """The rate that did best on the held-out images, and what it gives on the test images."""

    rate_index: int
    rate: float
    held_out: float
    """Mean accuracy of the seeds."""
    test: float
    at_edge: bool
    """Whether the rate is the grid's first or last: a better one may lie beyond."""


def split(images: Dataset, *, standardize: bool = True) -> Split:
    """The data; a fixed fifth of the training images is held out, whatever a run's seed is.

    Args:
      images: the data set.
      standardize: whether to move all by the moments of those that are trained on.

    Raises:
      UsageError: if nothing would be left to train on.
    """
    x, y = images.train_x, images.train_y
    order = np.random.default_rng(0).permutation(len(y))
    held, kept = np.split(order, [max(1, int(HELD_OUT * len(y)))])
    if not kept.size:
        raise UsageError(f"{images.name}: a fifth is held out; there is only 1 training image")
    # by what is trained on alone
    move = standardizer(x[kept]) if standardize else lambda images: images
    return Split(
        train=batch_of(move(x[kept]), y[kept], np.float32),
        held_out=batch_of(move(x[held]), y[held], np.float32),
        test=batch_of(move(images.test_x), images.test_y, np.float32),
    )


class Beginning(NamedTuple):
    """What every optimizer begins with: `[seeds, ...]` each."""

    params: PyTree
    batches: Array
    """`[seeds, epochs, steps, batch_size]`, indices of training images."""


def begin(
    model: models.MLPConfig, examples: int, seeds: Array, batch_size: int, epochs: int
) -> Beginning:
    """Each seed's initial weights and batches: all that is random."""

    def one(seed: Array) -> Beginning:
        init_key, data_key = jax.random.split(jax.random.key(seed))
        batches = lax.map(
            lambda epoch: train.epoch_indices(data_key, epoch, examples, batch_size),
            jnp.arange(epochs),
        )
        return Beginning(models.init_mlp(init_key, model), batches)

    # apart from training, which would compile it once for each optimizer
    begun: Beginning = jax.jit(partial(lax.map, one))(seeds)
    return begun


def sweep(
    contender: Contender, model: models.MLPConfig, data: Split, rates: Array, beginning: Beginning
) -> Outcome:
    """Train at all rates and from all seeds at once; a seed's start and batches are all rates'."""
    return Outcome(*map(np.asarray, _sweep(contender, model, data, rates, beginning)))


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(
    contender: Contender, model: models.MLPConfig, data: Split, rates: Array, beginning: Beginning
) -> Any:
    def logits(params: PyTree, x: Array) -> Array:
        return models.mlp(params, model, x.reshape(len(x), -1))

    def one(begun: Beginning, rate: Array) -> tuple[Array, Array, Array]:
        optimizer = optim.chain(contender.make(rate))

        def step(carry: tuple[PyTree, Any], indices: Array) -> tuple[Any, Array]:
            batch = jax.tree.map(lambda leaf: leaf[indices], data.train)

            def loss(params: PyTree) -> Array:
                return jnp.mean(example_loss(logits(params, batch["x"]), batch["y"]))

            params, state, value = advance(optimizer, loss, *carry)
            return (params, state), value

        _, steps, size = begun.batches.shape
        start = (begun.params, optimizer.init(begun.params))
        (params, state), values = lax.scan(step, start, begun.batches.reshape(-1, size))
        params = contender.read(state, params)

        def accuracy(part: Batch) -> Array:
            return jnp.mean(jnp.argmax(logits(params, part["x"]), -1) == part["y"])

        return jnp.mean(values[-steps:]), accuracy(data.held_out), accuracy(data.test)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(beginning, rates)


def diverged(outcome: Outcome, classes: int) -> np.ndarray:
    """`[rates]`: whether a seed's loss ended above that of guessing, `log classes`, or as NaN."""
    worse: np.ndarray = ~(outcome.loss <= np.log(classes)).all(axis=0)
    return worse


def choose(outcome: Outcome, rates: np.ndarray) -> Choice:
    """The rate with the best mean held-out accuracy; of equals, the lowest."""
    held_out, test = outcome.held_out.mean(axis=0), outcome.test.mean(axis=0)
    index = int(held_out.argmax())
    return Choice(
        rate_index=index,
        rate=float(rates[index]),
        held_out=float(held_out[index]),
        test=float(test[index]),
        at_edge=index in (0, len(rates) - 1),
    )
