"""Learning by steps, from scratch or from a base, as one loop that stops where it is told to."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnets import optim, train
from jaxnets.types import Array, Params, PyTree

Indices = NDArray[np.intp]
Logits = NDArray[np.float32]

JUDGED = 100
"""Examples at a time, where only logits are computed."""


class Start(NamedTuple):
    """Before the first step."""

    trained: Params
    fixed: PyTree
    """What the loss needs beside it, and no step changes."""
    moments: PyTree = ()
    """Of batch norm, if it has any that move."""


class HeadChoice(NamedTuple):
    """What held-out labels chose for a linear head on the frozen base."""

    kind: str
    """Of features."""
    strength: float
    """`C`"""


class Trial(NamedTuple):
    """Labels held out to choose a rate and a number of steps by, and what is known without them."""

    known: Indices
    held: Indices
    of_head: HeadChoice
    """Chosen by the known labels alone. Had the held ones a part in it, they would speak for the
    frozen base: of two alternatives the one that was fitted to them."""


class Learner(NamedTuple):
    """A way to learn by steps, and what there is to choose about it."""

    rates: tuple[float, ...]
    """To choose from; the first where there are too few labels to choose by."""
    shares: tuple[float, ...]
    """Of all steps, after which it may stop, the last of them 1: to choose from."""
    steps: Callable[[int], int]
    """All steps, with so many labels."""
    batch: int
    start: Callable[[Indices, int, HeadChoice], Start]
    """`start(training examples, seed, what head to start from)`"""
    loss: Callable[[Params, PyTree, PyTree, PyTree, Array], tuple[Array, PyTree]]
    """`loss(trained, fixed, moments, batch, key) -> (loss, moments)`"""
    logits: Callable[[Params, PyTree, PyTree, PyTree], Array]
    """`logits(trained, fixed, moments, inputs) -> [n, classes]`"""
    optimizer: Callable[[Any, int], optim.GradientTransformation]
    """`optimizer(rate, all steps)`"""
    inputs: Callable[[Indices | None], PyTree]
    """Of these training examples, or of the test examples if None."""
    labels: NDArray[np.int32]
    """Of all training examples."""


def batches(known: Indices, steps: int, size: int, seed: int) -> NDArray[np.intp]:
    """`[steps, min(size, n)]`: epoch after epoch, each in an order of its own."""
    rng = np.random.default_rng(seed)
    size = min(size, len(known))
    epochs = [rng.permutation(known) for _ in range(-(-steps * size // len(known)))]
    return np.concatenate(epochs)[: steps * size].reshape(steps, size)


Run = Callable[[Start, Indices, Indices | None, int, float, int, Sequence[int]], list[Logits]]
"""`run(start, known, judged, seed, rate, steps, marks)`: logits of the judged examples (None: the
test ones) after each of the marks, which are numbers of steps."""


def make_run(learner: Learner) -> Run:
    """The loop, compiled once for each number of steps and shape."""

    # step by step: in a loop of XLA's a convolution's gradient is slow on CPUs
    def _step(state: train.TrainState, fixed: PyTree, batch: PyTree, rate: Any, steps: int) -> Any:
        def loss(params: Params, moments: PyTree, batch: PyTree, key: Array) -> Any:
            return learner.loss(params, fixed, moments, batch, key)

        optimizer = learner.optimizer(rate, steps)
        return train.step(loss, optimizer, has_state=True, has_key=True)(state, batch)[0]

    step = jax.jit(_step, static_argnames="steps", donate_argnums=0)
    logits = jax.jit(learner.logits)

    def judge(state: train.TrainState, fixed: PyTree, judged: Indices | None) -> Logits:
        inputs = learner.inputs(judged)
        n = len(jax.tree.leaves(inputs)[0])

        def part(i: int) -> Array:
            some = jax.tree.map(lambda leaf: leaf[i : i + JUDGED], inputs)
            found: Array = logits(state.params, fixed, state.model_state, some)
            return found

        return np.concatenate([part(i) for i in range(0, n, JUDGED)]).astype(np.float32)

    def run(
        start: Start, known: Indices, judged: Indices | None, seed: int, rate: float, steps: int,
        marks: Sequence[int],
    ) -> list[Logits]:  # fmt: skip
        # a copy: the state is given up to each step, and the start begins other runs too
        state = train.init_state(
            jax.tree.map(jnp.copy, start.trained), learner.optimizer(rate, steps),
            jax.random.key(seed), model_state=jax.tree.map(jnp.copy, start.moments),
        )  # fmt: skip
        order = batches(known, steps, learner.batch, seed)
        found = []
        for begin, end in pairwise((0, *marks)):
            for chosen in order[begin:end]:
                batch = {"inputs": learner.inputs(chosen), "y": learner.labels[chosen]}
                state = step(state, start.fixed, batch, jnp.float32(rate), steps)
            found.append(judge(state, start.fixed, judged))
        return found

    return run
