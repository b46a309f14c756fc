"""An LSTM over time, value and gradient: jaxnets beside Flax NNX and, if installed, PyTorch.

Run it alone on the machine: `make bench BENCH=recurrent`, or
`python -m experiments.benchmarks.recurrent --help`.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from experiments.benchmarks.layers import OURS, lstm_over_time, value_and_gradient
from experiments.benchmarks.timing import interleave, table, versions
from experiments.errors import UsageError

TORCH = "PyTorch"


@dataclass(frozen=True)
class Config:
    """Time an LSTM forward and backward in each library, in turns; print the ratios."""

    rounds: int = 21
    """counted rounds"""
    batch: int = 32
    """sequences at a time"""


def in_torch(inputs: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """PyTorch's LSTM of the same weights: its output, and the gradients of its squares' sum.

    Those are named as in `torch.nn.LSTM`, and `x` is that of the input.
    """
    import torch

    params, x = inputs
    n_in, wide = params["input"]["kernel"].shape
    layer = torch.nn.LSTM(n_in, wide // 4, batch_first=True)

    def tensor(leaf: Any) -> Any:
        return torch.tensor(np.asarray(leaf))

    with torch.no_grad():
        layer.weight_ih_l0.copy_(tensor(params["input"]["kernel"]).T)
        layer.weight_hh_l0.copy_(tensor(params["hidden"]["kernel"]).T)
        layer.bias_ih_l0.copy_(tensor(params["input"]["bias"]))
        layer.bias_hh_l0.zero_()
    sequences = tensor(x).requires_grad_()

    def run() -> tuple[Any, dict[str, Any]]:
        layer.zero_grad()
        sequences.grad = None
        y, _ = layer(sequences)
        y.square().sum().backward()
        return y, {"x": sequences.grad, **{n: p.grad for n, p in layer.named_parameters()}}

    return run


def main(config: Config) -> None:
    """Print the table.

    Raises:
      UsageError: if `rounds` or `batch` leaves nothing to time.
    """
    if config.batch < 1:
        raise UsageError(f"--batch must be at least 1, got {config.batch}")
    print(versions())
    library, theirs, ours, inputs = lstm_over_time(config.batch)
    steps = {
        library: value_and_gradient(theirs, inputs),
        OURS: value_and_gradient(ours, inputs),
    }
    if importlib.util.find_spec("torch"):
        run = in_torch(inputs)
        steps[TORCH] = lambda: len(run()) // 2
    timings = interleave(steps, rounds=config.rounds)
    print(f"\nLSTM, 128 to 128, of [{config.batch}, 64, 128] ({config.rounds} rounds)")
    print(table(timings, library), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
