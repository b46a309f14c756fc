"""Optimizers: jaxnets beside Optax, the same call on the same leaves, jitted and donated.

Run it alone on the machine: `python -m experiments.benchmarks.optimizers --help`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro

from experiments.benchmarks.timing import interleave, versions
from jaxnets import losses, models, optim

FLOOR = 28
"""Bytes that AdamW in float32 must move for each parameter: reads four, writes three."""


class Shape(NamedTuple):
    """A net as an optimizer sees it."""

    leaves: int
    size: int
    """Of all leaves together."""

    def __str__(self) -> str:
        return f"{self.leaves} leaves, {self.size / 1e6:g} M parameters"


MANY_SMALL, MANY, FEW = Shape(150, 960_000), Shape(150, 24_960_000), Shape(8, 25_165_824)
MEDIUM = Shape(30, 960_000)


class Contender(NamedTuple):
    """A compiled update with all that it needs."""

    run: Callable[[], int]
    compile_seconds: float
    bytes_moved: float
    """By XLA's own account of what its kernels read and write, for each parameter."""


def make_leaves(shape: Shape, seed: int) -> dict[str, jax.Array]:
    """Matrices of equal size, of 32 columns."""
    rows = shape.size // shape.leaves // 32
    keys = jax.random.split(jax.random.key(seed), shape.leaves)
    return {f"layer{i}": jax.random.normal(key, (rows, 32)) for i, key in enumerate(keys)}


def compiled(
    step: Callable[..., Any], state: Any, params: Any, *inputs: Any, size: int
) -> Contender:
    """`step(state, params, *inputs) -> (state, params)`, with both donated."""
    state, params = jax.tree.map(jnp.copy, (state, params))
    started = time.perf_counter()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(state, params, *inputs).compile()
    seconds = time.perf_counter() - started
    moved = (program.cost_analysis() or {}).get("bytes accessed", float("nan"))

    def run() -> int:
        nonlocal state, params
        state, params = program(state, params, *inputs)
        jax.block_until_ready((state, params))
        return 1

    return Contender(run, seconds, moved / size)


def update_alone(
    optimizer: Any, shape: Shape, *, packed: bool = False, value: float | None = None
) -> Contender:
    """The optimizer's step, with its gradients there already."""
    params, grads = make_leaves(shape, 0), make_leaves(shape, 1)
    extra = {} if value is None else {"value": value}
    held, given = (optim.pack(params), optim.pack(grads)) if packed else (params, grads)

    def step(state: Any, params: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params, **extra)
        return state, optim.apply_updates(params, updates)

    return compiled(step, jax.jit(optimizer.init)(held), held, given, size=shape.size)


def in_training(optimizer: Any, depth: int, width: int, *, packed: bool) -> Contender:
    """The whole step of a deep MLP: its leaves, gradients and all."""
    config = models.MLPConfig(n_in=width, n_out=10, hidden=(width,) * (depth - 1))
    params = models.init_mlp(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (64, width))
    y = jnp.arange(64) % 10

    def loss(params: Any) -> jax.Array:
        leaves = optim.unpack(params) if packed else params
        logits = models.mlp(leaves, config, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    def step(state: Any, params: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return state, optim.apply_updates(params, updates)

    held = optim.pack(params) if packed else params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return compiled(step, jax.jit(optimizer.init)(held), held, size=size)


def report(title: str, contenders: dict[str, Contender], rounds: int) -> None:
    """Time them in turns and print a table; the first is what the others are compared with."""
    baseline, *_ = contenders
    timings = interleave({name: c.run for name, c in contenders.items()}, rounds=rounds)
    print(f"\n{title}")
    print(f"{'':<42}{'median ms':>10}{'speed':>8}{'compile s':>11}{'bytes/param':>13}")
    for name, (_, seconds, moved) in contenders.items():
        median = timings[name].median
        speed = timings[baseline].median / median
        print(f"{name:<42}{1e3 * median:>10.3f}{speed:>7.2f}x{seconds:>11.2f}{moved:>13.0f}")


def flat_tables(rounds: int) -> None:
    """AdamW per leaf and packed, alone and in training."""
    for shape in (MANY_SMALL, MANY, FEW):
        report(
            f"AdamW's step, {shape} (floor: {FLOOR} bytes a parameter)",
            {
                "optax": update_alone(optax.adamw(1e-3), shape),
                "jaxnets": update_alone(optim.adamw(1e-3), shape),
                "jaxnets, flat, leaves in and out": update_alone(
                    optim.flat(optim.adamw(1e-3)), shape
                ),
                "jaxnets, flat, kept packed": update_alone(
                    optim.flat(optim.adamw(1e-3)), shape, packed=True
                ),
            },
            rounds,
        )
    for depth, width in ((75, 32), (75, 128), (8, 512)):
        report(
            f"Whole training step, AdamW, MLP of {depth} layers of {width}, batch 64",
            {
                "optax": in_training(optax.adamw(1e-3), depth, width, packed=False),
                "jaxnets": in_training(optim.adamw(1e-3), depth, width, packed=False),
                "jaxnets, flat, leaves in and out": in_training(
                    optim.flat(optim.adamw(1e-3)), depth, width, packed=False
                ),
                "jaxnets, flat, kept packed": in_training(
                    optim.flat(optim.adamw(1e-3)), depth, width, packed=True
                ),
            },
            rounds,
        )


@dataclass(frozen=True)
class Config:
    """Time optimizers beside Optax's, in turns, and print medians and ratios."""

    rounds: int = 11
    """counted rounds"""


def main(config: Config) -> None:
    """Print all tables."""
    print(versions())
    flat_tables(config.rounds)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
