"""Single layers and losses, value and gradient: jaxnets beside Flax and Optax.

Run it alone on the machine: `make bench BENCH=layers`, or
`python -m experiments.benchmarks.layers --help`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax

from experiments.benchmarks.timing import chosen, interleave, table, versions
from experiments.errors import UsageError
from jaxnets import losses, nn

OURS = "jaxnets"

Pair = tuple[str, Callable[[Any], Any], Callable[[Any], Any], Any]
"""The other library, its function and ours of one pytree, and that pytree."""


@dataclass(frozen=True)
class Config:
    """Time each layer's value and gradient in both libraries, in turns; print the ratios."""

    rounds: int = 15
    """counted rounds"""
    only: str = ""
    """layers whose name contains this"""
    batch: int = 64
    """examples at a time"""


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def max_pooling(batch: int) -> Pair:
    from flax import linen

    return (
        "Flax",
        lambda x: linen.max_pool(x, (2, 2), (2, 2)),
        lambda x: nn.max_pool(x, 2, 2),
        _normal(batch, 28, 28, 32),
    )


def convolution_in_a_scan(batch: int) -> Pair:
    """Four layers of one kernel, as in a loop over steps or depth."""
    from flax import linen

    layer = linen.Conv(32, (3, 3))
    params = nn.init_conv(jax.random.key(0), (3, 3), 32, 32)

    def repeated(apply: Callable[[Any, Any], Any], inputs: Any) -> Any:
        params, x = inputs
        return lax.scan(lambda x, _: (apply(params, x), None), x, length=4)[0]

    def theirs(params: Any, x: Any) -> Any:
        return layer.apply({"params": params}, x)

    return (
        "Flax",
        partial(repeated, theirs),
        partial(repeated, nn.conv),
        (
            params,
            _normal(batch, 14, 14, 32),
        ),
    )


def depthwise_convolution(side: int, channels: int, window: int, batch: int) -> Pair:
    from flax import linen

    layer = linen.Conv(channels, (window, window), feature_group_count=channels)
    params = nn.init_conv(jax.random.key(0), (window, window), channels, channels, groups=channels)

    def theirs(inputs: Any) -> Any:
        params, x = inputs
        return layer.apply({"params": params}, x)

    def ours(inputs: Any) -> Any:
        params, x = inputs
        return nn.conv(params, x, groups=channels)

    return "Flax", theirs, ours, (params, _normal(batch, side, side, channels))


def layer_normalization(batch: int) -> Pair:
    from flax import linen

    layer = linen.LayerNorm()

    def theirs(inputs: Any) -> Any:
        params, x = inputs
        return layer.apply({"params": params}, x)

    inputs = (nn.init_norm(512), _normal(batch, 128, 512))
    return "Flax", theirs, lambda inputs: nn.layer_norm(*inputs), inputs


def lstm_over_time(batch: int) -> Pair:
    from flax import nnx

    steps, features = 64, 128
    cell = nnx.OptimizedLSTMCell(features, features, rngs=nnx.Rngs(0))
    layer = nnx.RNN(cell, rngs=nnx.Rngs(0))
    # random states are for its carry, which is given
    graph, weights, others = nnx.split(layer, nnx.Param, ...)
    params = nn.init_lstm_cell(jax.random.key(0), features, features)

    def theirs(inputs: Any) -> Any:
        params, x = inputs
        values = {
            "dense_i": {"kernel": params["input"]["kernel"]},
            "dense_h": {"kernel": params["hidden"]["kernel"], "bias": params["input"]["bias"]},
        }
        state = jax.tree.map(lambda leaf: leaf, weights)
        nnx.replace_by_pure_dict(state, {"cell": values})
        zero = jnp.zeros((batch, features))
        return nnx.merge(graph, state, others)(x, initial_carry=(zero, zero))

    def ours(inputs: Any) -> Any:
        params, x = inputs
        return nn.unroll(nn.lstm_cell, params, x)[0]

    return "Flax NNX", theirs, ours, (params, _normal(batch, steps, features))


def softmax_cross_entropy(classes: int, batch: int) -> Pair:
    labels = jnp.arange(batch, dtype=jnp.int32) * 7 % classes
    return (
        "Optax",
        lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        lambda logits: losses.softmax_cross_entropy_with_integer_labels(logits, labels),
        _normal(batch, classes),
    )


LAYERS: dict[str, Callable[[int], Pair]] = {
    "max-pooling 2×2 of [batch, 28, 28, 32]": max_pooling,
    "convolution 3×3, 32 to 32, of [batch, 14, 14, 32], four times in a scan": (
        convolution_in_a_scan
    ),
    "depthwise convolution 3×3 of [batch, 28, 28, 32]": partial(depthwise_convolution, 28, 32, 3),
    "depthwise convolution 5×5 of [batch, 7, 7, 672]": partial(depthwise_convolution, 7, 672, 5),
    "layer norm of [batch, 128, 512]": layer_normalization,
    "LSTM, 128 to 128, of [batch, 64, 128]": lstm_over_time,
    "softmax cross-entropy, 10 classes": partial(softmax_cross_entropy, 10),
    "softmax cross-entropy, 1000 classes": partial(softmax_cross_entropy, 1000),
    "softmax cross-entropy, 32000 classes": partial(softmax_cross_entropy, 32000),
}


def value_and_gradient(function: Callable[[Any], Any], inputs: Any) -> Callable[[], int]:
    """One step: the function's value and the gradient of the sum of its squares, compiled."""

    @jax.jit
    def both(inputs: Any) -> Any:
        y, pull = jax.vjp(function, inputs)
        return y, pull(2 * y)

    def step() -> int:
        jax.block_until_ready(both(inputs))
        return 1

    return step


def main(config: Config) -> None:
    """Print a table for each layer.

    Raises:
      UsageError: if `rounds`, `batch` or `only` leaves nothing to time.
    """
    if config.batch < 1:
        raise UsageError(f"--batch must be at least 1, got {config.batch}")
    names = chosen(LAYERS, config.only)
    print(versions())
    for name in names:
        library, theirs, ours, inputs = LAYERS[name](config.batch)
        steps = {
            library: value_and_gradient(theirs, inputs),
            OURS: value_and_gradient(ours, inputs),
        }
        timings = interleave(steps, rounds=config.rounds)
        print(f"\n{name} (batch {config.batch}, {config.rounds} rounds)")
        print(table(timings, library), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
