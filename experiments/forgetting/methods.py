"""Ways to learn tasks in sequence, as numbers of one program: so all of them run in one `vmap`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.forgetting.tasks import Examples
from jaxnets import gradients, losses, models, optim, train
from jaxnets.types import Array, ArrayLike, Key, Params

FISHER_OF = 256
"""Examples of a task from which its Fisher is estimated."""


class Method(NamedTuple):
    """What is done against forgetting, each number 0 (or 1 for the rate) where it is not."""

    rate: ArrayLike = 1.0
    """Of the learning rate, from the second task on."""
    l2: ArrayLike = 0.0
    ewc: ArrayLike = 0.0
    replay: ArrayLike = 0.0
    """The weight of the replayed examples' loss beside the task's own."""


CANDIDATES: dict[str, tuple[Method, ...]] = {
    "naive": (Method(),),
    "lower rate": tuple(Method(rate=r) for r in (0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01, 0.003)),
    "L2 to start": tuple(Method(l2=10.0**k) for k in range(-4, 4)),
    "EWC": tuple(Method(ewc=10.0**k) for k in range(-1, 8)),
    "replay": (Method(replay=1.0),),
}
"""Among which the development seeds choose, from the weakest to the strongest: the weakest are next
to nothing, and the strongest next to not learning, so that a best one should lie between."""


def at_an_end(name: str, chosen: Method) -> bool:
    """Whether a method's choice is an end of its candidates, beyond which a better one may lie."""
    candidates = CANDIDATES[name]
    return len(candidates) > 1 and chosen in (candidates[0], candidates[-1])


class Learning(NamedTuple):
    """How each task is learned."""

    learning_rate: float
    batch_size: int
    steps: int
    """Per task."""
    memory: int
    """Examples that replay keeps, of all tasks together."""


class _State(NamedTuple):
    params: Params
    fisher: Params
    """The sum of those of the tasks so far."""
    replay: train.Replay
    tasks: Array
    key: Key


Learn = Callable[[Method, Array, Examples, Examples], Array]


def make_program(learning: Learning, model: models.MLPConfig) -> Learn:
    """`(method, seed, train, test) -> R [tasks, tasks]`, to be mapped over methods and seeds."""

    def logits_of(params: Params, example: Any) -> Array:
        logits = models.mlp(params, model, example["x"])
        return jnp.where(example["answers"], logits, -1e9)

    def mean_loss(params: Params, batch: Any) -> Array:
        logits = logits_of(params, batch)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    fisher_of = gradients.fisher_diagonal(logits_of, gradients.likelihoods.categorical)

    def train_task(method: Method, state: _State, task: Any) -> _State:
        key, batch_key, fisher_key, replay_key = jax.random.split(state.key, 4)
        later = (state.tasks > 0).astype(jnp.float32)
        start = state.params
        l2 = train.l2_to_start(start, later * method.l2)
        ewc = train.ewc_penalty(state.fisher, start, later * method.ewc)
        weight = later * method.replay

        def loss(params: Params, batch: tuple[Any, Any]) -> Array:
            new, old = batch
            both = (mean_loss(params, new) + weight * mean_loss(params, old)) / (1 + weight)
            return both + l2(params) + ewc(params)

        rate = learning.learning_rate * jnp.where(later > 0, method.rate, 1.0)
        optimizer = optim.adam(rate)
        step = train.step(loss, optimizer)
        n = len(task["y"])

        def one(inner: train.TrainState, key: Key) -> tuple[train.TrainState, None]:
            new_key, old_key = jax.random.split(key)
            chosen = jax.random.randint(new_key, (learning.batch_size,), 0, n)
            new = jax.tree.map(lambda leaf: leaf[chosen], task)
            old = train.sample_replay(state.replay, old_key, learning.batch_size)
            return step(inner, (new, old))[0], None

        inner = train.init_state(start, optimizer, key)
        inner, _ = jax.lax.scan(one, inner, jax.random.split(batch_key, learning.steps))
        some = jax.tree.map(lambda leaf: leaf[:FISHER_OF], task)
        fisher = fisher_of(inner.params, some, key=fisher_key)
        return _State(
            inner.params,
            jax.tree.map(jnp.add, state.fisher, fisher),
            train.add_to_replay(state.replay, task, replay_key),
            state.tasks + 1,
            key,
        )

    def accuracy(test: Any, params: Params) -> Array:
        return jnp.mean(jnp.argmax(logits_of(params, test), -1) == test["y"])

    def sequence(method: Method, seed: Array, known: Examples, test: Examples) -> Array:
        init_key, key = jax.random.split(jax.random.key(seed))
        params = models.init_mlp(init_key, model)
        tasks = {"train": known._asdict(), "test": test._asdict()}
        first = jax.tree.map(lambda leaf: leaf[0, 0], tasks["train"])
        state = _State(
            params,
            jax.tree.map(jnp.zeros_like, params),
            train.init_replay(first, learning.memory),
            jnp.zeros((), jnp.int32),
            key,
        )
        _, matrix = train.accuracy_matrix(
            lambda state, task: train_task(method, state, task["train"]),
            lambda state, task: accuracy(task["test"], state.params),
            state,
            tasks,
        )
        return matrix

    return sequence


def run_all(
    program: Learn,
    methods: Sequence[Method],
    seeds: Sequence[int],
    known: Examples,
    test: Examples,
) -> NDArray[np.float32]:
    """`R [methods, seeds, tasks, tasks]`, all in one program.

    Examples are `[seeds, T, n, …]`.
    """
    stacked = Method(*(jnp.asarray(column, jnp.float32) for column in zip(*methods, strict=True)))
    over_seeds = jax.vmap(program, (None, 0, 0, 0))
    over_methods = jax.jit(jax.vmap(over_seeds, (0, None, None, None)))
    matrix = over_methods(stacked, jnp.asarray(seeds), known, test)
    return np.asarray(matrix)
