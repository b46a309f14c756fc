"""Whether the cheapest way to norms, as chosen by operations and bytes, is also the fastest.

For single layers from short to long and from narrow to wide, every exact way is timed. Run it alone
on the machine: `make bench BENCH=cost_model`, or `python -m experiments.benchmarks.cost_model`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jax import lax

from experiments.benchmarks.timing import at_least_one, chosen, interleave, versions
from experiments.errors import UsageError
from jaxnets import gradients, nn
from jaxnets.gradients.plans import Plan, choose, uses_by_parameter, ways
from jaxnets.gradients.program import values_of
from jaxnets.gradients.squares import squares
from jaxnets.types import Array

KEY = jax.random.key(0)


class Layer(NamedTuple):
    """A layer with one parameter; its loss is linear, so that only the norms take time."""

    apply: Callable[[Array, Array], Array]
    parameter: tuple[int, ...]
    example: tuple[int, ...]
    batch: int = 16
    rows: int = 0
    """Of a table, whose rows' numbers are the example."""


def dense(t: int, d: int, k: int, batch: int = 16) -> Layer:
    """A sequence of t through a kernel [d, k]."""
    return Layer(lambda w, x: x @ w, (d, k), (t, d) if t > 1 else (d,), batch)


def conv(space: tuple[int, ...], n_in: int, n_out: int, stride: int = 1) -> Layer:
    """A window of 3 along each axis."""
    return Layer(
        lambda w, x: nn.conv({"kernel": w}, x, stride=stride),
        (*(3 for _ in space), n_in, n_out),
        (*space, n_in),
    )


def depthwise(space: tuple[int, ...], channels: int) -> Layer:
    """A window of 3 along each axis, every channel with its own."""
    return Layer(
        lambda w, x: nn.conv({"kernel": w}, x, groups=channels),
        (*(3 for _ in space), 1, channels),
        (*space, channels),
    )


def turns(t: int, d: int, k: int) -> Layer:
    """A loop over time, each turn of which has the same kernel."""
    return Layer(lambda w, x: lax.scan(lambda c, x: (c, x @ w), 0, x[:, None])[1], (d, k), (t, d))


def embedding(t: int, rows: int, width: int) -> Layer:
    """Rows of a table."""
    return Layer(lambda w, ids: w[ids], (rows, width), (t,), rows=rows)


def tied(t: int, rows: int, width: int) -> Layer:
    """Rows of a table that is the output's kernel too."""
    return Layer(lambda w, ids: w[ids] @ w.T, (rows, width), (t,), rows=rows)


LAYERS: dict[str, Layer] = {
    "dense, no sequence, 784 -> 512": dense(1, 784, 512),
    "dense, t=8, 32 -> 32": dense(8, 32, 32),
    "dense, t=4, 512 -> 512": dense(4, 512, 512),
    "dense, t=16, 256 -> 256": dense(16, 256, 256),
    "dense, t=32, 512 -> 2048": dense(32, 512, 2048, 8),
    "dense, t=32, 512 -> 1000": dense(32, 512, 1000),
    "dense, t=64, 64 -> 64": dense(64, 64, 64),
    "dense, t=128, 256 -> 256": dense(128, 256, 256),
    "dense, t=128, 256 -> 1024": dense(128, 256, 1024),
    "dense, t=128, 256 -> 1000, B=4": dense(128, 256, 1000, 4),
    "dense, t=256, 32 -> 128": dense(256, 32, 128),
    "dense, t=512, 256 -> 256": dense(512, 256, 256, 8),
    "dense, t=1024, 16 -> 16": dense(1024, 16, 16),
    "dense in turns, t=16, 256 -> 256": turns(16, 256, 256),
    "dense in turns, t=128, 64 -> 64": turns(128, 64, 64),
    "conv 1-D, 64, 32 -> 32": conv((64,), 32, 32),
    "conv 1-D, 16, 128 -> 256": conv((16,), 128, 256),
    "conv 2-D, 32x32, 3 -> 32": conv((32, 32), 3, 32),
    "conv 2-D, 16x16, 32 -> 64": conv((16, 16), 32, 64),
    "conv 2-D, 8x8, 64 -> 128": conv((8, 8), 64, 128),
    "conv 2-D, 4x4, 256 -> 256": conv((4, 4), 256, 256),
    "conv 2-D, 2x2, 512 -> 512": conv((2, 2), 512, 512),
    "conv 2-D, depthwise, 16x16, 64": depthwise((16, 16), 64),
    "embedding, t=16, 32 x 16": embedding(16, 32, 16),
    "embedding, t=32, 1000 x 64": embedding(32, 1000, 64),
    "embedding, t=128, 1000 x 256": embedding(128, 1000, 256),
    "embedding, t=512, 100 x 32": embedding(512, 100, 32),
    "tied, t=32, 1000 x 512": tied(32, 1000, 512),
    "tied, t=128, 100 x 64": tied(128, 100, 64),
}


@dataclass(frozen=True)
class Config:
    """Time each exact way to the norms of single layers, in turns; compare the fastest and ours."""

    rounds: int = 9
    """counted rounds; the least time of all counts"""
    only: str = ""
    """layers whose name contains this"""


def _programs(layer: Layer) -> tuple[dict[str, Callable[[], int]], Plan, list[Plan]]:
    """Each way as a compiled program; what is chosen; and all that were weighed."""
    keys = jax.random.split(KEY, 3)
    w = jax.random.normal(keys[0], layer.parameter)
    shape = (layer.batch, *layer.example)
    x: Any = jax.random.normal(keys[1], shape)
    if layer.rows:
        x = jax.random.randint(keys[1], shape, 0, layer.rows)
    result = jax.eval_shape(layer.apply, w, x[0])
    signal = jax.random.normal(keys[2], (layer.batch, *result.shape))

    def loss(w: Any, x: Any, signal: Any) -> Array:
        return jnp.sum(layer.apply(w, x) * signal)

    def factors(*arguments: Any) -> gradients.Factors:
        return gradients.per_example_grad(loss)(*arguments)[1]

    (found,) = uses_by_parameter(jax.eval_shape(factors, w, x, signal)).values()
    weighed, best = ways(found, w), choose(found, w)

    def compiled(plan: Plan) -> Callable[[], int]:
        def norms(*arguments: Any) -> Array:
            now = factors(*arguments)
            (found,) = uses_by_parameter(now).values()
            return squares(plan, found, 0, values_of(now.params, now.constants), layer.batch)

        program = jax.jit(norms).lower(w, x, signal).compile()

        def once() -> int:
            program(w, x, signal).block_until_ready()
            return 1

        return once

    return {plan.way: compiled(plan) for plan in weighed}, best, weighed


def main(config: Config) -> None:
    """Print a row for each layer, and how often the choice is within a tenth of the fastest.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    at_least_one(config.rounds)
    print(versions())
    names = chosen(LAYERS, config.only)
    near, decided = 0, 0
    print(f"\n{'µs':<34}{'chosen':<10}{'over the fastest':>17}  each way")
    for name in names:
        programs, best, weighed = _programs(LAYERS[name])
        timings = interleave(programs, rounds=config.rounds)
        fastest = min(t.low for t in timings.values())
        over = timings[best.way].low / fastest
        near, decided = near + (over <= 1.1), decided + (len(weighed) > 1)
        each = "  ".join(
            f"{p.way} {1e6 * timings[p.way].low:,.0f} "
            f"({p.flops / 1e6:.3g} Mflop, {p.bytes / 1e6:.3g} MB)"
            for p in weighed
        )
        print(f"{name:<34}{best.way:<10}{over:>16.2f}x  {each}", flush=True)
    print(f"\nwithin 1.1 of the fastest: {near} of {len(names)}; of them with a choice: {decided}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
