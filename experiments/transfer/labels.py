"""Which examples have labels, which of those are held out, and what these say of logits."""

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.transfer.learner import Indices, Logits
from jaxnets import losses
from jaxnets.train.selection import Fold, stratified_kfold

FOLDS = 5
PER_FOLD = 8
"""Labels of each fold, on average, from which on they choose; below, nothing does."""
TEMPERATURES = 2.0 ** np.arange(-2, 4.25, 0.25)


def draw(labels: NDArray[np.int32], n: int, n_classes: int, seed: int) -> Indices:
    """`n` examples, as many of each class as of any other, or one more."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(n_classes)]
    turn = [indices[i] for i in range(max(map(len, order))) for indices in order
            if i < len(indices)]  # fmt: skip
    return np.array(turn[:n])


def shared(labels: NDArray[np.int32], n: int, n_classes: int) -> float:
    """The share of `n` labels that two seeds' draws have in common, on average."""
    drawn = np.bincount(labels[draw(labels, n, n_classes, 0)], minlength=n_classes)
    there = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    return float(np.sum(drawn**2 / there) / np.sum(drawn))


def folds(y: NDArray[np.int32], seed: int, k: int = FOLDS) -> list[Fold]:
    """Parts with each class's share, each held out once; none where labels are too few."""
    if len(y) < PER_FOLD * k or np.unique(y, return_counts=True)[1].min() < k:
        return []
    return stratified_kfold(y, k, seed=seed)


def set_apart(y: NDArray[np.int32], chosen: Indices, seed: int) -> tuple[Indices, Indices] | None:
    """Of the chosen examples four fifths, which have `FOLDS - 1` folds of their own, and the fifth.

    None where labels are too few.
    """
    parts = folds(y[chosen], seed)
    return (chosen[parts[0].train], chosen[parts[0].held_out]) if parts else None


def mean_loss(logits: Logits, y: NDArray[np.int32]) -> float:
    """The mean negative log-likelihood: unlike accuracy it tells few labels' candidates apart."""
    each = losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(y))
    return float(np.mean(np.asarray(each)))


def refined_loss(logits: Logits, y: NDArray[np.int32]) -> float:
    """`mean_loss` of `logits / T` at the best temperature `T`: without what is only confidence.

    A net that learns on grows confident before it stops becoming more accurate, and by the plain
    loss it would be stopped too early (Berta et al., "Rethinking early stopping: refine, then
    calibrate", 2025).
    """
    return min(mean_loss(logits / t, y) for t in TEMPERATURES)
