"""Folds: which examples a model is trained on and which it is judged by, as index arrays.

Everything here is index arithmetic on the host, in NumPy, from a seed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


class Fold(NamedTuple):
    """One way of setting examples apart."""

    train: Indices
    held_out: Indices


class StackedFolds(NamedTuple):
    """Folds of one shape, for `vmap`."""

    train: NDArray[np.int32]
    """`[folds, m]`, with `m` the smallest fold's; of the others, some sit out."""
    held_out: NDArray[np.int32]
    """`[folds, h]`, with `h` the largest fold's; shorter ones repeat their first index."""
    weight: NDArray[np.float32]
    """`[folds, h]`: 1 where `held_out` is an example, 0 where it only fills up."""


def _require_folds(function: str, k: int, n: int) -> None:
    if not 2 <= k <= n:
        raise ValueError(f"{function}: k must be from 2 to the {n} examples, got {k}")


def _folds(fold_of: Indices, k: int) -> list[Fold]:
    return [Fold(np.flatnonzero(fold_of != i), np.flatnonzero(fold_of == i)) for i in range(k)]


def kfold(n: int, k: int, *, seed: int | None = None) -> list[Fold]:
    """`k` folds of `n` examples, each held out once; sizes differ by one at most.

    The first `n mod k` folds are the larger ones. Without a seed a fold is a run of neighbours, as
    in scikit-learn's `KFold`; with one, examples are shuffled first.

    Raises:
      ValueError: if `k` is not in `[2, n]`.
    """
    _require_folds("kfold", k, n)
    sizes = np.full(k, n // k) + (np.arange(k) < n % k)
    fold_of = np.empty(n, np.int64)
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    fold_of[order] = np.repeat(np.arange(k), sizes)
    return _folds(fold_of, k)


def stratified_kfold(labels: ArrayLike, k: int, *, seed: int | None = None) -> list[Fold]:
    """`k` folds, each with every class's share of examples to within one.

    Sorted by class, the examples are dealt to the folds in turn, so that each fold's number of a
    class is that of the cards it was dealt there; within a class the first examples go to the first
    folds (scikit-learn's `StratifiedKFold`), or, with a seed, any to any. Classes are numbered
    as they first appear.

    Args:
      labels: `[n]`, anything that can be told apart.
      k: from 2 to the number of examples of the rarest class.
      seed: of the shuffle within classes.

    Raises:
      ValueError: if `labels` is not a vector, or a class has fewer than `k` examples.
    """
    y = np.asarray(labels)
    if y.ndim != 1:
        raise ValueError(f"stratified_kfold: labels must be [n], got shape {y.shape}")
    _require_folds("stratified_kfold", k, len(y))
    _, first, inverse = np.unique(y, return_index=True, return_inverse=True)
    codes = np.argsort(np.argsort(first))[inverse]
    counts = np.bincount(codes)
    if counts.min() < k:
        raise ValueError(
            f"stratified_kfold: k must be at most the {counts.min()} examples of the rarest class, "
            f"got {k}"
        )
    dealt = np.sort(codes)
    rng = None if seed is None else np.random.default_rng(seed)
    fold_of = np.empty(len(y), np.int64)
    for code in range(len(counts)):
        share = np.array([np.sum(dealt[i::k] == code) for i in range(k)])
        folds = np.repeat(np.arange(k), share)
        fold_of[codes == code] = folds if rng is None else rng.permutation(folds)
    return _folds(fold_of, k)


def repeated(split: Any, repeats: int, *, seed: int = 0) -> list[Fold]:
    """The folds of `split(seed=s)` for `repeats` seeds drawn from `seed`, one after the other.

    Example:
      >>> folds = repeated(functools.partial(stratified_kfold, labels, 5), repeats=10)

    Raises:
      ValueError: for `repeats` below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeated: repeats must be at least 1, got {repeats}")
    seeds = np.random.SeedSequence(seed).generate_state(repeats)
    return [fold for s in seeds for fold in split(seed=int(s))]


def stacked(folds: Sequence[Fold], *, seed: int = 0) -> StackedFolds:
    """Folds of different sizes as arrays of one shape.

    Training parts are cut to the smallest one, leaving out examples drawn by `seed` (of k-fold
    parts, at most one); held-out parts are filled up with weight 0, so that each of their examples
    counts once.

    Raises:
      ValueError: for no folds, or an empty part.
    """
    if not folds or not all(len(part) for fold in folds for part in fold):
        raise ValueError("stacked: needs at least one fold, and no empty parts")
    rng = np.random.default_rng(seed)
    m = min(len(fold.train) for fold in folds)
    h = max(len(fold.held_out) for fold in folds)
    train = [np.sort(rng.choice(fold.train, m, replace=False)) for fold in folds]
    fill = [np.r_[f.held_out, np.repeat(f.held_out[:1], h - len(f.held_out))] for f in folds]
    weight = [np.arange(h) < len(fold.held_out) for fold in folds]
    return StackedFolds(
        np.stack(train).astype(np.int32),
        np.stack(fill).astype(np.int32),
        np.stack(weight).astype(np.float32),
    )
