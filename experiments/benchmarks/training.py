"""Training steps: jaxnets beside Flax, Equinox and PyTorch, same model, data and batch.

Run it alone on the machine: `make bench`, or `python -m experiments.benchmarks.training --help`.
"""

import importlib.metadata
import platform
from dataclasses import dataclass

import tyro

from experiments.benchmarks.contenders import CONTENDERS, Epoch
from experiments.benchmarks.problems import PROBLEMS, Problem
from experiments.benchmarks.timing import interleave, table

BASELINE = "Flax NNX + Optax"


@dataclass(frozen=True)
class Config:
    """Time one epoch of each contender, in turns, and print medians and ratios."""

    rounds: int = 15
    """counted rounds"""
    only: str = ""
    """problems whose name contains this"""


def versions() -> str:
    """What is compared, and where."""
    import jax

    found = []
    for package in ("jax", "flax", "optax", "equinox", "torch"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"{jax.devices()[0].device_kind}, Python {platform.python_version()}, {', '.join(found)}"


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
    """Print a table for each problem."""
    print(versions())
    for problem in PROBLEMS:
        if config.only not in problem.name:
            continue
        timings = interleave(make_contenders(problem), rounds=config.rounds)
        print(f"\n{problem.name} ({problem.steps} steps a round, {config.rounds} rounds)")
        print(table(timings, BASELINE), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
