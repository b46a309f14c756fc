"""Nets of any depth, whose hidden layers are one scan: they compile as fast as shallow ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit
from jaxnets import nn, optim
from jaxnets.types import Array, Key, Params


class Shape(NamedTuple):
    """Of a net: `x ← φ(x W + b)` so many times, between a layer in and one out."""

    depth: int
    width: int
    activation: Callable[[Array], Array]
    residual: bool = False
    """Whether each layer is added to what came in."""
    norm: bool = False
    """Whether each layer normalizes what comes in, over its units."""


def init_deep(key: Key, shape: Shape, std: Array | float) -> Params:
    """Hidden kernels normal of deviation `std`, biases 0, the layers in and out Xavier's."""
    first, hidden, last = jax.random.split(key, 3)
    width = shape.width
    kernels = std * jax.random.normal(hidden, (shape.depth, width, width))
    return {
        "first": jax.random.normal(first, (64, width)) / jnp.sqrt((64 + width) / 2),
        "kernel": kernels,
        "bias": jnp.zeros((shape.depth, width)),
        "last": jax.random.normal(last, (width, 10)) / jnp.sqrt((width + 10) / 2),
    }


def xavier(width: int) -> float:
    """The deviation of a square kernel's elements: `√(2 / (in + out))`."""
    return float((2 / (width + width)) ** 0.5)


def he(width: int) -> float:
    """`√(2 / in)`."""
    return float((2 / width) ** 0.5)


def deep(params: Params, shape: Shape, x: Array, taps: Array | None = None) -> Array:
    """Logits of `x [..., 64]`; `taps [depth, ..., width]` are added to each layer's result."""
    x = x @ params["first"]

    def layer(x: Array, given: tuple[Array, Array, Array | None]) -> tuple[Array, None]:
        kernel, bias, tap = given
        y = nn.layer_norm({"scale": jnp.ones(x.shape[-1])}, x) if shape.norm else x
        y = shape.activation(nn.dense({"kernel": kernel, "bias": bias}, y))
        y = x + y if shape.residual else y
        return (y if tap is None else y + tap), None

    y: Array
    y, _ = lax.scan(layer, x, (params["kernel"], params["bias"], taps))
    logits: Array = y @ params["last"]
    return logits


def error_profile(params: Params, shape: Shape, data: Batch) -> Array:
    """The error signal's root mean square at each layer's result: `[depth]`."""
    n = len(data["y"])

    def loss(taps: Array) -> Array:
        return n * cross_entropy(deep(params, shape, data["x"], taps), data["y"])

    errors = jax.grad(loss)(jnp.zeros((shape.depth, n, shape.width)))
    return jnp.sqrt(jnp.mean(jnp.square(errors), (1, 2)))


def first_by_last(profile: Array) -> Array:
    """The error signal at the first layer, by that at the last; at least 1e-30, at most 1e30."""
    return jnp.clip(jnp.nan_to_num(profile[0] / profile[-1], nan=1e-30), 1e-30, 1e30)


def train_deep(
    key: Key, shape: Shape, std: Array | float, rate: Array, *, steps: int, batch_size: int
) -> Array:
    """The test error after plain SGD."""
    data = digits()
    init_key, run_key = jax.random.split(key)

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return cross_entropy(deep(params, shape, batch["x"]), batch["y"])

    trained = fit(
        loss, optim.sgd(rate), init_deep(init_key, shape, std), data.train,
        key=run_key, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    return error_rate(deep(trained.params, shape, data.test["x"]), data.test["y"])
