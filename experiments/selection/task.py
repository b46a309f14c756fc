"""What is searched for: the learning rate and the L2 penalty of a small net on few examples."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset, standardizer
from jaxnets import losses, models, optim, train
from jaxnets.train import selection
from jaxnets.types import Array, Params, PyTree

Batch = dict[str, NDArray[np.generic]]
Grid = dict[str, NDArray[np.float64]]
"""Values by name."""

MOST_TESTED = 5000
"""Untouched examples to judge by, at most."""

SPACE = {
    "learning_rate": selection.LogUniform(1e-5, 1.0),
    "l2": selection.LogUniform(1e-6, 1.0),
}
"""Of SGD with momentum; some rates are too low to learn anything, some diverge."""


class Task(NamedTuple):
    """What a compiled program depends on, beside shapes."""

    net: models.MLPConfig
    batch_size: int


class Drawn(NamedTuple):
    """One repetition's examples: to choose by, and to judge by what was chosen."""

    development: Batch
    test: Batch


def draw_examples(data: Dataset, examples: int, seed: int) -> Drawn:
    """So many examples of all, with each class's share; of the others at most `MOST_TESTED`.

    Both are standardized by the moments of those that were drawn.
    """
    from sklearn.model_selection import train_test_split

    images = np.concatenate([data.train_x, data.test_x])
    y = np.concatenate([data.train_y, data.test_y])
    inside, outside = train_test_split(
        np.arange(len(y)), train_size=examples, random_state=seed, stratify=y
    )
    move = standardizer(images[inside])

    def batch(rows: NDArray[np.int64]) -> Batch:
        return {"x": move(images[rows]).reshape(len(rows), -1), "y": y[rows]}

    return Drawn(batch(inside), batch(outside[:MOST_TESTED]))


def mids(distribution: selection.LogUniform, n: int) -> NDArray[np.float64]:
    """The middles of `n` equal parts of a `LogUniform` range: a grid that wastes no end on it."""
    low, high = np.log(distribution)
    middles: NDArray[np.float64] = np.exp(low + (np.arange(n) + 0.5) / n * (high - low))
    return middles


def grid(rates: int, decays: int) -> Grid:
    """Of so many learning rates and penalties."""
    return {name: mids(SPACE[name], n) for name, n in (("learning_rate", rates), ("l2", decays))}


def loss_of_each(task: Task, params: Params, batch: PyTree) -> Array:
    """The cross-entropy of each example, in nats."""
    logits = models.mlp(params, task.net, batch["x"])
    return losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def _optimizer(member: train.Member) -> optim.GradientTransformation:
    return optim.sgd(member.hyper["learning_rate"], momentum=0.9)


def fresh(task: Task, member: train.Member) -> train.TrainState:
    """Before the first step."""
    key = jax.random.key(member.seed)
    return train.init_state(models.init_mlp(key, task.net), _optimizer(member), key)


def further(
    task: Task, member: train.Member, state: train.TrainState, data: PyTree, epochs: int
) -> train.TrainState:
    """So many epochs on; the order of the data is that of all members."""

    def loss(params: Params, batch: PyTree) -> Array:
        squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in params["layers"])
        missed: Array = jnp.mean(loss_of_each(task, params, batch))
        return missed + member.hyper["l2"] * squares / 2

    step = train.step(loss, _optimizer(member))
    epoch = train.epoch(step, task.batch_size, order=jax.random.key(0))

    def one(state: train.TrainState, _: None) -> tuple[train.TrainState, None]:
        return epoch(state, data)[0], None

    return jax.lax.scan(one, state, length=epochs)[0]


@partial(jax.jit, static_argnames=("task", "epochs"))
def advance(
    task: Task,
    members: train.Member,
    states: train.TrainState,
    part: PyTree,
    held_out: PyTree,
    epochs: int,
) -> tuple[train.TrainState, Array]:
    """All members so many epochs on, and their losses on what is held out."""

    def one(pair: tuple[train.Member, train.TrainState]) -> tuple[train.TrainState, Array]:
        state = further(task, *pair, part, epochs)
        return state, jnp.mean(loss_of_each(task, state.params, held_out))

    advanced: tuple[train.TrainState, Array] = train.population(one)((members, states))
    return advanced


_one_fresh = jax.jit(fresh, static_argnames="task")


@partial(jax.jit, static_argnames="n")
def _repeated(tree: PyTree, n: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), tree)


def begun(task: Task, members: train.Member) -> train.TrainState:
    """All members before their first step; of one seed, and so of the same initial weights."""
    # drawing weights takes longer to compile than training does, and would for each number of them
    states: train.TrainState = _repeated(
        _one_fresh(task, train.member(members, 0)), len(members.seed)
    )
    return states


@partial(jax.jit, static_argnames="task")
def judged(task: Task, params: Params, test: PyTree) -> tuple[Array, Array]:
    """A net's mean loss and its share of errors; scores that are not finite are wrong."""
    logits = models.mlp(params, task.net, test["x"])
    right = (jnp.argmax(logits, -1) == test["y"]) & jnp.all(jnp.isfinite(logits), -1)
    return jnp.mean(loss_of_each(task, params, test)), 1 - jnp.mean(right)
