"""Linear heads on features of a frozen base, solved, and how strong their penalty is."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.transfer.base import ALL, LAST, Base, Floats
from experiments.transfer.labels import FOLDS, folds, mean_loss, set_apart
from experiments.transfer.learner import HeadChoice, Indices, Logits, Trial
from jaxnets import nn, train
from jaxnets.train.selection import Fold
from jaxnets.types import Array, Params

STRENGTHS = (1e-2, 1e-3, 1e-1, 1e-4, 1.0)
"""Of `C`, on standardized features; the middle first, which is taken where nothing chooses."""
FEW = 1000
"""Labels up to which each fold is held out once; above, only one is."""


class Head(NamedTuple):
    """`logits = W (x - mean) / deviation + b`, with the penalty that `W` was solved under."""

    params: Params
    mean: Array
    deviation: Array
    penalty: Array
    """`λ` in `mean CE + λ ‖W‖²`, of which `W` and `b` are the optimum."""


def head_logits(head: Head, x: Array) -> Array:
    """`[n, features]` to `[n, classes]`."""
    return nn.dense(head.params, (x - head.mean[None]) / head.deviation[None])


@partial(jax.jit, static_argnames="n_classes")
def _solve(x: Array, y: Array, n_classes: int, strength: Array) -> Params:
    return train.linear_probe(
        x, y, n_classes, inverse_l2=strength, max_steps=200, tol=1e-3
    ).params  # fmt: skip


def _no_wider_than_long(z: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """`z` turned so that few examples need few features, and the way back for kernels.

    A penalized kernel lies in the span of the examples: with `z zᵀ = U Λ Uᵀ` it is solved for on
    `U √Λ` instead, at the same penalty.
    """
    if len(z) >= z.shape[1]:
        return z.astype(np.float32), lambda kernel: kernel
    values, vectors = np.linalg.eigh(z @ z.T)
    kept = values > 1e-9 * values[-1]
    turned, roots = vectors[:, kept], np.sqrt(values[kept])
    return (turned * roots).astype(np.float32), lambda kernel: z.T @ (turned / roots @ kernel)


class Solved(NamedTuple):
    """A head, its `C`, and the loss of held-out labels at it."""

    head: Head
    strength: float
    loss: float
    """NaN where `C` was given, or there were too few labels to hold some out."""


def solve(
    x: Floats, y: NDArray[np.int32], n_classes: int, seed: int, strength: float | None = None,
    k: int = FOLDS,
) -> Solved:  # fmt: skip
    """Logistic regression on standardized features, with the `C` that `k` folds choose."""
    mean = x.mean(0, dtype=np.float64)
    # what hardly varies among few examples must not be blown up
    deviation = np.sqrt(x.var(0, dtype=np.float64) + 1e-4)
    z, back = _no_wider_than_long((x - mean) / deviation)
    loss = float("nan")
    if strength is None:
        strength, loss = _chosen(z, y, n_classes, seed, k)
    solved = _solve(z, y, n_classes, jnp.float32(strength))
    kernel = jnp.asarray(back(np.asarray(solved["kernel"])), jnp.float32)
    # as linear_probe has it: twice as strong for two classes
    penalty = (2 if n_classes == 2 else 1) / (2 * strength * len(y))
    head = Head(
        {"kernel": kernel, "bias": solved["bias"]},
        jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32),
        jnp.float32(penalty),
    )  # fmt: skip
    return Solved(head, strength, loss)


def _chosen(
    z: Floats, y: NDArray[np.int32], n_classes: int, seed: int, k: int
) -> tuple[float, float]:
    """`C` with the least loss of labels held out, of all folds where they are not many."""
    parts = folds(y, seed, k)[: k if len(y) <= FEW else 1]
    if not parts:
        return STRENGTHS[0], float("nan")

    def loss_of(part: Fold, strength: float) -> float:
        known, held = part
        solved = _solve(z[known], y[known], n_classes, jnp.float32(strength))
        return mean_loss(np.asarray(nn.dense(solved, jnp.asarray(z[held]))), y[held])

    found = [float(np.mean([loss_of(part, c) for part in parts])) for c in STRENGTHS]
    best = int(np.argmin(found))
    return STRENGTHS[best], found[best]


def solve_all(base: Base, chosen: Indices, seed: int, k: int = FOLDS) -> dict[str, Solved]:
    """A head on each kind of features."""
    y, n_classes = base.train_y[chosen], len(base.classes)
    return {kind: solve(x[chosen], y, n_classes, seed, k=k) for kind, x in base.train.seen.items()}


def best_kind(solved: dict[str, Solved]) -> str:
    """The features with the least held-out loss; all levels where that is not known."""
    if np.isnan([each.loss for each in solved.values()]).any():
        return ALL if ALL in solved else next(iter(solved))
    return min(solved, key=lambda kind: solved[kind].loss)


def choice(solved: dict[str, Solved], kind: str) -> HeadChoice:
    """Of that kind of features."""
    return HeadChoice(kind, solved[kind].strength)


def trials(base: Base, chosen: Indices, seed: int) -> tuple[Trial, Trial] | None:
    """Whether to tune, from the best head and from that of the last level; None of too few labels.

    The fifth that is to say it has no part in what head is tuned: `C` and the kind of features are
    chosen by four folds of the other four fifths, each as large as the fifth.
    """
    parts = set_apart(base.train_y, chosen, seed)
    if parts is None:
        return None
    solved = solve_all(base, parts[0], seed, FOLDS - 1)
    return Trial(*parts, choice(solved, best_kind(solved))), Trial(*parts, choice(solved, LAST))


@jax.jit
def _logits(head: Head, x: Array) -> Array:
    return head_logits(head, x)


def tested(base: Base, kind: str, head: Head) -> Logits:
    """Of the test examples, on a base that is frozen."""
    return np.asarray(_logits(head, jnp.asarray(base.test.seen[kind], jnp.float32)))
