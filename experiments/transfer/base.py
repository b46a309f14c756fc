"""A pretrained base and a task, as the methods take them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxnets.types import Array, Params, PyTree

Floats = NDArray[np.floating[Any]]


FromScratch = Callable[[int, NDArray[np.intp], int], float]
"""`(seed, which examples, steps) -> accuracy` of a net that knows nothing before."""


class Features(NamedTuple):
    """What a frozen base makes of examples."""

    last: Floats
    """`[n, features]`: what its own head sees."""
    levels: Floats | None
    """`[n, features]`: of every depth, where the base has them."""
    below: PyTree
    """Leaves `[n, …]`: what the part above, which is tuned, begins with."""


class Base(NamedTuple):
    """A task, and all that is known of a base about it."""

    name: str
    classes: tuple[str, ...]
    train: Features
    train_y: NDArray[np.int32]
    test: Features
    test_y: NDArray[np.int32]
    params: Params
    """Of the base, `"classifier"` among them, which is replaced."""
    logits: Callable[[Params, PyTree], Array]
    """`logits(params, below)`, of a batch."""
    tuned: Mapping[str, bool]
    """Path rules: what fine-tuning trains."""
    depths: Mapping[str, int]
    """Path rules: how far below the head, for layer-wise rates."""
    adapted: Mapping[str, int]
    """Path rules: which kernels get adapters."""
    from_scratch: FromScratch
    about: str
    """Of the base and the nets, for the report."""
