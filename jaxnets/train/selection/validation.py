"""Cross-validation of a whole population in one program, plain and nested."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnets.train.population import Member, member, population, size, table
from jaxnets.train.selection.folds import Fold, StackedFolds, stacked
from jaxnets.train.selection.results import Row, best, rank
from jaxnets.train.selection.seeds import by_configuration, over_seeds
from jaxnets.train.step import leading_size
from jaxnets.types import Array, PyTree

Fit = Callable[[Member, PyTree, PyTree], Array]


def cross_validate(
    fit: Fit, grid: Member, folds: Sequence[Fold], data: PyTree, *, chunk: int | None = None
) -> NDArray[Any]:
    """The score of every member on every fold: `[members, folds]`, from one compiled program.

    Args:
      fit: `fit(member, train, held_out) -> [examples of held_out]`: trains on the one part and
        returns each example's score on the other, smaller being better (a loss, or whether it was
        wrong). With `train.epoch(..., order=key)` members share each fold's batches. The same
        function, handed in again with data of the same shapes, is not compiled again.
      grid: from `train.members` or `train.paired`.
      folds: from `kfold`, `stratified_kfold` or `repeated`. Where their sizes differ they are cut
        and filled up as `stacked` says; what fills up does not count.
      data: leaves with the same first axis.
      chunk: so many members at a time, as in `population`.

    Raises:
      ValueError: for indices beyond the data, or if `fit` does not return a score per example.
    """
    n = leading_size("cross_validate", data)
    parts = stacked(folds)
    largest = max(int(parts.train.max()), int(parts.held_out.max()))
    if largest >= n:
        raise ValueError(f"cross_validate: folds have index {largest}, data {n} examples")

    return np.asarray(_scores(fit, parts, grid, data, chunk)).T


@partial(jax.jit, static_argnames=("fit", "chunk"))
def _scores(fit: Fit, parts: StackedFolds, grid: Member, data: PyTree, chunk: int | None) -> Array:
    """`[folds, members]`; compiled once for a `fit` and its shapes, as of nested searches."""

    def on_fold(fold: StackedFolds) -> Array:
        train = jax.tree.map(lambda leaf: jnp.asarray(leaf)[fold.train], data)
        held_out = jax.tree.map(lambda leaf: jnp.asarray(leaf)[fold.held_out], data)

        def score(member: Member, train: PyTree, held_out: PyTree) -> Array:
            each = fit(member, train, held_out)
            if each.shape != fold.weight.shape:
                raise ValueError(
                    "cross_validate: fit must return a score for each held-out example, "
                    f"{list(fold.weight.shape)}, got {list(each.shape)}"
                )
            # of a thousand scores in half precision the sum overflows, or stops growing before
            each = each.astype(jnp.promote_types(each.dtype, jnp.float32))
            # not a product: what fills up may be anything, NaN too
            return jnp.sum(each, where=fold.weight > 0) / jnp.sum(fold.weight)

        scores: Array = population(score, chunk=chunk)(grid, train, held_out)
        return scores

    scored: Array = jax.vmap(on_fold)(parts)
    return scored


class Nested(NamedTuple):
    """What nested cross-validation found."""

    chosen: tuple[Row, ...]
    """Of each outer fold: the best of its inner search, `mean` being the inner estimate, `number`
    that of the configuration, its seeds counted once."""
    scores: tuple[float, ...]
    """Of each outer fold: the chosen configuration, trained on all but that fold, on it; the mean
    over its seeds."""
    mean: float
    """Of `scores`: an estimate of the whole procedure, choosing included, that nothing was chosen
    by."""
    optimism: float
    """By how much the inner estimates are better: `mean` minus theirs. Their nets see fewer
    examples, which may outweigh what choosing adds: it can be below 0."""


def nested(
    fit: Fit,
    grid: Member,
    outer: Sequence[Fold],
    inner: Callable[[NDArray[Any]], Sequence[Fold]],
    data: PyTree,
    *,
    chunk: int | None = None,
) -> Nested:
    """Nested cross-validation: in each outer fold's training part, an inner one chooses.

    Choosing the best of many by cross-validation makes its own estimate too good (Cawley and
    Talbot, 2010); the outer folds took no part in the choice. Configurations are chosen by their
    means over seeds (`over_seeds`).

    Args:
      fit, grid, data, chunk: as in `cross_validate`.
      outer: folds of all of `data`.
      inner: `inner(indices) -> folds` of a training part, whose indices into `data` it is given;
        the folds count from 0 within that part.

    Raises:
      ValueError: as `cross_validate`; if no configuration of a search has a finite score.
    """
    size("nested", grid)
    members = table(grid)
    _, numbers = by_configuration(members)
    chosen, scores = [], []
    for fold in outer:
        part = jax.tree.map(lambda leaf, of=fold.train: np.asarray(leaf)[of], data)
        found = cross_validate(fit, grid, inner(fold.train), part, chunk=chunk)
        row = best(rank(*over_seeds(members, found)))
        its_seeds = member(grid, np.array(numbers[row.number]))
        chosen.append(row)
        scores.append(float(np.mean(cross_validate(fit, its_seeds, [fold], data, chunk=chunk))))
    mean = float(np.mean(scores))
    inside = float(np.mean([row.mean for row in chosen]))
    return Nested(tuple(chosen), tuple(scores), mean, mean - inside)
