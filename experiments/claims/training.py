"""Training as all claims do it: one scan, so that seeds and settings are a `vmap`."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.data.dataset import standardizer
from experiments.data.digits import load_digits
from jaxnets import losses, models, optim, train
from jaxnets.types import Array, Key, Params, PyTree

Batch = dict[str, Array]

WORST, LEAST = float(np.log(10)), 1e-7
"""Nats: the loss of who knows nothing of ten classes, and what is rounding; see `bounded`."""


class Split(NamedTuple):
    """Examples to train on and to test on: `x [n, …]`, `y [n]`."""

    train: Batch
    test: Batch


def digits() -> Split:
    """Scikit-learn's digits as vectors, standardized: `x [n, 64]`; 1,437 to train, 360 to test."""
    return Split(*jax.tree.map(jnp.asarray, _digits()))


@cache
def _digits() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    # of NumPy: what is made inside a `jit` must not be kept
    data = load_digits()
    move = standardizer(data.train_x)

    def batch(x: Any, y: Any) -> dict[str, np.ndarray]:
        return {"x": move(x).reshape(len(x), -1), "y": y}

    return batch(data.train_x, data.train_y), batch(data.test_x, data.test_y)


class Fit(NamedTuple):
    """A training run's end and course."""

    params: Params
    losses: Array
    """`[steps]`, each of its batch before the step."""
    records: PyTree
    """`[steps / every, …]` of `record(params)`, after each `every` steps."""


def nothing(params: Params) -> tuple[()]:
    """For runs of which nothing is recorded."""
    return ()


def fit(
    loss: Callable[[Params, Batch, Key], Array],
    optimizer: optim.GradientTransformation,
    params: Params,
    data: Batch,
    *,
    key: Key,
    steps: int,
    batch_size: int,
    record: Callable[[Params], PyTree] = nothing,
    every: int | None = None,
) -> Fit:
    """Train for `steps` steps, each on a batch of a fresh permutation of `data`; to be jitted.

    Args:
      loss: `loss(params, batch, key) -> scalar`.
      optimizer: ours or Optax's; its hyper-parameters may be traced.
      params: initial ones.
      data: `{"x", "y"}`, whose first axes are the examples.
      key: of batches and of the loss's own randomness.
      steps: how many; a multiple of `every`.
      batch_size: from 1 to the number of examples; the number itself is full-batch descent.
      record: what to keep of the parameters along the way.
      every: how many steps between two records; by default one record at the end.

    Raises:
      ValueError: if `every` does not divide `steps`.
    """
    every = steps if every is None else every
    if steps % every:
        raise ValueError(f"fit: every must divide the {steps} steps, got {every}")
    n = len(data["y"])
    order, own = jax.random.split(key)
    state = train.init_state(params, optimizer, own)
    step = train.step(loss, optimizer, has_key=True)
    per_epoch = train.steps_per_epoch(n, batch_size)
    epochs = jnp.arange(-(-steps // per_epoch))

    def of_epoch(epoch: Array) -> Array:
        return train.epoch_indices(order, epoch, n, batch_size)

    indices = jax.vmap(of_epoch)(epochs).reshape(-1, batch_size)[:steps]
    indices = indices.reshape(-1, every, batch_size)

    def one(state: train.TrainState, rows: Array) -> tuple[train.TrainState, Array]:
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[rows], data))
        return state, metrics["loss"]

    def some(state: train.TrainState, rows: Array) -> tuple[train.TrainState, Any]:
        state, values = lax.scan(one, state, rows)
        return state, (values, record(state.params))

    state, (values, records) = lax.scan(some, state, indices)
    return Fit(state.params, values.reshape(-1), records)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the batch, in nats."""
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def bounded(loss: Array) -> Array:
    """A loss as it is compared and chosen by: runs that end above guessing, or without a number,
    count as guessing, and those whose loss underflows as `LEAST`, since zeros have no ratio.
    """
    return jnp.clip(jnp.where(jnp.isfinite(loss), loss, WORST), LEAST, WORST)


def error_rate(logits: Array, labels: Array) -> Array:
    """The share of wrong predictions; scores that are not finite are wrong."""
    right = (jnp.argmax(logits, -1) == labels) & jnp.all(jnp.isfinite(logits), -1)
    return jnp.mean(~right)


def mlp_loss(shape: models.MLPConfig) -> Callable[[Params, Batch, Key | None], Array]:
    """`(params, batch, key) -> scalar`: the cross-entropy of an MLP; the key is of dropout."""

    def loss(params: Params, batch: Batch, key: Key | None = None) -> Array:
        return cross_entropy(models.mlp(params, shape, batch["x"], key=key), batch["y"])

    return loss


def steps_to(values: Array, target: Any, *, every: int = 1) -> Array:
    """Steps until `values [records]` first lie at or below `target`, one record beyond the last
    where they never do: so a run that fails counts as little worse than one that just succeeds.
    """
    reached = values <= target
    first = jnp.argmax(reached)
    return every * (jnp.where(jnp.any(reached), first, len(values)) + 1)


def sweep(run: Callable[[Key, Array], Any], keys: Key, settings: Array) -> Any:
    """`run(key, setting)` for each seed and setting, in one program: `[seeds, settings, …]`."""
    return jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(keys, settings)


def rates_around(low: float, high: float, per_decade: int) -> Array:
    """Learning rates at equal factors, both ends included."""
    decades = float(np.log10(high / low))
    return jnp.logspace(np.log10(low), np.log10(high), round(decades * per_decade) + 1)
