"""Over the checkpoints of a run: how each training example moves itself, and test examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from experiments.classification import Batch
from experiments.plots import hardest_first
from jaxnets import gradients
from jaxnets.types import Array, Params, PyTree

Values = NDArray[np.float64]

CHUNK = 128
"""Examples whose factors are held at a time."""


class Scores(NamedTuple):
    """What a run says of each training example."""

    self_influence: Values
    """`[n]`: `Σ η ‖gᵢ‖²` over checkpoints."""
    last_layer: Values
    """`[n]`: the same of the last layer's parameters alone."""
    mean_loss: Values
    """`[n]`, over checkpoints."""
    final_loss: Values
    """`[n]`"""
    final_norm: Values
    """`[n]`: `‖gᵢ‖` at the last checkpoint."""
    influence: Values
    """`[n, tests]`: `Σ η ⟨gᵢ, hⱼ⟩` over checkpoints."""


class AtCheckpoint(NamedTuple):
    """The terms of one checkpoint."""

    losses: Array
    """`[n]`"""
    self_influence: Array
    """`[n]`"""
    last_layer: Array
    """`[n]`"""
    influence: Array
    """`[n, tests]`"""


Pass = Callable[[Params, Batch, Batch], AtCheckpoint]


def make_pass(loss: Callable[[Params, PyTree], Array], learning_rate: float) -> Pass:
    """`one_pass(params, train, test)`, compiled; the last layer is that of a `models.cnn`."""
    per_example = gradients.per_example_grad(loss)

    @jax.jit
    def one_pass(params: Params, train: Batch, test: Batch) -> AtCheckpoint:
        _, tests = per_example(params, test)
        n = len(train["y"])
        chunks = -(-n // CHUNK)

        def of_chunk(start: Array) -> AtCheckpoint:
            # the last chunk is filled up with the last example
            indices = jnp.minimum(start + jnp.arange(CHUNK), n - 1)
            batch = jax.tree.map(lambda leaf: leaf[indices], train)
            losses, factors = per_example(params, batch)
            last = gradients.sq_norms_by_leaf(factors)["head"]["layers"][-1]
            return AtCheckpoint(
                losses,
                gradients.self_influence(factors, learning_rate),
                learning_rate * (last["kernel"] + last["bias"]),
                gradients.tracin(factors, tests, learning_rate),
            )

        found = lax.map(of_chunk, CHUNK * jnp.arange(chunks))
        whole: AtCheckpoint = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)
        return whole

    return one_pass


def score(
    one_pass: Pass, learning_rate: float, checkpoints: Sequence[Params], train: Batch, test: Batch
) -> Scores:
    """TracInCP: the sums over all checkpoints."""
    passes = [one_pass(params, train, test) for params in checkpoints]
    found = jax.tree.map(lambda *terms: np.stack(terms).astype(np.float64), *passes)
    return Scores(
        self_influence=found.self_influence.sum(0),
        last_layer=found.last_layer.sum(0),
        mean_loss=found.losses.mean(0),
        final_loss=found.losses[-1],
        final_norm=np.sqrt(found.self_influence[-1] / learning_rate),
        influence=found.influence.sum(0),
    )


RANKINGS: Mapping[str, str] = {
    "self_influence": "self-influence",
    "last_layer": "the last layer's alone",
    "mean_loss": "mean loss of checkpoints",
    "final_loss": "loss at the end",
    "final_norm": "gradient norm at the end",
}
"""The scores that examples are ranked by, and what to call them."""


def found_first(values: Values, flipped: NDArray[np.bool_]) -> Values:
    """`[n + 1]`: the share of the flipped labels among the `k` examples ranked highest."""
    hits = flipped[hardest_first(values)]
    return np.concatenate([[0.0], np.cumsum(hits) / hits.sum()])


def precision(values: Values, flipped: NDArray[np.bool_]) -> float:
    """The share of flipped labels among as many examples, ranked highest, as were flipped."""
    return float(found_first(values, flipped)[flipped.sum()])


class Influences(NamedTuple):
    """The training examples that moved a test example's loss most."""

    helpful: NDArray[np.intp]
    """Those that took most off it, most first."""
    harmful: NDArray[np.intp]
    """Those that added most to it, most first."""


def most_influential(influence: Values, count: int) -> Influences:
    """Of `influence [n]` on one test example."""
    helpful, harmful = hardest_first(influence), hardest_first(-influence)
    return Influences(helpful[:count], harmful[:count])
