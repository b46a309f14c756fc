"""Catastrophic forgetting: how much of earlier tasks is lost, and what holds it back.

After each task of a sequence the net is tested on all: `R[i, j]` is the accuracy on task `j` after
training on task `i`. Against forgetting: penalties that tie parameters to where they were (L2, EWC)
and replay of earlier examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets import tree
from jaxnets.train.step import leading_size
from jaxnets.types import Array, ArrayLike, Key, Params, PyTree

Penalty = Callable[[Params], Array]


def _half_weighted_squares(
    function: str, params: Params, anchor: Params, weights: Params | None
) -> Array:
    """In float32 at least: in half precision such sums overflow, and stop growing before."""

    def wide(x: ArrayLike) -> Array:
        return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))

    def one(path: str, p: Array, *others: Array) -> Array:
        for name, other in zip(("anchor", "fisher"), others, strict=False):
            if jnp.shape(other) != jnp.shape(p):
                raise ValueError(
                    f"{function}: {name} must have the parameters' shapes, got "
                    f"{list(jnp.shape(other))} for {list(jnp.shape(p))} at {path!r}"
                )
        start, *weight = map(wide, others)
        squares = (wide(p) - start) ** 2
        return jnp.sum(weight[0] * squares if weight else squares)

    others = (anchor,) if weights is None else (anchor, weights)
    terms = jax.tree.leaves(tree.map_with_paths(one, params, *others))
    return 0.5 * sum(terms, jnp.zeros(()))


def l2_to_start(anchor: Params, strength: ArrayLike) -> Penalty:
    """`θ -> λ/2 Σ (θ - θ*)²`: parameters tied to where they started (L2-SP).

    Args:
      anchor: `θ*`, of the structure of the parameters.
      strength: `λ ≥ 0`.

    Raises:
      ValueError: (of the penalty) if structures or shapes differ.

    References:
      Li, Grandvalet and Davoine, [Explicit inductive bias for transfer learning with convolutional
      networks](https://arxiv.org/abs/1802.01483), 2018.
    """

    def penalty(params: Params) -> Array:
        return jnp.asarray(strength * _half_weighted_squares("l2_to_start", params, anchor, None))

    return penalty


def ewc_penalty(fisher: Params, anchor: Params, strength: ArrayLike) -> Penalty:
    """`θ -> λ/2 Σ F (θ - θ*)²`: parameters tied the more, the more earlier tasks need them.

    Of several earlier tasks, `fisher` is the sum of theirs and `anchor` where the last one ended
    (Huszár, 2018): one penalty, however many tasks.

    Args:
      fisher: `F`, from `gradients.fisher_diagonal`; or, of the data's own labels,
        `gradients.second_moment` of factors.
      anchor: `θ*`, of the structure of the parameters.
      strength: `λ ≥ 0`; of the order of the number of examples that `F` is a mean over.

    Raises:
      ValueError: (of the penalty) if structures or shapes differ.

    References:
      Kirkpatrick et al., [Overcoming catastrophic forgetting in neural
      networks](https://arxiv.org/abs/1612.00796), 2017; Huszár, [Note on the quadratic penalties in
      elastic weight consolidation](https://arxiv.org/abs/1712.03847), 2018.
    """

    def penalty(params: Params) -> Array:
        return jnp.asarray(strength * _half_weighted_squares("ewc_penalty", params, anchor, fisher))

    return penalty


class Replay(NamedTuple):
    """A sample of all examples that were seen so far, each as likely to be in it."""

    examples: PyTree
    """`[capacity, ...]`"""
    seen: Array
    """How many were shown (int32); below the capacity, as many places are filled."""


def init_replay(example: PyTree, capacity: int) -> Replay:
    """An empty memory of so many examples.

    Args:
      example: one example, or its shapes and dtypes.
      capacity: at least 1.

    Raises:
      ValueError: for a `capacity` below 1.
    """
    if capacity < 1:
        raise ValueError(f"init_replay: capacity must be at least 1, got {capacity}")
    places = jax.tree.map(
        lambda leaf: jnp.zeros((capacity, *jnp.shape(leaf)), jnp.result_type(leaf)), example
    )
    return Replay(places, jnp.zeros((), jnp.int32))


def add_to_replay(replay: Replay, examples: PyTree, key: Key) -> Replay:
    """Show examples `[n, ...]` to the memory, one after the other: reservoir sampling.

    The `t`-th example that is shown takes a place drawn from `t`, if there is such a place: so
    each of the `t` is in the memory with probability `capacity / t`.

    References:
      Vitter, [Random sampling with a reservoir](https://doi.org/10.1145/3147.3165), 1985.
    """
    n = leading_size("add_to_replay", examples)
    capacity = leading_size("add_to_replay", replay.examples)

    def show(replay: Replay, shown: tuple[PyTree, Key]) -> tuple[Replay, None]:
        example, key = shown
        drawn = jax.random.randint(key, (), 0, replay.seen + 1)
        place = jnp.where(replay.seen < capacity, replay.seen, drawn)
        # a place that is not there is left out
        kept = jax.tree.map(
            lambda places, x: places.at[place].set(x, mode="drop"), replay.examples, example
        )
        return Replay(kept, replay.seen + 1), None

    replay, _ = lax.scan(show, replay, (examples, jax.random.split(key, n)))
    return replay


def sample_replay(replay: Replay, key: Key, n: int) -> PyTree:
    """`n` examples of the memory, drawn with replacement: `[n, ...]`; zeros of an empty one."""
    capacity = leading_size("sample_replay", replay.examples)
    filled = jnp.clip(replay.seen, 1, capacity)
    places = jax.random.randint(key, (n,), 0, filled)
    return jax.tree.map(lambda leaf: leaf[places], replay.examples)


def _tasks(function: str, matrix: ArrayLike, at_least: int) -> tuple[Array, int]:
    accuracies = jnp.asarray(matrix)
    shape = accuracies.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < at_least:
        raise ValueError(
            f"{function}: the matrix must be [..., tasks, tasks] of at least {at_least}, "
            f"got {list(shape)}"
        )
    return accuracies, shape[-1]


def average_accuracy(matrix: ArrayLike) -> Array:
    """`1/T Σⱼ R[T, j]`: over all tasks, after the last. Of `[..., T, T]`: `[...]`."""
    accuracies, _ = _tasks("average_accuracy", matrix, 1)
    return jnp.mean(accuracies[..., -1, :], -1)


def forgetting(matrix: ArrayLike) -> Array:
    """`1/(T-1) Σ_{j<T} max_{l<T} R[l, j] - R[T, j]`: what was lost of the best that was ever known.

    Args:
      matrix: `R [..., T, T]`, row: after which task; column: on which.

    Returns:
      `[...]`; 0 is nothing forgotten, negative if later tasks made earlier ones better.

    Raises:
      ValueError: if it is not square, or there are less than two tasks.

    References:
      Chaudhry et al., [Riemannian walk for incremental
      learning](https://arxiv.org/abs/1801.10112), 2018.
    """
    accuracies, _ = _tasks("forgetting", matrix, 2)
    best = jnp.max(accuracies[..., :-1, :-1], -2)
    return jnp.mean(best - accuracies[..., -1, :-1], -1)


def backward_transfer(matrix: ArrayLike) -> Array:
    """`1/(T-1) Σ_{j<T} R[T, j] - R[j, j]`: what later tasks did to each earlier one.

    Negative where they made it worse. Arguments and errors as of `forgetting`.

    References:
      Lopez-Paz and Ranzato, [Gradient episodic memory for continual
      learning](https://arxiv.org/abs/1706.08840), 2017.
    """
    accuracies, _ = _tasks("backward_transfer", matrix, 2)
    learned = jnp.diagonal(accuracies, axis1=-2, axis2=-1)
    return jnp.mean((accuracies[..., -1, :] - learned)[..., :-1], -1)


def accuracy_matrix(
    train_task: Callable[[Any, PyTree], Any],
    test_task: Callable[[Any, PyTree], Array],
    state: Any,
    tasks: PyTree,
) -> tuple[Any, Array]:
    """Tasks one after the other in one `scan`, all of them tested after each.

    Args:
      train_task: `train_task(state, task) -> state`.
      test_task: `test_task(state, task) -> accuracy`, a scalar.
      state: before the first task.
      tasks: leaves `[T, ...]`, a slice for each task.

    Returns:
      The last state, and `R [T, T]`.
    """

    def one(state: Any, task: PyTree) -> tuple[Any, Array]:
        state = train_task(state, task)
        return state, lax.map(lambda other: test_task(state, other), tasks)

    last, matrix = lax.scan(one, state, tasks)
    return last, matrix
