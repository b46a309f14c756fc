"""How far made images are from real ones: the Fréchet distance of a classifier's features.

As Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium", 2017, but with the last hidden layer of a small net trained on the same data in place
of Inception's. A distance depends on the net and on how many images there are: it is to be read
beside others of this run, above all that of the test images.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from experiments import nets
from experiments.classification import batch_of, make_program
from experiments.data import Dataset, standardizer
from experiments.data.dataset import Images
from experiments.images.task import clipped
from experiments.progress import progress
from jaxnets import models, optim, train
from jaxnets.types import Array

Features: TypeAlias = NDArray[np.floating[Any]]
"""`[n, features]`"""

BATCH_SIZE = 64
LEARNING_RATE = 1e-3


def frechet_distance(features: Features, others: Features) -> float:
    """`‖μ - μ'‖² + tr(Σ + Σ' - 2 (Σ Σ')^½)` of two sets `[n, features]`, in float64.

    The squared Wasserstein-2 distance of the normal distributions with their means and covariances
    (Dowson and Landau, 1982). The trace of the root is that of the symmetric
    `(Σ^½ Σ' Σ^½)^½`, by eigenvalues.
    """
    features, others = (np.asarray(x, np.float64) for x in (features, others))
    mean, covariance = features.mean(0), np.cov(features, rowvar=False)
    others_mean, others_covariance = others.mean(0), np.cov(others, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ others_covariance @ root)
    cross = np.sqrt(np.maximum(product, 0)).sum()
    gap = mean - others_mean
    return float(gap @ gap + np.trace(covariance) + np.trace(others_covariance) - 2 * cross)


class Judge(NamedTuple):
    """A trained classifier."""

    look: Callable[[Images], tuple[Features, NDArray[np.int_]]]
    """`look(images)`: features `[n, hidden]`, and the classes that are read."""
    accuracy: float
    """On the test images."""


def train_judge(data: Dataset, epochs: int, seed: int) -> Judge:
    """A CNN trained on the training images, by Adam."""
    model = nets.cnn_config(data, dropout=0.25, dtype="float32")
    move = standardizer(data.train_x)
    given = batch_of(move(data.train_x), data.train_y, np.float32)
    test = batch_of(move(data.test_x), data.test_y, np.float32)
    steps = train.steps_per_epoch(len(data.train_y), BATCH_SIZE)
    rate = optim.cosine_decay_schedule(LEARNING_RATE, steps * epochs)
    program = make_program(
        model, optim.adam(rate), batch_size=BATCH_SIZE, steps_per_epoch=steps, patience=None
    )
    state, stopping = program.init(jnp.asarray(seed))
    with progress(steps * epochs, batch_size=BATCH_SIZE, description="classifier") as bar:
        state, _, _ = program.run(epochs, state, stopping, given, test, bar)
    # the hidden layer is put out by a last layer that changes nothing
    *hidden, last = state.params["head"]["layers"]
    size = model.hidden[-1]
    same = {"kernel": jnp.eye(size), "bias": jnp.zeros(size)}
    headless = {**state.params, "head": {"layers": [*hidden, same]}}
    features_of = replace(model, n_out=size)

    def look_at(x: Array) -> tuple[Array, Array]:
        features, _ = models.cnn(headless, features_of, x, state=state.model_state)
        return features, jnp.argmax(features @ last["kernel"] + last["bias"])

    look_at_all = jax.jit(lambda images: lax.map(look_at, images, batch_size=256))

    def look(images: Images) -> tuple[Features, NDArray[np.int_]]:
        features, read = look_at_all(jnp.asarray(move(images)))
        return np.asarray(features), np.asarray(read)

    return Judge(look, float(program.evaluate(state, test)["accuracy"]))


def independent_pixels(data: Images, n: int, seed: int) -> Images:
    """Images of independent normal pixels with the means and deviations of `data`'s, in [0, 1]."""
    drawn = np.random.default_rng(seed).normal(data.mean(0), data.std(0), (n, *data.shape[1:]))
    return clipped(drawn)


def correlated_pixels(data: Images, n: int, seed: int) -> Images:
    """Images of one normal distribution with the mean and the covariance of `data`, in [0, 1]."""
    flat = data.reshape(len(data), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    z = np.random.default_rng(seed).normal(size=(n, len(values)))
    drawn = flat.mean(0) + z * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return clipped(drawn.reshape(n, *data.shape[1:]))
