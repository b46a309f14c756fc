"""Adagrad, RMSprop and Adam: steps scaled by the gradients that each parameter has seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.claims import parts_of_adam, relearning, sparse
from experiments.claims.claim import Outcome, Tested
from experiments.claims.optimizers import OPTIMIZERS
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets.types import Key

TITLE = "Adagrad, RMSprop and Adam"


@dataclass(frozen=True)
class Config:
    """Each optimizer at the rate that is best for the other seeds."""

    sparse_steps: int = 600
    """Of softmax regression on pixels one-hot in 17 intensities."""
    task_steps: int = 1500
    """Of each task: the digits, then the digits with other pixels' order."""
    task_target: float = 0.2
    """Mean training loss over `window` steps, nats."""
    redrawn: float = 0.3
    """The share of labels drawn anew each time, where gradients are to stay."""
    net_steps: int = 1000
    net_target: float = 0.1
    window: int = 10
    width: int = 32
    batch_size: int = 64
    per_decade: int = 4
    """Rates tried."""


FULL = Config()
QUICK = Config(sparse_steps=300, task_steps=600, net_steps=400, per_decade=3)

MARGIN = 1.5
"""A factor; 1.2 would be no more than a finer grid of rates may change."""

_SPARSE, _FORGETTING = ("Adagrad", "SGD"), ("Adagrad", "RMSprop")


def examine(config: Config, keys: Key) -> Outcome:
    """Losses, and steps until a loss is reached, by the best of many rates."""
    rare = {n: sparse.regression(config, n, sparse.problem().x, keys) for n in _SPARSE}
    # to SGD the rotated problem is the same
    dense = rare | {"Adagrad": sparse.regression(config, "Adagrad", sparse.problem().rotated, keys)}
    tasks, noisy = (
        {n: relearning.tasks(config, n, count, redrawn, keys) for n in _FORGETTING}
        for count, redrawn in ((2, 0.0), (1, config.redrawn))
    )
    net = {n: parts_of_adam.net_steps(config, n, keys) for n in OPTIMIZERS}
    apart = {b1: parts_of_adam.from_rmsprop(config, b1, keys) for b1 in (0.0, 0.9)}

    def factor(
        where: str, quantity: str, treated: Arm, control: Arm, expected: Expected = "less"
    ) -> Comparison:
        return Comparison(where, quantity, treated, control, expected, MARGIN, ratio=True)

    def adagrad(
        where: str, quantity: str, what: str, of: Any, expected: Expected = "less"
    ) -> Comparison:
        treated, control = (Arm(n, getattr(of[n], what), floor=sparse.LEAST) for n in _SPARSE)
        return factor(where, quantity, treated, control, expected)

    def scale(name: str, expected: Expected) -> list[Comparison]:
        last = config.task_steps // config.window - 1
        return [
            factor(
                where,
                f"{name}'s step by gradient",
                Arm(f"at step {config.task_steps}", of[name].scales[:, last]),
                Arm("at step 100 = 1", np.ones(len(keys))),
                expected,
            )
            for where, of in (
                ("on the digits", tasks),
                (f"with {config.redrawn:.0%} of labels drawn anew", noisy),
            )
        ]

    def steps(where: str, treated: str, control: str, of: Any, cap: int) -> Comparison:
        by, than = (Arm(name, of[name], cap=cap + config.window) for name in (treated, control))
        return factor(where, "steps to the target", by, than)

    def from_rmsprop(b1: float, expected: Expected, margin: float) -> Comparison:
        return Comparison(
            f"with b1 = {b1:g}", "difference from RMSprop's parameters",
            Arm("Adam", apart[b1]), Arm("none", np.zeros(len(keys))),
            expected, margin,
        )  # fmt: skip

    relearnt = {name: found.steps for name, found in tasks.items()}
    return Outcome(
        setting=(
            f"Digits, batches of {config.batch_size}; every optimizer at the rate, of "
            f"{config.per_decade} a decade, that is best for the other seeds. Softmax regression, "
            f"{config.sparse_steps} steps, on pixels as one of 17 intensities each (1,088 "
            "features, 64 of them 1), with an L2 penalty of 0.001 on half the squared weights, "
            "without which the digits are separable and no rate is too high; judged by how far "
            "the objective on all training digits is above its least (found by L-BFGS), and the "
            "weights from those there: of rare features, in fewer than 5 % of the digits, and of "
            "frequent ones, in more than 20 %. SGD's rate stays or falls as 1/√step, as "
            "Adagrad's does where gradients keep their size, whichever is better, so that falling "
            "alone is no advantage (in a first run it always fell). Where no feature is to be "
            "rare, all are rotated at random, which to SGD and to the penalty is the same problem, "
            f"so that its runs stand for both. An MLP, two layers of {config.width} relu units, "
            f"{config.net_steps} steps, until a training loss of {config.net_target:g} (mean of "
            f"{config.window} steps). The same net, {config.task_steps} steps, then as many on "
            "the digits with their pixels in another order, each optimizer at its best rate for "
            "the first task, until the loss is "
            f"{config.task_target:g}; and once on the first task with {config.redrawn:.0%} of the "
            "labels drawn anew in each batch, so that gradients stay. Step by gradient is the "
            "ratio of their norms. A run that never gets there counts as one record more than it "
            "was given, and the effect as a bound. Adam is set beside RMSprop with bias "
            "correction after 100 steps at 0.001, by the largest difference of a parameter, "
            "relative to the largest change of one."
        ),
        tested=[
            Tested(
                "Adagrad suits sparse features.",
                [adagrad("with one-hot pixels", "objective above its least", "excess", rare)],
            ),
            Tested(
                "It is the weights of rare features that it brings farther.",
                [
                    adagrad("for rare features", "distance from the optimum", "rare", rare),
                    factor(
                        "for rare beside frequent ones",
                        "distance by Adagrad / by SGD",
                        Arm("rare", rare["Adagrad"].rare / rare["SGD"].rare),
                        Arm("frequent", rare["Adagrad"].frequent / rare["SGD"].frequent),
                    ),
                ],
            ),
            Tested(
                "Where features are dense, it does no better than SGD.",
                [
                    adagrad(
                        "with the same pixels rotated",
                        "objective above its least",
                        "excess",
                        dense,
                        "not less",
                    )
                ],
            ),
            Tested("Adagrad's steps die away as gradients add up.", scale("Adagrad", "less")),
            Tested("RMSprop's do not, since it forgets.", scale("RMSprop", "not less")),
            Tested(
                "So RMSprop learns a new task in fewer steps.",
                [steps("when the task changes", "RMSprop", "Adagrad", relearnt, config.task_steps)],
            ),
            Tested(
                "Adam is RMSprop with momentum: without its momentum it is RMSprop.",
                [from_rmsprop(0.0, "not more", 1e-3), from_rmsprop(0.9, "more", 0.1)],
            ),
            Tested(
                "Adam trains a net in fewer steps than any of its parts.",
                [
                    steps(f"beside {other}", "Adam", other, net, config.net_steps)
                    for other in ("SGD", "momentum", "RMSprop", "Adagrad")
                ],
            ),
        ],
        seen=[
            sparse.picture(rare, dense),
            relearning.picture(config, tasks, noisy),
            parts_of_adam.picture(config, net, apart),
        ],
    )
