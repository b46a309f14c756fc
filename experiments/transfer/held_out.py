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
TEMPERATURES = 2.0 ** np.arange(-2, 4.25, 0.25)
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


def refined_loss(logits: Logits, y: NDArray[np.int32]) -> float:
    """`mean_loss` of `logits / T` at the best temperature `T`: without what is only confidence.

    A net that learns on grows confident before it stops becoming more accurate, and by the plain
    loss it would be stopped too early (Berta et al., "Rethinking early stopping: refine, then
    calibrate", 2025).
    """
    return min(mean_loss(logits / t, y) for t in TEMPERATURES)


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


Learn = Callable[[Indices, int, HeadChoice], tuple[Learned, Learned]]
"""`(which examples, seed, what head to start from)`: as the held-out labels chose, and after all
steps, whatever they chose."""


def make_learn(learner: Learner, test_y: NDArray[np.int32]) -> Learn:
    """Rate and number of steps by a held-out fifth, and then a run with all labels.

    A run at each rate with four fifths is looked at after each of the learner's shares of its
    steps; the rate and share with the least refined loss of the fifth are taken, and for all steps
    the rate that is best at their end.
    """
    run = make_run(learner)
    middle = learner.rates[(len(learner.rates) - 1) // 2]

    def choose(chosen: Indices, seed: int, of_head: HeadChoice) -> list[tuple[float, float]]:
        """Rate and share: the best, and the best of share 1; none from too few labels."""
        parts = folds(learner.labels[chosen], seed)
        if not parts:
            return []
        known, held = chosen[parts[0].train], chosen[parts[0].held_out]
        start, steps = learner.start(known, seed, of_head), learner.steps(len(chosen))
        marks = [round(share * steps) for share in learner.shares]
        found = {}
        for rate in learner.rates:
            after = run(start, known, held, seed, rate, steps, marks)
            for share, logits in zip(learner.shares, after, strict=True):
                found[rate, share] = refined_loss(logits, learner.labels[held])
        ends = [(rate, 1.0) for rate in learner.rates]
        return [min(found, key=lambda at: found[at]), min(ends, key=lambda at: found[at])]

    def learn(chosen: Indices, seed: int, of_head: HeadChoice) -> tuple[Learned, Learned]:
        started = time.perf_counter()
        choices = choose(chosen, seed, of_head)
        best, end = choices or [(middle, 1.0)] * 2
        start, steps = learner.start(chosen, seed, of_head), learner.steps(len(chosen))

        def finish(rate: float, share: float) -> Learned:
            marks = [round(share * steps)]
            (logits,) = run(start, chosen, None, seed, rate, steps, marks)
            seconds = time.perf_counter() - started
            choice = {"rate": rate, "share": share, "chosen": bool(choices)}
            return learned(logits, test_y, seconds, **choice)

        finished = finish(*best)
        return finished, finished if best == end else finish(*end)

    return learn
