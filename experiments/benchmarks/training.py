"""Training steps: jaxnets beside Flax, Equinox and PyTorch, same model, data and batch.

Run it alone on the machine: `make bench`, or `python -m experiments.benchmarks.training --help`.
"""

import sys
from dataclasses import dataclass

import tyro

from experiments.benchmarks.contenders import CONTENDERS, Epoch
from experiments.benchmarks.problems import PROBLEMS, Problem
from experiments.benchmarks.timing import chosen, interleave, table, versions
from experiments.errors import UsageError

BASELINE = "Flax NNX + Optax"


@dataclass(frozen=True)
class Config:
    """Time one epoch of each contender, in turns, and print medians and ratios."""

    rounds: int = 15
    """counted rounds"""
    only: str = ""
    """problems whose name contains this"""


def make_contenders(problem: Problem) -> dict[str, Epoch]:
    """Every contender whose library is installed."""
    made = {}
    for name, make in CONTENDERS.items():
        try:
            made[name] = make(problem)
        except ModuleNotFoundError as missing:
            print(f"({name}: {missing.name} is not installed)")
    return made


def main(config: Config) -> None:
    """Print a table for each problem.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    names = chosen((problem.name for problem in PROBLEMS), config.only)
    print(versions())
    for problem in PROBLEMS:
        if problem.name in names:
            timings = interleave(make_contenders(problem), rounds=config.rounds)
            print(f"\n{problem.name} ({problem.steps} steps a round, {config.rounds} rounds)")
            print(table(timings, BASELINE), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
