"""What it costs to look at the flow of a training step, beside the same step without.

Run it alone on the machine: `make bench BENCH=flow`, or
`python -m experiments.benchmarks.flow --help`.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

from experiments.benchmarks.per_example import cnn, mlp
from experiments.benchmarks.timing import at_least_one, chosen, versions
from experiments.errors import UsageError
from jaxnets import gradients, losses, models, optim

KEY = jax.random.key(0)
BASE = "step"


class Problem(NamedTuple):
    """A mean loss of a batch, and that of one example."""

    loss: Callable[..., jax.Array]
    one: Callable[..., jax.Array]
    params: Any
    inputs: jax.Array
    labels: jax.Array


def _mean(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def mean(params: Any, x: Any, y: Any) -> jax.Array:
        return jnp.mean(jax.vmap(loss, (None, 0, 0))(params, x, y))

    return mean


def dense() -> Problem:
    """784-512-512-10, batch 128."""
    net = mlp()
    return Problem(_mean(net.loss), net.loss, net.params, net.inputs[:128], net.labels[:128])


def convolutional() -> Problem:
    """Three convolutions on 32x32x3, batch 64."""
    net = cnn()
    return Problem(_mean(net.loss), net.loss, net.params, net.inputs, net.labels)


def transformer() -> Problem:
    """4 blocks of width 256, 8 sequences of 64 tokens."""
    config = models.TransformerConfig(vocabulary=256, depth=4, features=256, heads=4, max_length=64)
    ids = jax.random.randint(KEY, (8, 64), 0, 256)

    def loss(params: Any, x: Any, y: Any) -> jax.Array:
        logits = models.transformer(params, config, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    # a sequence is a batch of tokens
    return Problem(loss, loss, models.init_transformer(KEY, config), ids, jnp.roll(ids, -1, 1))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "MLP 784-512-512-10, batch 128": dense,
    "CNN, three convolutions, batch 64": convolutional,
    "transformer, 4 blocks of 256, 8 x 64 tokens": transformer,
}


def steps(problem: Problem, every: int) -> dict[str, Callable[..., Any]]:
    """`every` of Adam's steps in one program, as `train.epoch` has them.

    Without looking; looking always, by a loss of the batch and by one of an example, and at all
    rows; and looking at the first alone, before a scan of the others or in a `cond`.
    """
    optimizer = optim.adam(1e-3)

    def stepped(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return optim.apply_updates(params, updates), state, updates

    def plain(carry: Any, x: Any, y: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(problem.loss)(params, x, y)
        params, state, _ = stepped(params, state, gradient)
        return (params, state), value

    def looking(carry: Any, x: Any, y: Any, *, batched: bool = True, **few: Any) -> Any:
        params, state = carry
        loss = problem.loss if batched else problem.one
        look = gradients.value_and_grad_flow(loss, batched=batched, **few)
        value, gradient, seen = look(params, x, y)
        new, state, updates = stepped(params, state, gradient)
        return (new, state), (value, gradients.with_updates(seen, params, updates))

    def each(step: Callable[..., Any], count: int = every) -> Callable[..., Any]:
        def run(carry: Any, x: Any, y: Any) -> Any:
            return jax.lax.scan(lambda carry, _: step(carry, x, y), carry, None, length=count)

        return run

    def first(carry: Any, x: Any, y: Any) -> Any:
        carry, seen = looking(carry, x, y)
        carry, values = each(plain, every - 1)(carry, x, y)
        return carry, (seen, values)

    def in_cond(carry: Any, x: Any, y: Any) -> Any:
        nothing = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(looking, carry, x, y)[1][1]
        )

        def not_looking(carry: Any) -> Any:
            carry, value = plain(carry, x, y)
            return carry, (value, nothing)

        def turn(carry: Any, number: Any) -> Any:
            return jax.lax.cond(number == 0, lambda c: looking(c, x, y), not_looking, carry)

        return jax.lax.scan(turn, carry, jnp.arange(every))

    return {
        BASE: each(plain),
        "looking": each(looking),
        "looking, by a loss of one example": each(partial(looking, batched=False)),
        "looking at all rows": each(partial(looking, rows=None)),
        f"looking at one of {every}": first,
        "the same in a cond": in_cond,
    }


@dataclass(frozen=True)
class Config:
    """Time training steps that look at their flow, in turns with those that do not."""

    rounds: int = 15
    """counted rounds"""
    every: int = 10
    """steps in a program, of which one is looked at in the last rows"""
    only: str = ""
    """of the nets, those whose name contains this"""


def main(config: Config) -> None:
    """Print a table for each net: medians of wall and CPU time of rounds in turns.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    at_least_one(config.rounds)
    print(versions())
    for name in chosen(PROBLEMS, config.only):
        problem = PROBLEMS[name]()
        programs = {
            way: jax.jit(run, donate_argnums=0) for way, run in steps(problem, config.every).items()
        }
        carries = {
            way: jax.tree.map(jnp.array, (problem.params, optim.adam(1e-3).init(problem.params)))
            for way in programs
        }
        wall: dict[str, list[float]] = {way: [] for way in programs}
        cpu: dict[str, list[float]] = {way: [] for way in programs}
        for _ in range(config.rounds + 1):
            for way, program in programs.items():
                # twice, as in a loop, where memory is at hand that this program let go
                for _ in range(2):
                    started = time.perf_counter(), time.process_time()
                    carries[way], _seen = jax.block_until_ready(
                        program(carries[way], problem.inputs, problem.labels)
                    )
                    took = time.perf_counter() - started[0], time.process_time() - started[1]
                wall[way].append(took[0] / config.every)
                cpu[way].append(took[1] / config.every)
        print(f"\n{name}\n{'':<24}{'ms':>10}{'time':>8}{'CPU ms':>10}{'CPU':>8}")
        for way in programs:
            seconds, work = median(wall[way][1:]), median(cpu[way][1:])
            ratio, share = seconds / median(wall[BASE][1:]), work / median(cpu[BASE][1:])
            print(
                f"{way:<24}{1e3 * seconds:>10.2f}{ratio:>7.2f}x{1e3 * work:>10.2f}{share:>7.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
