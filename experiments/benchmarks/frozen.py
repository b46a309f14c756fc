"""A head on cached features, with its frozen base at hand and without.

Run it alone on the machine: `python -m experiments.benchmarks.frozen --help`. The base is
EfficientNet-Lite0 (drawn anew: what the weights are makes no difference to what a step costs), the
head a dense layer on its features, trained by Adam.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from experiments.benchmarks.timing import interleave, table, versions
from experiments.errors import UsageError
from experiments.flags import require_positive
from jaxnets import losses, models, nn, optim, train
from jaxnets.types import Array, Params

BASELINE = "the head alone"
NET = models.EfficientNetConfig(n_out=10)


@dataclass(frozen=True)
class Config:
    """Time epochs of every form, in turns, and print medians, ratios and peak memory."""

    examples: int = 512
    """features that are cached"""
    batch_size: int = 16
    """examples per step"""
    rounds: int = 25
    """counted rounds"""


def loss(params: Params, batch: Any) -> Array:
    """Of the head on cached features."""
    logits = nn.dense(params["classifier"], batch["x"])
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def contenders(config: Config) -> tuple[dict[str, Callable[[], int]], dict[str, int]]:
    """Each form's epochs, waited for: how many steps they were; and the peak bytes of each."""
    params, _ = models.init_efficientnet(jax.random.key(0), NET)
    head, base = train.split_params(params, {"^classifier/": True, ".*": False})
    optimizer = optim.adam(1e-3)
    data = {
        "x": jax.random.normal(jax.random.key(1), (config.examples, NET.head)),
        "y": jnp.arange(config.examples) % NET.n_out,
    }
    forms: dict[str, Callable[[], int]] = {}
    peaks: dict[str, int] = {}

    def add(name: str, epoch: Callable[..., Any], *given: Any) -> None:
        """`epoch(state, *given)`, of which the state is donated."""
        state = train.init_state(jax.tree.map(jnp.copy, head), optimizer, jax.random.key(2))
        program = jax.jit(epoch, donate_argnums=0).lower(state, *given).compile()
        used: Any = program.memory_analysis()
        peaks[name] = (
            used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
            - used.alias_size_in_bytes
        )  # fmt: skip
        kept = [state]

        def go() -> int:
            kept[0], metrics = program(kept[0], *given)
            jax.block_until_ready(metrics)
            return config.examples // config.batch_size

        forms[name] = go

    def with_base(state: Any, data: Any, base: Params) -> Any:
        step = train.step(train.with_frozen(loss, base), optimizer)
        return train.epoch(step, config.batch_size)(state, data)

    add(BASELINE, train.epoch(train.step(loss, optimizer), config.batch_size), data)
    add("frozen base, closed over", partial(with_base, base=base), data)
    # each of its arrays is looked at in every call, though none is used
    add("frozen base, handed to each epoch", with_base, data, base)
    return forms, peaks


def main(config: Config) -> None:
    """Print a table: microseconds a step, speeds, and peak memory.

    Raises:
      UsageError: for an amount below 1, or fewer examples than a batch has.
    """
    require_positive({name: getattr(config, name) for name in ("examples", "batch_size")})
    if config.examples < config.batch_size:
        raise UsageError(f"--examples must be at least --batch-size, got {config.examples}")
    print(versions())
    forms, peaks = contenders(config)
    timings = interleave(forms, rounds=config.rounds)
    print(f"\n{config.examples} features of {NET.head}, batches of {config.batch_size}")
    print(table(timings, BASELINE))
    sizes = (f"{name} {peak:,} ({peak / peaks[BASELINE]:.3f}x)" for name, peak in peaks.items())
    print(f"peak bytes: {', '.join(sizes)}", flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
