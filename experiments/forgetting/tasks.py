"""A data set as a sequence of tasks of the same size."""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset
from experiments.errors import UsageError

Protocol: TypeAlias = Literal["task", "class", "permuted"]

PROTOCOLS: dict[Protocol, str] = {
    "task": "two classes at a time, and which two is told",
    "class": "two classes at a time, and which two is not told",
    "permuted": "all classes, the pixels in another order each time",
}
"""After van de Ven and Tolias, "Three scenarios for continual learning" (2019)."""

LARGE = 16
"""Images from this side on are seen at half of it."""

HELD_OUT = 0.25
"""The share of training images on which strengths are chosen."""


class Examples(NamedTuple):
    """Of T tasks, n each."""

    x: NDArray[np.float32]
    """`[T, n, pixels]`"""
    y: NDArray[np.int32]
    """`[T, n]`"""
    answers: NDArray[np.bool_]
    """`[T, n, classes]`: which classes the net may answer."""


class Tasks(NamedTuple):
    """To learn and to be tested on, one after the other."""

    names: tuple[str, ...]
    train: Examples
    test: Examples


def smaller(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each 2×2 square of large images; small ones as they are."""
    n, height, width, channels = images.shape
    if min(height, width) < LARGE or height % 2 or width % 2:
        return images
    squares = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    means: NDArray[np.float32] = squares.mean((2, 4), dtype=np.float32)
    return means


def hold_out(data: Dataset, seed: int) -> Dataset:
    """The training images alone, some of which are tested on instead of the test images."""
    order = np.random.default_rng(seed).permutation(len(data.train_y))
    cut = int((1 - HELD_OUT) * len(order))
    known, other = order[:cut], order[cut:]
    return data._replace(
        train_x=data.train_x[known], train_y=data.train_y[known],
        test_x=data.train_x[other], test_y=data.train_y[other],
    )  # fmt: skip


def make_tasks(data: Dataset, protocol: Protocol, n_tasks: int, most: int, seed: int) -> Tasks:
    """The tasks of one run, at most `most` training images each; drawn by `seed` are which images,
    and the permutations.

    Raises:
      UsageError: if there are too few classes for so many tasks.
    """
    rng = np.random.default_rng(seed)
    n_classes = len(data.classes)
    if protocol != "permuted" and n_classes < 2 * n_tasks:
        raise UsageError(
            f"--tasks: {n_tasks} tasks of two classes need {2 * n_tasks} classes, {data.name} has "
            f"{n_classes}"
        )
    groups: list[tuple[int, ...]] = [(2 * t, 2 * t + 1) for t in range(n_tasks)]
    if protocol == "permuted":
        groups = [tuple(range(n_classes))] * n_tasks
        names = tuple(f"order {t + 1}" for t in range(n_tasks))
    else:
        names = tuple(", ".join(data.classes[c] for c in group) for group in groups)
    pixels = data.train_x[0].size
    orders = [np.arange(pixels), *(rng.permutation(pixels) for _ in groups[1:])]
    if protocol != "permuted":
        orders = [np.arange(pixels)] * n_tasks

    def part(x: NDArray[np.float32], y: NDArray[np.int32], most: int) -> Examples:
        own = [rng.permutation(np.flatnonzero(np.isin(y, group))) for group in groups]
        size = min(most, *map(len, own))
        chosen = [indices[:size] for indices in own]
        flat = x.reshape(len(x), -1)
        answers = np.zeros((n_tasks, size, n_classes), bool)
        for t, group in enumerate(groups):
            answers[t][:, slice(None) if protocol == "class" else list(group)] = True
        return Examples(
            np.stack([flat[i][:, order] for i, order in zip(chosen, orders, strict=True)]),
            np.stack([y[i] for i in chosen]),
            answers,
        )

    train = part(data.train_x, data.train_y, most)
    return Tasks(names, train, part(data.test_x, data.test_y, 2000))
