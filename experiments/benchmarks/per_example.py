"""What per-example gradients cost beside the same program's plain gradient: time and memory.

Run it alone on the machine: `python -m experiments.benchmarks.per_example --help`. jax-privacy (the
extra `peers`) and Opacus take part where they are installed.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jax import lax

from experiments.benchmarks.clipping import (
    CLIP_NORM,
    Once,
    fastest_microbatch,
    jax_privacy,
    opacus,
)
from experiments.benchmarks.timing import at_least_one, chosen, interleave, versions
from experiments.errors import UsageError
from jaxnets import gradients, losses, nn

KEY = jax.random.key(0)


class Net(NamedTuple):
    """A loss of one example, with parameters and a batch."""

    loss: Callable[[Any, Any, Any], jax.Array]
    params: Any
    inputs: jax.Array
    labels: jax.Array


def _loss_of(apply: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any, Any], jax.Array]:
    def loss(params: Any, x: Any, y: Any) -> jax.Array:
        logits = apply(params, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    return loss


def mlp() -> Net:
    """784-512-512-10, batch 256."""
    sizes = (784, 512, 512, 10)
    params = [
        nn.init_dense(jax.random.fold_in(KEY, i), n, m) for i, (n, m) in enumerate(pairwise(sizes))
    ]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        *hidden, last = params
        for layer in hidden:
            x = jax.nn.relu(nn.dense(layer, x))
        return nn.dense(last, x)

    return Net(_loss_of(apply), params, jax.random.normal(KEY, (256, 784)), jnp.arange(256) % 10)


def lax_conv(layer: Any, x: jax.Array, *, stride: int) -> jax.Array:
    """As one writes it without a library; its derivatives are XLA's own."""
    y = lax.conv_general_dilated(
        x[None], layer["kernel"], (stride, stride), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]  # fmt: skip
    return jnp.add(y, layer["bias"])


def cnn(convolution: Callable[..., jax.Array] = nn.conv) -> Net:
    """Three convolutions of 3x3 on 32x32x3, batch 64."""
    channels = (3, 32, 64, 128)
    layers = [
        nn.init_conv(jax.random.fold_in(KEY, i), (3, 3), n, m)
        for i, (n, m) in enumerate(pairwise(channels))
    ]
    params = {"layers": layers, "head": nn.init_dense(KEY, 8 * 8 * 128, 10)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(params["layers"]):
            x = jax.nn.relu(convolution(layer, x, stride=1 if i == 0 else 2))
        return nn.dense(params["head"], x.reshape(-1))

    inputs = jax.random.normal(KEY, (64, 32, 32, 3))
    return Net(_loss_of(apply), params, inputs, jnp.arange(64) % 10)


def transformer(
    width: int, length: int, batch: int, *, depth: int = 4, heads: int = 4,
    words: int = 1000, scan: bool = False, remat: bool = False,
) -> Net:  # fmt: skip
    """Pre-norm, causal, as plain JAX."""

    def init_block(key: jax.Array) -> Any:
        keys = jax.random.split(key, 4)
        sizes = {"qkv": 3 * width, "out": width, "up": 4 * width}
        block: dict[str, Any] = {
            name: nn.init_dense(k, width, n)
            for k, (name, n) in zip(keys, sizes.items(), strict=False)
        }
        block["down"] = nn.init_dense(keys[3], 4 * width, width)
        return block | {"norm1": nn.init_norm(width), "norm2": nn.init_norm(width)}

    keys = jax.random.split(KEY, depth)
    params = {
        "embedding": 0.02 * jax.random.normal(KEY, (words, width)),
        "position": 0.02 * jax.random.normal(KEY, (length, width)),
        "blocks": jax.vmap(init_block)(keys) if scan else [init_block(key) for key in keys],
        "norm": nn.init_norm(width),
        "head": nn.init_dense(KEY, width, words, bias=False),
    }  # fmt: skip
    mask = jnp.tril(jnp.ones((length, length), bool))

    def block(x: jax.Array, p: Any) -> jax.Array:
        qkv = nn.dense(p["qkv"], nn.layer_norm(p["norm1"], x)).reshape(length, 3, heads, -1)
        q, k, v = (qkv[:, i] for i in range(3))
        scores = jnp.einsum("thd,shd->hts", q, k) * (width / heads) ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        mixed = jnp.einsum("hts,shd->thd", weights, v).reshape(length, width)
        x = x + nn.dense(p["out"], mixed)
        hidden = jax.nn.gelu(nn.dense(p["up"], nn.layer_norm(p["norm2"], x)))
        return x + nn.dense(p["down"], hidden)

    step = jax.checkpoint(block) if remat else block

    def apply(params: Any, ids: jax.Array) -> jax.Array:
        x = params["embedding"][ids] + params["position"]
        if scan:
            x, _ = lax.scan(lambda x, p: (step(x, p), None), x, params["blocks"])
        else:
            for p in params["blocks"]:
                x = step(x, p)
        return nn.dense(params["head"], nn.layer_norm(params["norm"], x))

    ids = jax.random.randint(KEY, (2, batch, length), 0, words)
    return Net(_loss_of(apply), params, ids[0], ids[1])


NETS: dict[str, Callable[[], Net]] = {
    "MLP 784-512-512-10, B=256": mlp,
    "CNN 32x32, three 3x3 convolutions, B=64": cnn,
    "the CNN with lax's convolution": lambda: cnn(lax_conv),
    "transformer 4 x 256, T=128, B=16": lambda: transformer(256, 128, 16),
    "transformer 4 x 512, T=32, B=32": lambda: transformer(512, 32, 32),
    "the first transformer, scanned": lambda: transformer(256, 128, 16, scan=True),
    "the first transformer, scanned with remat": lambda: transformer(
        256, 128, 16, scan=True, remat=True
    ),
    "transformer 12 x 256, T=128, B=16, scanned": lambda: transformer(
        256, 128, 16, depth=12, scan=True
    ),
}  # fmt: skip


def plain(loss: Any) -> Callable[..., Any]:
    """The gradient of the mean loss."""
    over_batch = jax.vmap(loss, (None, 0, 0))
    return jax.grad(lambda params, x, y: jnp.mean(over_batch(params, x, y)))


def clipped_by_vmap(loss: Any) -> Callable[..., Any]:
    """`vmap(grad)`, then norms and the clipped mean."""
    each = jax.vmap(jax.grad(loss), (None, 0, 0))

    def clipped(params: Any, x: Any, y: Any) -> Any:
        own = each(params, x, y)
        squares = [jnp.sum(g.reshape(len(x), -1) ** 2, 1) for g in jax.tree.leaves(own)]
        weights = jnp.minimum(1, CLIP_NORM * lax.rsqrt(sum(squares))) / len(x)
        return jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), own)

    return clipped


def gram_of(loss: Any) -> Callable[..., Any]:
    """All inner products of the batch's gradients."""

    def gram(params: Any, x: Any, y: Any) -> jax.Array:
        return gradients.gram(gradients.per_example_grad(loss)(params, x, y)[1])

    return gram


def seen(loss: Any) -> Callable[..., Any]:
    """The mean gradient, its noise scale, each parameter's signal to noise, and the diversity."""

    def statistics(params: Any, x: Any, y: Any) -> Any:
        moments = gradients.moments(gradients.per_example_grad(loss)(params, x, y)[1])
        of = (gradients.noise_scale, gradients.signal_to_noise, gradients.diversity)
        return moments.mean, [statistic(moments) for statistic in of]

    return statistics


WAYS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "plain gradient": plain,
    "clipped gradient": lambda loss: gradients.clipped_grad(loss, CLIP_NORM),
    "clipped gradient, all at once": lambda loss: gradients.clipped_grad(
        loss, CLIP_NORM, microbatch_size=None
    ),
    "statistics": seen,
    "norms alone": gradients.per_example_norms,
    "gram": gram_of,
    "vmap(grad), clipped": clipped_by_vmap,
}


class Compilation(NamedTuple):
    """What a program of XLA's needs."""

    temporary: float
    """Bytes."""
    lower: float
    """Seconds of tracing and lowering."""
    compile: float
    """Seconds of XLA's."""


class Contender(NamedTuple):
    """One way, ready to be timed."""

    once: Once
    compilation: Compilation | None = None


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Contender:
    """Traced and compiled anew."""
    jax.clear_caches()
    started = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    memory: Any = program.memory_analysis()

    def once() -> int:
        jax.block_until_ready(program(*arguments))
        return 1

    return Contender(once, Compilation(memory.temp_size_in_bytes, traced - started, done - traced))


def contenders(name: str, net: Net, ways: str) -> Iterator[tuple[str, Contender]]:
    """What is timed on a net: the plain gradient, and what `ways` is part of the name of."""
    arguments = net.params, net.inputs, net.labels
    for way, make in WAYS.items():
        if ways in way or way == BASE:
            yield way, compiled(make(net.loss), arguments)
    peers = (
        ("clipped, in parts", own_parts),
        ("jax-privacy", jax_privacy_rows),
        ("Opacus", opacus_rows),
    )
    for library, rows in peers:
        if ways not in library:
            continue
        try:
            yield from rows(name, net.loss, arguments)
        except ModuleNotFoundError as error:
            print(f"({library}: {error.name} is not installed)")


def own_parts(name: str, loss: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Contender]]:
    """One row, with the fastest microbatch size."""

    def of_size(size: int | None) -> Callable[..., Any]:
        return gradients.clipped_grad(loss, CLIP_NORM, microbatch_size=size)

    size, function = fastest_microbatch(of_size, arguments)
    yield f"clipped, {size or 'all'} at a time", compiled(function, arguments)


def jax_privacy_rows(
    name: str, loss: Any, arguments: tuple[Any, ...]
) -> Iterator[tuple[str, Contender]]:
    """One row, with its fastest microbatch size."""
    batch = len(arguments[1])
    size, function = fastest_microbatch(lambda size: jax_privacy(loss, batch, size), arguments)
    yield f"jax-privacy, {size or 'all'} at a time", compiled(function, arguments)


def opacus_rows(
    name: str, loss: Any, arguments: tuple[Any, ...]
) -> Iterator[tuple[str, Contender]]:
    """PyTorch's own gradient and Opacus's, of nets of these sizes."""
    for way, once in opacus(name, arguments):
        yield way, Contender(once)


BASE = "plain gradient"


@dataclass(frozen=True)
class Config:
    """Time per-example gradients beside the plain one, in turns, and print medians and ratios."""

    rounds: int = 11
    """counted rounds"""
    only: str = ""
    """of the nets, those whose name contains this"""
    ways: str = ""
    """of what is computed, what contains this, and the plain gradient"""


def main(config: Config) -> None:
    """Print a table for each net.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    at_least_one(config.rounds)
    print(versions())
    for name in chosen(NETS, config.only):
        print(f"\n{name}")
        rows = dict(contenders(name, NETS[name](), config.ways))
        timings = interleave({way: row.once for way, row in rows.items()}, rounds=config.rounds)
        print(
            f"{'':<30}{'ms':>10}{'time':>8}{'temporary MB':>14}{'memory':>8}"
            f"{'lower s':>9}{'compile s':>11}{'both':>7}"
        )
        base = rows[BASE].compilation
        for way, row in rows.items():
            line = f"{way:<30}{1e3 * timings[way].median:>10.2f}"
            line += f"{timings[way].median / timings[BASE].median:>7.2f}x"
            if base is not None and row.compilation is not None:
                temporary, lower, compile = row.compilation
                line += f"{temporary / 1e6:>14.1f}{temporary / base.temporary:>7.2f}x"
                line += f"{lower:>9.2f}{compile:>11.2f}"
                line += f"{(lower + compile) / (base.lower + base.compile):>6.2f}x"
            print(line, flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
