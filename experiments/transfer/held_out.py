"""Labels held out of those that are there to learn from: all that is chosen is chosen by them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.transfer.learner import HeadChoice, Indices, Learner, Logits, make_run
from jaxnets import losses
from jaxnets.train.selection import Fold, stratified_kfold

FEWEST = 40
"""Labels from which on a part of them chooses; below, what is in the middle is taken."""
FOLDS = 5
LINEAR = 1000
"""Labels up to which each fold is held out once for a linear head; above, one fold is."""


def draw(labels: NDArray[np.int32], n: int, n_classes: int, seed: int) -> Indices:
    """`n` examples, as many of each class as of any other, or one more."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(n_classes)]
    turn = [indices[i] for i in range(max(map(len, order))) for indices in order
            if i < len(indices)]  # fmt: skip
    return np.array(turn[:n])


def folds(y: NDArray[np.int32], seed: int) -> list[Fold]:
    """Five parts with each class's share, each held out once; none where labels are too few."""
    if len(y) < FEWEST or np.unique(y, return_counts=True)[1].min() < FOLDS:
        return []
    return stratified_kfold(y, FOLDS, seed=seed)


def mean_loss(logits: Logits, y: NDArray[np.int32]) -> float:
    """The mean negative log-likelihood: unlike accuracy it tells few labels' candidates apart."""
    each = losses.softmax_cross_entropy_with_integer_labels(
        jax.numpy.asarray(logits), jax.numpy.asarray(y)
    )
    return float(np.mean(np.asarray(each)))


class Learned(NamedTuple):
    """What came of some labels, and what was chosen on the way."""

    accuracy: float
    """Of the test examples."""
    loss: float
    """Their mean negative log-likelihood."""
    seconds: float
    """What was spent, the choice included."""
    choice: dict[str, Any]
    """By the held-out labels, or without, where there were too few."""


def learned(logits: Logits, y: NDArray[np.int32], seconds: float, **choice: Any) -> Learned:
    """By the test examples' logits."""
    right = float(np.mean(np.argmax(logits, -1) == y))
    return Learned(right, mean_loss(logits, y), seconds, choice)


Learn = Callable[[Indices, int, HeadChoice], Learned]
"""`(which examples, seed, what head to start from)`"""


def make_learn(learner: Learner, test_y: NDArray[np.int32]) -> Learn:
    """Rate and number of steps by a held-out fifth, and then a run with all labels.

    A run at each rate with four fifths is looked at after each of the learner's shares of its
    steps; the rate and share with the least loss of the fifth are taken.
    """
    run = make_run(learner)

    def learn(chosen: Indices, seed: int, of_head: HeadChoice) -> Learned:
        started = time.perf_counter()
        steps = learner.steps(len(chosen))
        rate, share = learner.rates[(len(learner.rates) - 1) // 2], 1.0
        parts = folds(learner.labels[chosen], seed)
        if parts:
            known, held = chosen[parts[0].train], chosen[parts[0].held_out]
            start = learner.start(known, seed, of_head)
            marks = [round(each * steps) for each in learner.shares]
            found = {
                (mean_loss(logits, learner.labels[held]), each, at)
                for each in learner.rates
                for at, logits in zip(
                    learner.shares,
                    run(start, known, held, seed, each, steps, marks),
                    strict=True,
                )
            }
            _, rate, share = min(found)
        start = learner.start(chosen, seed, of_head)
        (logits,) = run(start, chosen, None, seed, rate, steps, [round(share * steps)])
        seconds = time.perf_counter() - started
        return learned(logits, test_y, seconds, rate=rate, share=share, chosen=bool(parts))

    return learn
