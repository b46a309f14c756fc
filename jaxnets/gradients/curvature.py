"""The curvature that training feels: its sharpest direction, and the Fisher matrix's diagonal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.gradients.lanczos import top_eigenvalues
from jaxnets.gradients.likelihoods import Likelihood, sampled_errors
from jaxnets.gradients.moments import second_moment
from jaxnets.gradients.products import hvp
from jaxnets.gradients.pulls import forward
from jaxnets.types import Array, Key, Params, PyTree


class Sharpness(NamedTuple):
    """The largest eigenvalue of a loss's Hessian."""

    value: Array
    vector: Params
    """Its direction, of length 1: where the next search may start."""
    residual: Array
    """`‖H u - λ u‖`"""


def sharpness(
    loss: Callable[..., Any], *, steps: int = 16, has_aux: bool = False
) -> Callable[..., Sharpness]:
    """The largest eigenvalue of the Hessian of a loss: gradient descent is stable up to `2 / η`.

    Args:
      loss: `loss(params, *batch) -> scalar`.
      steps: products with the Hessian, each about two gradients. From the vector of some training
        steps ago 4 or 8 are enough.

    Returns:
      `f(params, *batch, key=None, start=None) -> Sharpness`. The search begins at `start`, or at a
      random vector of `key`; by default that of `jax.random.key(0)`.

    Raises:
      ValueError: if `steps` is below 1; (on call) as `hvp`, or if `start` is not shaped as the
        parameters.
      TypeError: (on call) as `hvp`.

    References:
      Cohen et al., [Gradient descent on neural networks typically occurs at the edge of
      stability](https://arxiv.org/abs/2103.00065), 2021.
    """
    if steps < 1:
        raise ValueError(f"sharpness: steps must be at least 1, got {steps}")

    def at(
        params: Params, *batch: PyTree, key: Key | None = None, start: Params | None = None
    ) -> Sharpness:
        key = jax.random.key(0) if key is None else key
        product = hvp(loss, has_aux=has_aux)(params, *batch)
        found = top_eigenvalues(product, params, key, steps=steps, start=start)
        vector = jax.tree.map(lambda x: x[0], found.vectors)
        return Sharpness(found.values[0], vector, found.residuals[0])

    return at


def fisher_diagonal(
    outputs: Callable[..., Array], likelihood: Likelihood, *, samples: int = 1
) -> Callable[..., Params]:
    """The diagonal of the Fisher matrix, `E[g²]` over targets that the model itself draws.

    The *empirical* Fisher matrix takes the data's targets instead: `second_moment` of their
    factors. The two are equal only where the model fits the data.

    Args:
      outputs: `outputs(params, *inputs) -> z`, an array, for one example.
      likelihood: what the outputs mean, from `jaxnets.gradients.likelihoods`.
      samples: how many targets to draw for each example.

    Returns:
      `f(params, *inputs, key=key) -> like params`, in float32 or wider, the mean over the batch
      and the samples; `inputs` have the batch as their first axis.

    Raises:
      ValueError: if `samples` is below 1; (on call) as `per_example_grad`.

    References:
      Kunstner, Balles and Hennig, [Limitations of the empirical Fisher approximation](
      https://arxiv.org/abs/1905.12558), 2019.
    """
    if samples < 1:
        raise ValueError(f"fisher_diagonal: samples must be at least 1, got {samples}")

    def at(params: Params, *inputs: PyTree, key: Key) -> Params:
        run = forward(outputs, params, inputs)

        def one(key: Key) -> Params:
            errors = sampled_errors(likelihood, run.outputs, key)
            return second_moment(run.factors(errors))

        def add(total: Params, key: Key) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, one(key)), None

        # added up as they come: never samples times parameters
        shapes = jax.eval_shape(one, key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, jax.random.split(key, samples))
        return jax.tree.map(lambda x: x / samples, total)

    return at
