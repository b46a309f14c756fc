"""Fine-tuning of all layers, from the images themselves.

Every kernel, scale and bias is trained, batch norm takes moments of the task's own images, and
these are mirrored and shifted: nothing is computed once. It begins with a head that was solved on
what the base's own head sees (Kumar et al., 2022), whose penalty weight decay takes the place of.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.nets import Augment, augmented
from experiments.transfer.base import LAST, Features
from experiments.transfer.heads import head_logits, solve
from experiments.transfer.learner import HeadChoice, Indices, Learner, Start
from experiments.transfer.tuning import HEAD, LEAST, SHARES
from jaxnets import losses, optim
from jaxnets.types import Array, Params, PyTree

BATCH = 32
EPOCHS = 20
RATES = (3e-4, 1e-4, 1e-3)

SeenBy = Callable[[Params, PyTree, Array, bool], tuple[Array, PyTree]]
"""`(params, moments, images, whether it learns) -> (what the base's own head sees, moments)`"""


def all_layers(
    params: Params,
    moments: PyTree,
    seen_by: SeenBy,
    inputs: Callable[[Indices | None], PyTree],
    features: Features,
    labels: NDArray[np.int32],
    n_classes: int,
    how: Augment,
    most: int,
) -> Learner:
    """Of a base with batch norm.

    Args:
      features: of the training examples, by the base as it is.
      most: steps, where twenty epochs are more.
    """

    def start(known: Indices, seed: int, of_head: HeadChoice) -> Start:
        x, y = features.seen[LAST][known], labels[known]
        head = solve(x, y, n_classes, seed, of_head.strength).head
        return Start({**params, HEAD: head.params}, head, moments)

    def apply(
        trained: Params, head: PyTree, moments: PyTree, x: Array, learns: bool
    ) -> tuple[Array, PyTree]:
        body = {name: part for name, part in trained.items() if name != HEAD}
        x, moments = seen_by(body, moments, x, learns)
        return head_logits(head._replace(params=trained[HEAD]), x), moments

    def loss(
        trained: Params, head: PyTree, moments: PyTree, batch: PyTree, key: Array
    ) -> tuple[Array, PyTree]:
        found, moments = apply(trained, head, moments, augmented(batch["inputs"], key, how), True)
        value = losses.softmax_cross_entropy_with_integer_labels(found, batch["y"])
        return jnp.mean(value), moments

    def logits(trained: Params, head: PyTree, moments: PyTree, x: PyTree) -> Array:
        return apply(trained, head, moments, x, False)[0]

    def optimizer(rate: Any, steps: int) -> optim.GradientTransformation:
        schedule = optim.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
        return optim.adamw(schedule, weight_decay=0.01)

    return Learner(
        rates=RATES, shares=SHARES, batch=BATCH, start=start, loss=loss, logits=logits,
        steps=lambda n: min(most, max(LEAST, -(-EPOCHS * n // BATCH))),
        optimizer=optimizer, inputs=inputs, labels=labels,
    )  # fmt: skip
