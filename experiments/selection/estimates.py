"""How good the chosen configuration is said to be, and how good it is."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.selection.task import (
    Drawn,
    Grid,
    Task,
    advance,
    begun,
    fresh,
    further,
    loss_of_each,
)
from jaxnets import train
from jaxnets.train import selection
from jaxnets.train.selection.validation import Fit
from jaxnets.types import Array, PyTree

FOLDS = 5


class Estimated(NamedTuple):
    """One repetition's."""

    rows: list[selection.Row]
    """The grid by cross-validation, from best to worst."""
    two: selection.Comparison
    """The best two."""
    nested: selection.Nested
    true_losses: NDArray[np.float64]
    """On untouched data, of each configuration of the grid trained on the whole development set."""
    truth: float
    """Of them, that of the configuration that cross-validation chose."""
    least: float
    """The least of them: what the right choice would have come to."""


def make_fit(task: Task, epochs: int) -> Fit:
    """`fit(member, train, held_out) -> losses`, made once so that it is compiled once."""

    def fit(member: train.Member, part: PyTree, held_out: PyTree) -> Array:
        state = further(task, member, fresh(task, member), part, epochs)
        return loss_of_each(task, state.params, held_out)

    return fit


def estimate(
    task: Task,
    fit: Fit,
    grid: Grid,
    drawn: Drawn,
    *,
    epochs: int,
    seed: int,
) -> Estimated:
    """By cross-validation, plain and nested, of the development set; and in truth."""
    data: Any = drawn.development
    y = data["y"]
    members = train.members([seed], grid)
    folds = selection.stratified_kfold(y, FOLDS, seed=seed)
    scores = selection.cross_validate(fit, members, folds, data)
    rows = selection.rank(train.table(members), scores)

    def inner(indices: NDArray[np.int64]) -> list[selection.Fold]:
        return selection.stratified_kfold(y[indices], FOLDS, seed=seed)

    _, found = advance(task, members, begun(task, members), data, drawn.test, epochs=epochs)
    true = np.asarray(found, np.float64)
    return Estimated(
        rows,
        selection.compare(rows[0].scores, rows[1].scores, held_out_share=1 / FOLDS),
        selection.nested(fit, members, folds, inner, data),
        true,
        float(true[rows[0].number]),
        float(np.nanmin(true)),
    )
