"""What the training benchmark trains: three nets, the same for every library."""

from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
    """A net, its batch size, and random data of the right shape."""

    name: str
    image: tuple[int, int, int] | None
    """Of a CNN's input; `None` for an MLP."""
    channels: tuple[int, ...]
    """Of a CNN's 3x3 convolutions, each followed by relu and 2x2 max-pooling."""
    n_in: int
    """Size of the dense layers' input."""
    hidden: tuple[int, ...]
    n_out: int
    batch_size: int
    steps: int
    """Per epoch, and per timed round."""


PROBLEMS = (
    Problem("MLP 64-32-10, batch 32", None, (), 64, (32,), 10, 32, 200),
    Problem("MLP 784-512-512-10, batch 128", None, (), 784, (512, 512), 10, 128, 40),
    Problem(
        "CNN 28×28, conv 32, conv 64, dense 128, batch 64",
        (28, 28, 1), (32, 64), 3136, (128,), 10, 64, 12,
    ),
)  # fmt: skip

LEARNING_RATE = 1e-3


def data(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal inputs and random labels for one epoch."""
    rng = np.random.default_rng(0)
    n = problem.steps * problem.batch_size
    shape = problem.image or (problem.n_in,)
    x = rng.standard_normal((n, *shape)).astype(np.float32)
    return x, rng.integers(0, problem.n_out, n).astype(np.int32)


def batches(problem: Problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """The epoch in batches, unshuffled."""
    x, y = data(problem)
    size = problem.batch_size
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]
