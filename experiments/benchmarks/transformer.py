"""Transformers: a training step and its compilation beside Flax NNX; decoding beside PyTorch.

Decoding compares two ways of this library's own, and PyTorch's eager loop of the same weights where
that is installed.

Run it alone on the machine: `make bench BENCH=transformer`, or
`python -m experiments.benchmarks.transformer --help`.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax

from experiments.benchmarks.decoding import Decoder, in_torch, looped, scanned
from experiments.benchmarks.timing import (
    at_least_one,
    chosen,
    compiled_steps,
    interleave,
    memory_line,
    table,
    versions,
    without_compilation_cache,
)
from experiments.errors import UsageError
from jaxnets import losses, models, nn, optim, train

_Program: TypeAlias = tuple[Callable[..., Any], list[Any]]

OURS, NNX = "jaxnets", "Flax NNX + Optax"
NNX_STEPS, STEPS_SCANNED = f"{NNX}, steps in a scan", "jaxnets, steps in a scan"
BLOCKS_SCANNED, BOTH_SCANNED = "jaxnets, blocks in a scan", "jaxnets, blocks and steps in scans"
LOOP = "a compiled call for each token"

COMPILATIONS = 4
"""Of each library, each first in half of them."""

PER_CALL = 4
"""Steps in one compiled call, where they are in a scan."""

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Config:
    """Time a transformer's training step, its compilation when it is deep, and its decoding."""

    rounds: int = 9
    """counted rounds"""
    only: str = ""
    """parts whose name contains this: step, deep, decoding"""
    depth: int = 4
    """blocks"""
    deep: int = 24
    """blocks, where compilation is timed"""
    features: int = 256
    """of a position"""
    heads: int = 8
    """of attention"""
    length: int = 128
    """positions"""
    batch: int = 16
    """sequences in a step"""
    vocabulary: int = 256
    """token ids"""
    generated: int = 256
    """tokens that are decoded after a prompt of `length`"""


def model_config(config: Config, depth: int) -> models.TransformerConfig:
    """GPT-2's form, as NNX's layers make it by default: with biases, and a head of its own."""
    return models.TransformerConfig(
        config.vocabulary, depth=depth, features=config.features, heads=config.heads,
        max_length=config.length + config.generated, activation=nn.gelu_tanh, norm_eps=1e-6,
        tied=False,
    )  # fmt: skip


def make_nnx(model: models.TransformerConfig) -> Any:
    """The same net of Flax NNX's layers."""
    from flax import nnx

    features, rngs = model.features, nnx.Rngs(0)

    class Block(nnx.Module):
        def __init__(self) -> None:
            self.attention_norm = nnx.LayerNorm(features, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(model.heads, features, decode=False, rngs=rngs)
            self.mlp_norm = nnx.LayerNorm(features, rngs=rngs)
            self.up = nnx.Linear(features, 4 * features, rngs=rngs)
            self.down = nnx.Linear(4 * features, features, rngs=rngs)

        def __call__(self, x: Any, mask: Any) -> Any:
            x = x + self.attention(self.attention_norm(x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.embedding = nnx.Embed(model.vocabulary, features, rngs=rngs)
            self.positions = nnx.Embed(model.max_length, features, rngs=rngs)
            self.blocks = nnx.List([Block() for _ in range(model.depth)])
            self.norm = nnx.LayerNorm(features, rngs=rngs)
            self.head = nnx.Linear(features, model.vocabulary, use_bias=False, rngs=rngs)

        def __call__(self, ids: Any) -> Any:
            x = self.embedding(ids) + self.positions(jnp.arange(ids.shape[-1]))[None]
            mask = nnx.make_causal_mask(ids)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    return Net()


def _loss(logits: Any, ids: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:]).mean()


def nnx_step(model: models.TransformerConfig) -> tuple[Callable[..., Any], list[Any]]:
    """NNX's documented step as a function of graph and state, so that it can be lowered."""
    from flax import nnx

    net = make_nnx(model)
    optimizer = nnx.Optimizer(net, optax.adamw(LEARNING_RATE), wrt=nnx.Param)

    graph, state = nnx.split((net, optimizer))

    def step(state: Any, ids: Any) -> Any:
        net, optimizer = nnx.merge(graph, state)
        loss, grads = nnx.value_and_grad(lambda net: _loss(net(ids), ids))(net)
        optimizer.update(net, grads)
        return nnx.state((net, optimizer)), loss

    return step, [state]


def our_step(model: models.TransformerConfig) -> tuple[Callable[..., Any], list[Any]]:
    """`train.step`, of a batch's loss."""

    def loss(params: Any, ids: Any) -> Any:
        logits = models.transformer(params, model, ids)
        return jnp.mean(
            losses.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
        )

    optimizer = optim.adamw(LEARNING_RATE)
    params = jax.jit(lambda key: models.init_transformer(key, model))(jax.random.key(0))
    state = train.init_state(params, optimizer, jax.random.key(1))
    return train.step(loss, optimizer), [state]


def alone(step: Callable[..., Any], state: Sequence[Any], ids: Any) -> _Program:
    """One step."""
    return step, [*state, ids]


def in_a_scan(step: Callable[..., Any], state: Sequence[Any], ids: Any) -> _Program:
    """`PER_CALL` steps, each of a batch of its own."""
    many = jnp.broadcast_to(ids, (PER_CALL, *ids.shape))
    return lambda state, many: lax.scan(step, state, many), [*state, many]


def our_epoch(step: Callable[..., Any], state: Sequence[Any], ids: Any) -> _Program:
    """`train.epoch`: as many steps, of batches drawn from so many sequences."""
    return train.epoch(step, len(ids)), [*state, jnp.tile(ids, (PER_CALL, 1))]


def programs(
    model: models.TransformerConfig, ids: Any, names: Collection[str]
) -> dict[str, _Program]:
    """Those of that name: a step, or several in one call, and what it is called on."""
    stacked = replace(model, scan=True)
    ways: dict[str, tuple[Callable[..., _Program], Callable[..., Any], Any]] = {
        NNX: (alone, nnx_step, model),
        OURS: (alone, our_step, model),
        NNX_STEPS: (in_a_scan, nnx_step, model),
        STEPS_SCANNED: (our_epoch, our_step, model),
        BLOCKS_SCANNED: (alone, our_step, stacked),
        BOTH_SCANNED: (our_epoch, our_step, stacked),
    }
    asked = {name: ways[name] for name in names}
    return {name: way(*make(net), ids) for name, (way, make, net) in asked.items()}


COUNTS = dict.fromkeys([NNX_STEPS, STEPS_SCANNED, BOTH_SCANNED], PER_CALL)


def _ids(config: Config) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, config.vocabulary, (config.batch, config.length)), jnp.int32)


def training_step(config: Config) -> None:
    """Forward, backward and update, as one compiled function of the state, or several in one."""
    model, ids = model_config(config, config.depth), _ids(config)
    made = programs(model, ids, [NNX, OURS, NNX_STEPS, STEPS_SCANNED])
    steps, memory = compiled_steps(made, COUNTS)
    print(f"\ntraining step, {_shape(config, config.depth)} ({config.rounds} rounds)")
    print(table(interleave(steps, rounds=config.rounds), NNX))
    print(memory_line(memory, NNX), flush=True)


def deep(config: Config) -> None:
    """Trace and compile a deep net's step, in turns, and then run it; ours also as loops."""
    model, ids = model_config(config, config.deep), _ids(config)
    made = programs(model, ids, [NNX, OURS, BLOCKS_SCANNED, BOTH_SCANNED])
    seconds: dict[str, list[float]] = {name: [] for name in made}
    compiled: dict[str, Any] = {}
    with without_compilation_cache():
        for number in range(COMPILATIONS):
            for name in list(made)[:: -1 if number % 2 else 1]:
                step, arguments = made[name]
                jax.clear_caches()
                started = time.perf_counter()
                # a fresh function, which no cache knows
                fresh = jax.jit(lambda *arguments, step=step: step(*arguments))
                compiled[name] = fresh.lower(*arguments).compile()
                seconds[name].append(time.perf_counter() - started)

    def once(name: str) -> Callable[[], int]:
        def run() -> int:
            jax.block_until_ready(compiled[name](*made[name][1]))
            return COUNTS.get(name, 1)

        return run

    shape = _shape(config, config.deep)
    print(f"\ntrace and compile a training step, {shape} ({COMPILATIONS} times each, in turns)")
    least = {name: min(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(
            f"{name:<34} min {least[name]:6.2f} s, max {max(times):6.2f} s "
            f"{least[NNX] / least[name]:6.2f}x by the least"
        )
    rounds = max(1, config.rounds // 3)
    print(f"\nthe same, run ({rounds} rounds)")
    print(table(interleave({name: once(name) for name in made}, rounds=rounds), NNX), flush=True)


def decoders(config: Config) -> dict[str, Decoder]:
    """Each way to decode, of the same parameters and prompt; PyTorch's where it is installed."""
    model = model_config(config, config.depth)
    params = jax.jit(lambda key: models.init_transformer(key, model))(jax.random.key(0))
    ways = {LOOP: looped, "all tokens in one scan": scanned}
    if importlib.util.find_spec("torch"):
        ways["PyTorch eager, a call for each"] = in_torch
    prompt = _ids(config)[0]
    return {name: make(model, params, prompt, config.generated) for name, make in ways.items()}


def decoding(config: Config) -> None:
    """Greedy decoding with a cache: a compiled call for each token, or all in one scan."""

    def counted(decode: Decoder) -> Callable[[], int]:
        return lambda: len(decode())

    steps = {name: counted(decode) for name, decode in decoders(config).items()}
    rounds = max(1, config.rounds // 3)
    print(
        f"\ndecoding a token, {config.depth} blocks of {config.features}, {config.generated} after "
        f"{config.length} ({rounds} rounds)"
    )
    print(table(interleave(steps, rounds=rounds), LOOP), flush=True)


def _shape(config: Config, depth: int) -> str:
    return (
        f"{depth} blocks of {config.features} features, T = {config.length}, batch {config.batch}"
    )


PARTS: dict[str, Callable[[Config], None]] = {
    "step": training_step,
    "deep": deep,
    "decoding": decoding,
}


def main(config: Config) -> None:
    """Print a table for each part.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    at_least_one(config.rounds)
    names = chosen(PARTS, config.only)
    print(versions())
    for name in names:
        PARTS[name](config)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
