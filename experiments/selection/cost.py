"""Wall seconds of a search as one program, beside the same nets one after the other."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import Timing, interleave
from experiments.selection.estimates import FOLDS, make_fit
from experiments.selection.task import Drawn, Grid, Task
from jaxnets import train
from jaxnets.train import selection
from jaxnets.types import Array, PyTree

TOGETHER, IN_TURN = "one program", "one after the other"


class Cost(NamedTuple):
    """One search's, by form."""

    nets: int
    steps: int
    """Of each net."""
    seconds: dict[str, Timing]
    """Compiled; taken in turns."""
    first: dict[str, float]
    """Seconds of the very first call, compilation included."""


def _measure(nets: int, steps: int, forms: Mapping[str, Callable[[], Any]], rounds: int) -> Cost:
    first = {}
    for name, call in forms.items():
        started = time.perf_counter()
        call()
        first[name] = time.perf_counter() - started

    def counted(call: Callable[[], Any]) -> Callable[[], int]:
        def once() -> int:
            call()
            return 1

        return once

    timed = interleave({name: counted(call) for name, call in forms.items()}, rounds=rounds)
    return Cost(nets, steps, timed, first)


def measure(
    task: Task,
    grid: Grid,
    drawn: Drawn,
    *,
    epochs: int,
    seed: int,
    rounds: int,
) -> dict[str, Cost]:
    """Of the grid by one held-out part, and by cross-validation."""
    data: Any = drawn.development
    members = train.members([seed], grid)
    n = len(members.seed)
    each = [train.member(members, i) for i in range(n)]
    folds = selection.stratified_kfold(data["y"], FOLDS, seed=seed)
    # of one shape, so that those in turn compile no more often than those together
    stacked = selection.stacked(folds)
    parts = [
        tuple(jax.tree.map(lambda leaf, at=rows: jnp.asarray(leaf[at]), data) for rows in pair)
        for pair in zip(stacked.train, stacked.held_out, strict=True)
    ]
    fit = make_fit(task, epochs)

    def score(member: train.Member, part: PyTree, held_out: PyTree) -> Array:
        return jnp.mean(fit(member, part, held_out))

    one, all_of_one_part = jax.jit(score), jax.jit(train.population(score))

    def in_turn(parts: Sequence[Any]) -> None:
        for part, held_out in parts:
            for member in each:
                jax.block_until_ready(one(member, part, held_out))

    steps = epochs * (len(stacked.train[0]) // task.batch_size)
    searched = {
        TOGETHER: lambda: jax.block_until_ready(all_of_one_part(members, *parts[0])),
        IN_TURN: lambda: in_turn(parts[:1]),
    }
    crossed = {
        TOGETHER: lambda: selection.cross_validate(fit, members, folds, data),
        IN_TURN: lambda: in_turn(parts),
    }
    return {
        "one held-out part": _measure(n, steps, searched, rounds),
        f"{FOLDS} folds": _measure(n * FOLDS, steps, crossed, rounds),
    }
