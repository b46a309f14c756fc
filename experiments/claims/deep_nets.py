"""Nets of any depth, whose hidden layers are one scan: they compile as fast as shallow ones."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.claims.training import Batch, bounded, cross_entropy, digits, error_rate, fit
from jaxnets import optim
from jaxnets.types import Array, Key, Params

Moments = tuple[Array, Array]

LEARNS = 0.4
"""By how much less than chance a net errs that has learnt."""
LEAST, MOST = 1e-30, 1e30
"""What is left of an error signal is measured between these: float32 does not hold much more."""


class Shape(NamedTuple):
    """Of a net: `x ← φ(norm(x) W + b)` so many times, between a layer in and one out."""

    depth: int
    width: int
    activation: Callable[[Array], Array]
    residual: float = 0.0
    """With another value than 0: `x ← x + residual φ(norm(x) W + b)`."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Over each example's units, or each unit's examples; without scale and shift."""


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


def deep(
    params: Params,
    shape: Shape,
    x: Array,
    taps: Array | None = None,
    moments: Moments | None = None,
) -> tuple[Array, Moments]:
    """Logits of `x [n, 64]`, and the moments that each layer's units had over the n examples.

    Args:
      params: from `init_deep`.
      shape: of the net.
      x: the examples.
      taps: `[depth, n, width]`, added to each layer's result.
      moments: for batch norm to use instead of the examples' own, two of `[depth, width]`.
    """
    x = x @ params["first"]

    def layer(
        x: Array, given: tuple[Array, Array, Array | None, Moments | None]
    ) -> tuple[Array, Moments]:
        kernel, bias, tap, moments = given
        own = jnp.mean(x, 0), jnp.var(x, 0)
        if shape.norm == "batch":
            inputs = _normal(x, *(own if moments is None else moments))
        elif shape.norm == "layer":
            inputs = _normal(x, jnp.mean(x, 1)[:, None], jnp.var(x, 1)[:, None])
        else:
            inputs = x
        y = shape.activation(inputs @ kernel + bias[None])
        y = x + shape.residual * y if shape.residual else y
        return (y if tap is None else y + tap), own

    x, seen = lax.scan(layer, x, (params["kernel"], params["bias"], taps, moments))
    return x @ params["last"], seen


def _normal(x: Array, mean: Array, variance: Array) -> Array:
    normal: Array = (x - jnp.atleast_2d(mean)) * lax.rsqrt(jnp.atleast_2d(variance) + 1e-5)
    return normal


def error_profile(params: Params, shape: Shape, data: Batch) -> Array:
    """The error signal's root mean square at each layer's result: `[depth]`."""
    n = len(data["y"])

    def loss(taps: Array) -> Array:
        return n * cross_entropy(deep(params, shape, data["x"], taps)[0], data["y"])

    errors = jax.grad(loss)(jnp.zeros((shape.depth, n, shape.width)))
    return root_mean_square(errors)


def root_mean_square(errors: Array) -> Array:
    """Over all but the first axis; the squares of small and of large numbers are not lost."""
    largest = jnp.max(jnp.abs(errors), (1, 2))
    relative = errors / jnp.where(largest > 0, largest, 1)[:, None, None]
    return largest * jnp.sqrt(jnp.mean(jnp.square(relative), (1, 2)))


def first_by_last(profile: Array) -> Array:
    """The error signal at the first layer, by that at the last; what is not from `LEAST` to `MOST`
    lies just beyond, and so does a signal that is not finite anywhere: it has exploded.
    """
    # by more than float32 rounds, so that it is known as beyond
    least, most = 0.99 * LEAST, 1.01 * MOST
    ratio = jnp.clip(profile[0] / profile[-1], least, most)
    return jnp.where(jnp.all(jnp.isfinite(profile)), ratio, most)


def off(ratio: np.ndarray) -> np.ndarray:
    """By what factor, at least 1, the signal is larger or smaller than it was."""
    return np.asarray(np.exp(np.abs(np.log(ratio))))


class Learnt(NamedTuple):
    """Of a training run."""

    loss: Array
    """Of all training digits, in the end, at most that of guessing; it chooses rates."""
    error: Array
    """Of the test digits."""


def train_deep(
    key: Key, shape: Shape, std: Array | float, rate: Array, *, steps: int, batch_size: int
) -> Learnt:
    """Plain SGD; batch norm is evaluated by the moments of all training digits."""
    data = digits()
    init_key, run_key = jax.random.split(key)

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return cross_entropy(deep(params, shape, batch["x"])[0], batch["y"])

    trained = fit(
        loss, optim.sgd(rate), init_deep(init_key, shape, std), data.train,
        key=run_key, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    logits, moments = deep(trained.params, shape, data.train["x"])
    of_test, _ = deep(trained.params, shape, data.test["x"], None, moments)
    loss_in_the_end = bounded(cross_entropy(logits, data.train["y"]))
    return Learnt(loss_in_the_end, error_rate(of_test, data.test["y"]))


def signals(shape: Shape, keys: Key, stds: Array, *, examples: int) -> np.ndarray:
    """Error signals over the layers before training, of so many training digits:
    `[seeds, stds, depth]`.
    """
    data = {name: leaf[:examples] for name, leaf in digits().train.items()}

    def one(key: Key, std: Array) -> Array:
        return error_profile(init_deep(key, shape, std), shape, data)

    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(keys, stds))


def learnt(
    shape: Shape, keys: Key, stds: Array, rates: Array, *, steps: int, batch_size: int
) -> Learnt:
    """Of each, `[seeds, stds, rates]`."""
    train = partial(train_deep, steps=steps, batch_size=batch_size)

    def one(key: Key, std: Array, rate: Array) -> Learnt:
        return train(key, shape, std, rate)

    of_rates = jax.vmap(one, (None, None, 0))
    of_stds = jax.vmap(of_rates, (None, 0, None))
    found: Learnt = jax.jit(jax.vmap(of_stds, (0, None, None)))(keys, stds, rates)
    return Learnt(*(np.asarray(leaf) for leaf in found))  # type: ignore[arg-type]
