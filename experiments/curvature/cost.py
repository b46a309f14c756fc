"""What a step costs, each optimizer's beside the others'."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import jax

from experiments.benchmarks.timing import interleave
from experiments.curvature.autoencoder import Family, init
from jaxnets import train
from jaxnets.types import Array

STEPS = 10
"""A call; more than one, so that what K-FAC does every few steps is counted as often as it is."""


class Cost(NamedTuple):
    """Seconds for one step, medians."""

    wall: float
    cpu: float


def measure(
    families: Mapping[str, Family], images: Array, batch_size: int, rounds: int
) -> dict[str, Cost]:
    """Of the first settings of each."""
    batch = images[:batch_size], images[:batch_size]
    calls = {name: _call(family, batch, batch_size) for name, family in families.items()}
    cpu: dict[str, list[float]] = {name: [] for name in calls}

    def contender(name: str) -> Callable[[], int]:
        def run() -> int:
            started = time.process_time()
            calls[name]()
            cpu[name].append((time.process_time() - started) / STEPS)
            return STEPS

        return run

    wall = interleave({name: contender(name) for name in calls}, rounds=rounds)
    # the first call of each compiles
    return {name: Cost(wall[name].median, median(cpu[name][1:])) for name in calls}


def _call(family: Family, batch: Any, batch_size: int) -> Callable[[], None]:
    step, optimizer = family.make(batch_size, family.grid[0])
    state = train.init_state(init(jax.random.key(0)), optimizer, jax.random.key(1))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, length=STEPS)[0])

    def call() -> None:
        jax.block_until_ready(run(state))

    return call
