"""A pretrained base and a task, as the methods take them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.transfer.learner import Learner
from jaxnets.types import Array, Params, PyTree

Floats = NDArray[np.floating[Any]]

LAST = "last level"
"""What the base's own head sees."""
ALL = "all levels"
"""Of every depth, where the base has them."""


class Features(NamedTuple):
    """What a frozen base makes of examples."""

    seen: Mapping[str, Floats]
    """By `LAST` and perhaps `ALL`, `[n, features]`: what a head may see."""
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
    """Of the base, without its head."""
    features: Callable[[Params, PyTree], Mapping[str, Array]]
    """`features(params, below)`, of a batch, by the names in `seen`; at the base's own parameters
    it is what is cached there."""
    tuned: Mapping[str, bool]
    """Path rules: what fine-tuning trains."""
    depths: Mapping[str, int]
    """Path rules of what is tuned: how many times its rate is halved."""
    adapted: Mapping[str, int]
    """Path rules: which kernels get adapters."""
    stages: Mapping[str, int]
    """Path rules of the base's part that is tuned: its turn in gradual unfreezing, from 0, at which
    the head is trained too; empty: not tried."""
    rates: tuple[float, ...]
    """Of fine-tuning, to choose from; the first where nothing chooses."""
    scratch: Learner
    """A net that knows nothing before."""
    about: str
    """Of the base and the nets, for the report."""
    whole: Callable[[int], Learner] | None = None
    """All of it fine-tuned from the inputs themselves, by so many steps at most."""
