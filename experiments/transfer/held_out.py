"""A rate and a number of steps, chosen by labels held out of those that are there to learn from.

All that is compared there, the frozen base too, was made without these labels.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.transfer.labels import mean_loss, refined_loss
from experiments.transfer.learner import HeadChoice, Indices, Learner, Logits, Trial, make_run


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


Learn = Callable[[Indices, int, HeadChoice, Trial | None], tuple[Learned, Learned]]
"""`(which examples, seed, what head to start from, what to choose by)`: as the held-out labels
chose, and after all steps, whatever they chose. No trial where labels are too few."""


def make_learn(learner: Learner, test_y: NDArray[np.int32]) -> Learn:
    """Rate and number of steps by a held-out fifth, and then a run with all labels.

    A run at each rate with four fifths is looked at after each of the learner's shares of its
    steps. The rate is the one that comes to the least refined loss of the fifth, and the share that
    at which it does.
    """
    run = make_run(learner)

    def choose(trial: Trial, seed: int, steps: int) -> tuple[float, float]:
        """Rate and share."""
        known, held, of_head = trial
        start = learner.start(known, seed, of_head)
        marks = [round(share * steps) for share in learner.shares]
        found = {}
        for rate in learner.rates:
            after = run(start, known, held, seed, rate, steps, marks)
            for share, logits in zip(learner.shares, after, strict=True):
                found[rate, share] = refined_loss(logits, learner.labels[held])
        # at share 0 all rates are alike
        rate, _ = min((at for at in found if at[1] > 0), key=lambda at: found[at])
        return rate, min(learner.shares, key=lambda share: found[rate, share])

    def learn(
        chosen: Indices, seed: int, of_head: HeadChoice, trial: Trial | None
    ) -> tuple[Learned, Learned]:
        started = time.perf_counter()
        steps = learner.steps(len(chosen))
        rate, share = choose(trial, seed, steps) if trial else (learner.rates[0], 1.0)
        start = learner.start(chosen, seed, of_head)
        shares = sorted({share, 1.0})
        marks = [round(each * steps) for each in shares]
        tests = run(start, chosen, None, seed, rate, steps, marks)
        seconds = time.perf_counter() - started
        after = {
            each: learned(
                logits, test_y, seconds, rate=rate, share=each, chosen=trial is not None
            )
            for each, logits in zip(shares, tests, strict=True)
        }  # fmt: skip
        return after[share], after[1.0]

    return learn
