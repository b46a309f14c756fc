"""What a model's outputs mean: the distribution of targets whose negative logarithm is the loss.

For each of these the Hessian of the loss by the outputs does not depend on the target, so that the
Fisher matrix, an expectation over targets, equals the generalized Gauss-Newton matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.types import Array, Key


class Likelihood(NamedTuple):
    """A loss of one example's outputs, and targets drawn from the distribution it stands for."""

    loss: Callable[[Array, Array], Array]
    """`loss(outputs, target) -> scalar`: `-log p(target | outputs)`, up to a constant."""
    sample: Callable[[Key, Array], Array]
    """`sample(key, outputs) -> target`"""


def output_errors(likelihood: Likelihood, outputs: Array, targets: Array) -> Array:
    """The derivatives of a batch's losses by its outputs, `[B, ...]`."""
    errors: Array = jax.vmap(jax.grad(likelihood.loss))(outputs, targets)
    return errors


def sampled_errors(likelihood: Likelihood, outputs: Array, key: Key) -> Array:
    """The same with targets drawn from the model."""
    keys = jax.random.split(key, outputs.shape[0])
    return output_errors(likelihood, outputs, jax.vmap(likelihood.sample)(keys, outputs))


def _normal_loss(outputs: Array, target: Array) -> Array:
    _require_same("normal", outputs, target)
    return 0.5 * jnp.sum(jnp.square(outputs - target))


def _normal_sample(key: Key, outputs: Array) -> Array:
    return outputs + jax.random.normal(key, outputs.shape, outputs.dtype)


def _bernoulli_loss(outputs: Array, target: Array) -> Array:
    _require_same("bernoulli", outputs, target)
    return jnp.sum(jax.nn.softplus(outputs) - target * outputs)


def _bernoulli_sample(key: Key, outputs: Array) -> Array:
    return jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(outputs.dtype)


def _categorical_loss(outputs: Array, target: Array) -> Array:
    if outputs.shape[:-1] != jnp.shape(target):
        raise ValueError(
            f"categorical: logits {outputs.shape} need integer targets {outputs.shape[:-1]}, "
            f"got {jnp.shape(target)}"
        )
    logs = jax.nn.log_softmax(outputs)
    return -jnp.sum(jnp.take_along_axis(logs, target[..., None], -1))


def _categorical_sample(key: Key, outputs: Array) -> Array:
    return jax.random.categorical(key, outputs)


def _require_same(name: str, outputs: Array, target: Array) -> None:
    if jnp.shape(outputs) != jnp.shape(target):
        raise ValueError(
            f"{name}: outputs and target must have the same shape, got {jnp.shape(outputs)} and "
            f"{jnp.shape(target)}"
        )


normal = Likelihood(_normal_loss, _normal_sample)
"""Outputs are means of normal distributions of variance 1: `½ ‖z - y‖²`."""
bernoulli = Likelihood(_bernoulli_loss, _bernoulli_sample)
"""Outputs are logits of targets in [0, 1]: the sum of binary cross-entropies."""
categorical = Likelihood(_categorical_loss, _categorical_sample)
"""Outputs `[..., classes]` are logits of integers `[...]`: the sum of cross-entropies."""
