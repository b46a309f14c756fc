"""Linear heads on features of a frozen base, solved, and how strong their penalty is."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.transfer.base import ALL, Base, Floats
from experiments.transfer.labels import FOLDS, folds, mean_loss
from experiments.transfer.learner import Indices, Logits
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
    x: Floats, y: NDArray[np.int32], n_classes: int, seed: int, strength: float | None = None
) -> Solved:
    """Logistic regression on standardized features, with the `C` that held-out labels choose."""
    mean = x.mean(0, dtype=np.float64)
    # what hardly varies among few examples must not be blown up
    deviation = np.sqrt(x.var(0, dtype=np.float64) + 1e-4)
    z, back = _no_wider_than_long((x - mean) / deviation)
    loss = float("nan")
    if strength is None:
        strength, loss = _chosen(z, y, n_classes, seed)
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


def _chosen(z: Floats, y: NDArray[np.int32], n_classes: int, seed: int) -> tuple[float, float]:
    """`C` with the least loss of labels held out, five-fold where they are not many."""
    parts = folds(y, seed)[: FOLDS if len(y) <= FEW else 1]
    if not parts:
        return STRENGTHS[0], float("nan")

    def loss_of(part: Fold, strength: float) -> float:
        known, held = part
        solved = _solve(z[known], y[known], n_classes, jnp.float32(strength))
        return mean_loss(np.asarray(nn.dense(solved, jnp.asarray(z[held]))), y[held])

    found = [float(np.mean([loss_of(part, c) for part in parts])) for c in STRENGTHS]
    best = int(np.argmin(found))
    return STRENGTHS[best], found[best]


def solve_all(base: Base, chosen: Indices, seed: int) -> dict[str, Solved]:
    """A head on each kind of features."""
    y = base.train_y[chosen]
    return {
        kind: solve(x[chosen], y, len(base.classes), seed) for kind, x in base.train.seen.items()
    }


def best_kind(solved: dict[str, Solved]) -> str:
    """The features with the least held-out loss; all levels where that is not known."""
    if np.isnan([each.loss for each in solved.values()]).any():
        return ALL if ALL in solved else next(iter(solved))
    return min(solved, key=lambda kind: solved[kind].loss)


@jax.jit
def _logits(head: Head, x: Array) -> Array:
    return head_logits(head, x)


def tested(base: Base, kind: str, head: Head) -> Logits:
    """Of the test examples, on a base that is frozen."""
    return np.asarray(_logits(head, jnp.asarray(base.test.seen[kind], jnp.float32)))
