"""Causal attention over long sequences, forward and backward: tiles beside all logits at once.

Run it alone on the machine: `make bench BENCH=attention`, or
`python -m experiments.benchmarks.attention --help`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.timing import compiled_steps, interleave, memory_line, table, versions
from experiments.errors import UsageError
from jaxnets import nn

BASELINE = "jax.nn.dot_product_attention"


@dataclass(frozen=True)
class Config:
    """Time attention's value and gradients, in turns; print the ratios and the memory."""

    rounds: int = 15
    """counted rounds"""
    lengths: tuple[int, ...] = (512, 2048)
    """positions in a sequence"""
    positions: int = 2048
    """in all sequences of a batch together"""
    heads: int = 8
    """of attention"""
    head_dim: int = 32
    """features of each"""


def naive(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As it is written in a textbook."""
    t, d = query.shape[1], query.shape[3]
    logits = jnp.einsum("bthd,bshd->bhts", query, key) / np.sqrt(d)
    logits = jnp.where(jnp.tril(jnp.ones((t, t), bool))[None, None], logits, -jnp.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), value)


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    BASELINE: lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True),
    "naive": naive,
    "jaxnets": lambda *qkv: nn.attention(*qkv, causal=True),
}


def value_and_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The function's value, and the gradients of the sum of its squares."""

    def both(*operands: jax.Array) -> Any:
        y, pull = jax.vjp(function, *operands)
        return y, pull(2 * y)

    return both


def operands(config: Config, length: int) -> list[jax.Array]:
    """Queries, keys and values, random."""
    rng = np.random.default_rng(0)
    shape = max(1, config.positions // length), length, config.heads, config.head_dim
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(3)]


def main(config: Config) -> None:
    """Print a table for each length.

    Raises:
      UsageError: if a number leaves nothing to time.
    """
    if not config.lengths:
        raise UsageError("--lengths must name one length or several")
    for name in ("lengths", "positions", "heads", "head_dim"):
        value = getattr(config, name)
        if np.min(value) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {value}")
    print(versions())
    for length in config.lengths:
        qkv = operands(config, length)
        steps, memory = compiled_steps(
            {name: (value_and_gradients(f), qkv) for name, f in FUNCTIONS.items()}
        )
        timings = interleave(steps, rounds=config.rounds)
        print(f"\n[batch, T, heads, features] = {list(qkv[0].shape)} ({config.rounds} rounds)")
        print(table(timings, BASELINE))
        print(memory_line(memory, BASELINE), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
