"""Transformers beside Flax NNX: a training step, the compilation of a deep one, and decoding.

Run it alone on the machine: `make bench BENCH=transformer`, or
`python -m experiments.benchmarks.transformer --help`.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.benchmarks.timing import (
    at_least_one,
    chosen,
    compiled_steps,
    interleave,
    memory_line,
    table,
    versions,
)
from experiments.errors import UsageError
from jaxnets import losses, models, nn, optim, train
from jaxnets.models.decode import generate

OURS, NNX = "jaxnets", "Flax NNX + Optax"

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


STEPS = {NNX: nnx_step, OURS: our_step}


def _ids(config: Config) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, config.vocabulary, (config.batch, config.length)), jnp.int32)


def training_step(config: Config) -> None:
    """Forward, backward and update, both libraries' as one compiled function of their state."""
    model, ids = model_config(config, config.depth), _ids(config)
    programs = {}
    for name, make in STEPS.items():
        step, state = make(model)
        programs[name] = step, [*state, ids]
    steps, memory = compiled_steps(programs)
    print(f"\ntraining step, {_shape(config, config.depth)} ({config.rounds} rounds)")
    print(table(interleave(steps, rounds=config.rounds), NNX))
    print(memory_line(memory, NNX), flush=True)


def deep(config: Config) -> None:
    """Trace and compile a deep net's step, in turns, and then run it."""
    model, ids = model_config(config, config.deep), _ids(config)
    made = {name: make(model) for name, make in STEPS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    steps: dict[str, Callable[[], int]] = {}

    def compile_one(name: str) -> Any:
        step, state = made[name]
        jax.clear_caches()
        started = time.perf_counter()
        # a fresh function, which no cache knows
        program = jax.jit(lambda *arguments: step(*arguments)).lower(*state, ids).compile()
        seconds[name].append(time.perf_counter() - started)
        return program

    for _ in range(2):
        for name, (_, state) in made.items():
            program = compile_one(name)

            def once(program: Any = program, state: Any = state) -> int:
                jax.block_until_ready(program(*state, ids))
                return 1

            steps[name] = once
    best = {name: min(times) for name, times in seconds.items()}
    print(f"\ntrace and compile a training step, {_shape(config, config.deep)} (best of 2)")
    for name, value in best.items():
        print(f"{name:<18} {value:6.2f} s {best[NNX] / value:6.2f}x")
    print(f"\nthe same, run ({max(1, config.rounds // 3)} rounds)")
    print(table(interleave(steps, rounds=max(1, config.rounds // 3)), NNX), flush=True)


def decoding(config: Config) -> None:
    """Greedy decoding with a cache: all tokens in one scan, or a compiled call for each."""
    model = model_config(config, config.depth)
    params = jax.jit(lambda key: models.init_transformer(key, model))(jax.random.key(0))
    prompt = _ids(config)[0]

    def advance(params: Any, ids: Any, caches: Any, start: Any) -> Any:
        return models.continue_transformer(params, model, ids, caches, start)

    @jax.jit
    def scanned(params: Any) -> Any:
        caches = models.transformer_caches(model, config.length + config.generated)
        return generate(
            lambda *arguments: advance(params, *arguments), caches, prompt, config.generated
        )

    one = jax.jit(advance, donate_argnums=2)

    def looped() -> int:
        caches = models.transformer_caches(model, config.length + config.generated)
        logits, caches = one(params, prompt, caches, 0)
        for t in range(config.generated - 1):
            last = jnp.argmax(logits[-1:], -1)
            logits, caches = one(params, last, caches, jnp.int32(config.length + t))
        jax.block_until_ready(logits)
        return config.generated

    def at_once() -> int:
        jax.block_until_ready(scanned(params))
        return config.generated

    steps = {"a compiled call for each token": looped, "all tokens in one scan": at_once}
    rounds = max(1, config.rounds // 3)
    print(
        f"\ndecoding a token, {config.depth} blocks of {config.features}, {config.generated} after "
        f"{config.length} ({rounds} rounds)"
    )
    print(table(interleave(steps, rounds=rounds), "a compiled call for each token"), flush=True)


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
