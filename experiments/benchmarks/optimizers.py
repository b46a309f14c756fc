"""Optimizers: jaxnets beside Optax, the same call on the same leaves, jitted and donated.

Run it alone on the machine: `python -m experiments.benchmarks.optimizers --help`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro

from experiments.benchmarks.timing import interleave
from experiments.benchmarks.training import versions
from jaxnets import optim

Update = Callable[[Any, Any, Any], tuple[Any, Any]]
"""`(gradients, state, params) -> (state, params)`."""


class Shape(NamedTuple):
    """A net as an optimizer sees it."""

    leaves: int
    size: int
    """Of all leaves together."""

    @property
    def name(self) -> str:
        """As in a table's head."""
        return f"{self.leaves} leaves, {self.size / 1e6:.0f} M parameters"


MANY_SMALL, MANY, FEW = Shape(150, 1_000_000), Shape(150, 25_000_000), Shape(8, 25_000_000)
MEDIUM = Shape(30, 1_000_000)


class Made(NamedTuple):
    """A compiled update with all that it needs."""

    run: Callable[[], int]
    compile_seconds: float
    bytes_per_parameter: float
    """By XLA's own account of what its kernels read and write."""


def make_tree(shape: Shape, seed: int) -> dict[str, jax.Array]:
    """Matrices of equal size, of 32 columns."""
    rows = shape.size // shape.leaves // 32
    keys = jax.random.split(jax.random.key(seed), shape.leaves)
    return {f"layer{i}": jax.random.normal(key, (rows, 32)) for i, key in enumerate(keys)}


def leaf_update(optimizer: Any) -> Update:
    """Gradients, parameters and updates as leaves."""

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    return update


def make(optimizer: Any, shape: Shape) -> Made:
    """Compile the update of `optimizer` for leaves of `shape`, state and parameters donated."""
    params, grads = make_tree(shape, 0), make_tree(shape, 1)
    state = jax.jit(optimizer.init)(params)
    started = time.perf_counter()
    compiled = jax.jit(leaf_update(optimizer), donate_argnums=(1, 2)).lower(grads, state, params)
    run = compiled.compile()
    seconds = time.perf_counter() - started
    size = sum(leaf.size for leaf in params.values())
    moved = (run.cost_analysis() or {}).get("bytes accessed", float("nan"))

    def step() -> int:
        nonlocal state, params
        state, params = run(grads, state, params)
        jax.block_until_ready(params)
        return 1

    return Made(step, seconds, moved / size)
