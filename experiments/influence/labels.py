"""Training labels of which some are wrong, and known to be."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset
from experiments.errors import UsageError


class Labels(NamedTuple):
    """The training labels that a net is given."""

    given: NDArray[np.int32]
    flipped: NDArray[np.bool_]
    """Which differ from the data set's own."""


def flip(data: Dataset, share: float, seed: int) -> Labels:
    """`share` of the training labels, drawn evenly, each changed to any other class.

    Raises:
      UsageError: if that is less than one label, or there is only one class.
    """
    n, classes = len(data.train_y), len(data.classes)
    count = round(share * n)
    if count < 1:
        raise UsageError(
            f"--flipped must make at least one of the {n} training labels wrong, got {share:g}"
        )
    if classes < 2:
        raise UsageError(f"{data.name}: with one class, no label can be wrong")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(n, count, replace=False)
    given = data.train_y.copy()
    given[chosen] = (given[chosen] + rng.integers(1, classes, count)) % classes
    return Labels(given, given != data.train_y)
