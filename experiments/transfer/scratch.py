"""Learning with no base: a small net, its rate and its number of steps chosen as all else is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from experiments.transfer.learner import HeadChoice, Indices, Learner, Start
from jaxnets import losses, optim
from jaxnets.types import Array, Params, PyTree

BATCH = 64
EPOCHS = 60
LEAST, MOST = 400, 1200
"""Steps: at any number of labels more examples are drawn than for a base's tuning."""
RATES = (1e-3, 3e-3)
SHARES = (1 / 3, 2 / 3, 1.0)


def steps_of(n: int) -> int:
    """Sixty epochs of `n` labels, within limits."""
    return min(MOST, max(LEAST, -(-EPOCHS * n // BATCH)))


def from_scratch(
    init: Callable[[Array], tuple[Params, PyTree]],
    apply: Callable[[Params, PyTree, PyTree, PyTree, Array | None], tuple[Array, PyTree]],
    inputs: Callable[[Indices | None], PyTree],
    labels: NDArray[Any],
    fixed: Callable[[Indices], PyTree] = lambda known: (),
) -> Learner:
    """Of a net.

    Args:
      init: `init(key) -> (params, moments)`.
      apply: `apply(params, fixed, moments, inputs, key) -> (logits, moments)`; the key is None
        where it does not learn.
      inputs: of training examples, or of the test examples if None.
      labels: of all training examples.
      fixed: what the net needs to know of the training examples.
    """

    def start(known: Indices, seed: int, of_head: HeadChoice) -> Start:
        params, moments = init(jax.random.key(seed))
        return Start(params, fixed(known), moments)

    def loss(
        params: Params, fixed: PyTree, moments: PyTree, batch: PyTree, key: Array
    ) -> tuple[Array, PyTree]:
        found, moments = apply(params, fixed, moments, batch["inputs"], key)
        value = losses.softmax_cross_entropy_with_integer_labels(found, batch["y"])
        return jnp.mean(value), moments

    def logits(params: Params, fixed: PyTree, moments: PyTree, inputs: PyTree) -> Array:
        return apply(params, fixed, moments, inputs, None)[0]

    def optimizer(rate: Any, steps: int) -> optim.GradientTransformation:
        return optim.adamw(optim.cosine_decay_schedule(rate, steps), weight_decay=0.01)

    return Learner(
        rates=RATES, shares=SHARES, steps=steps_of, batch=BATCH, start=start, loss=loss,
        logits=logits, optimizer=optimizer, inputs=inputs, labels=labels,
    )  # fmt: skip
