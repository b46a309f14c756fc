"""Which words a net goes by: the gradient of its verdict with respect to their vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.sequences import Batch, Classifier
from jaxnets.types import Array, Params


class Explained(NamedTuple):
    """A review of the test part."""

    review: int
    """Its number there."""
    words: Sequence[str]
    """Those that the net reads."""
    saliency: NDArray[np.float32]
    """Of each word; positive where it speaks for praise."""


def choose(praise: NDArray[np.float64], labels: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """Indices of reviews: surest and right, least sure, surest and wrong; `count` each."""
    right = (praise > 0.5) == (labels == 1)
    sure = np.abs(praise - 0.5)
    order = np.argsort(-sure, kind="stable")
    unsure = order[::-1][:count]
    others = order[~np.isin(order, unsure)]
    return np.concatenate([others[right[others]][:count], unsure, others[~right[others]][:count]])


def by_word(classifier: Classifier, params: Params, batch: Batch) -> list[NDArray[np.float32]]:
    """`⟨∂(z₁ - z₀)/∂v_t, v_t⟩` of each word vector v_t: gradient times input.

    To first order, what the verdict would lose were the vector 0. Each position is given a row of
    its own in the table of vectors, so that one derivative by the table is one by each position.
    """

    def verdict(table: Array, length: Array) -> Array:
        own = {**params, "embedding": {**params["embedding"], "embedding": table}}
        logits = classifier.logits(own, jnp.arange(len(table)), length)
        return logits[1] - logits[0]

    @jax.jit
    def of_one(ids: Array, length: Array) -> Array:
        table = params["embedding"]["embedding"][ids]
        return jnp.sum(jax.grad(verdict)(table, length) * table, -1)

    return [
        np.asarray(of_one(ids, length))[: int(length)]
        for ids, length in zip(batch["x"], batch["lengths"], strict=True)
    ]
