"""A population of small nets in one program, beside the same runs one after another.

Run it alone on the machine: `python -m experiments.benchmarks.population --help`. The net is the
digits MLP (64-32-10, batches of 32, Adam); a run is a scan over its steps, compiled once.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.timing import interleave, table, versions
from experiments.data import load
from experiments.errors import UsageError
from experiments.flags import require_positive
from jaxnets import losses, models, optim, train

BASELINE = "one after another"

NET = models.MLPConfig(n_in=64, n_out=10, hidden=(32,))


@dataclass(frozen=True)
class Config:
    """Time whole runs of every form, in turns, and print medians and ratios."""

    seeds: int = 8
    """of each learning rate"""
    rates: int = 8
    """learning rates, so that there are seeds × rates members"""
    epochs: int = 4
    """of each run"""
    batch_size: int = 32
    """examples per step"""
    chunk: int = 16
    """members at a time, of the form in chunks"""
    devices: int = os.cpu_count() or 1
    """CPU devices, of the form over devices; the others use the first, with all its threads"""
    rounds: int = 9
    """counted rounds"""


def digits() -> dict[str, Any]:
    """The training digits, flat."""
    data = load("digits")
    return {"x": jnp.asarray(data.train_x.reshape(len(data.train_y), -1)), "y": data.train_y}


def trainer(config: Config, *, shared: bool) -> Callable[[train.Member, Any], Any]:
    """`(member, data) -> (state, losses)`: a whole run."""

    def loss(params: Any, batch: Any) -> Any:
        return jnp.mean(
            losses.softmax_cross_entropy_with_integer_labels(
                models.mlp(params, NET, batch["x"]), batch["y"]
            )
        )

    def run(member: train.Member, data: Any) -> Any:
        optimizer = optim.adam(member.hyper["learning_rate"])
        key = jax.random.key(member.seed)
        state = train.init_state(models.init_mlp(key, NET), optimizer, key)
        order = jax.random.key(0) if shared else None
        epoch = train.epoch(train.step(loss, optimizer), config.batch_size, order=order)

        def body(state: train.TrainState, _: None) -> Any:
            state, metrics = epoch(state, data)
            return state, metrics["loss"]

        return jax.lax.scan(body, state, length=config.epochs)

    return run


def contenders(config: Config) -> dict[str, Callable[[], int]]:
    """Each form: all runs, waited for; how many steps they were in all."""
    data = digits()
    rates = np.geomspace(1e-4, 1e-1, config.rates).tolist()
    grid = train.members(range(config.seeds), {"learning_rate": rates})
    members = config.seeds * config.rates
    steps = members * config.epochs * (len(data["y"]) // config.batch_size)
    one = [train.member(grid, i) for i in range(members)]
    shared, own = (trainer(config, shared=s) for s in (True, False))
    alone = jax.jit(shared).lower(one[0], data).compile()

    def in_turn() -> int:
        for member in one:
            jax.block_until_ready(alone(member, data))
        return steps

    def together(
        run: Callable[..., Any], chunk: int | None = None, grid: train.Member = grid
    ) -> Callable[[], int]:
        program = jax.jit(train.population(run, chunk=chunk)).lower(grid, data).compile()

        def go() -> int:
            jax.block_until_ready(program(grid, data))
            return steps

        return go

    return {
        BASELINE: in_turn,
        "population, shared batches": together(shared),
        f"shared batches, over {config.devices} devices": together(
            shared, grid=train.over_devices(grid)
        ),
        f"shared batches, {config.chunk} at a time": together(shared, config.chunk),
        "population, own batches": together(own),
    }


def processor_seconds(forms: dict[str, Callable[[], int]]) -> str:
    """CPU microseconds of a member's step, of all threads, once each."""
    cells = []
    for name, go in forms.items():
        before = time.process_time()
        steps = go()
        cells.append(f"{name} {1e6 * (time.process_time() - before) / steps:.2f}")
    return f"CPU µs a member's step: {', '.join(cells)}"


def main(config: Config) -> None:
    """Print a table: microseconds for each step of one member, and speeds.

    Raises:
      UsageError: for an amount below 1, or devices that do not divide the members.
    """
    names = ("seeds", "rates", "epochs", "batch_size", "chunk", "devices")
    require_positive({name: getattr(config, name) for name in names})
    if config.seeds * config.rates % config.devices:
        raise UsageError(f"--devices must divide the members, got {config.devices}")
    jax.config.update("jax_num_cpu_devices", config.devices)
    print(versions())
    forms = contenders(config)
    timings = interleave(forms, rounds=config.rounds)
    print(f"\n{config.seeds} seeds x {config.rates} rates, {config.epochs} epochs each")
    print(table(timings, BASELINE))
    print(processor_seconds(forms), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
