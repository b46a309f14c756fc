"""Updates measured against a norm or mean: of all of them, of their parameters, of themselves.

A block is a leaf of the tree, such as a layer's kernel.
"""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NON_NEGATIVE, NUMBER, Hyper, transformation
from jaxnets.optim.leaves import map_updates, map_with_params, norm, require_params, rms
from jaxnets.optim.transform import GradientTransformation, State, Updates, empty_state
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params


@transformation(min_scale=NON_NEGATIVE)
def scale_by_param_block_norm(min_scale: Hyper = 1e-3) -> GradientTransformation:
    """`u = g max(‖θ‖, s)`, leaf by leaf.

    Args:
      min_scale: `s`, at least 0.

    Raises:
      ValueError: for a number outside its range, or an update without params.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("scale_by_param_block_norm", params)

        def step(g: Array, p: Array) -> Array:
            return g * jnp.maximum(norm(p), min_scale)

        return map_with_params(step, updates, params), state

    return GradientTransformation(empty_state, update)


@transformation(min_scale=NON_NEGATIVE)
def scale_by_param_block_rms(min_scale: Hyper = 1e-3) -> GradientTransformation:
    """`u = g max(rms(θ), s)`, leaf by leaf, with the root mean square of each parameter.

    Args:
      min_scale: `s`, at least 0.

    Raises:
      ValueError: for a number outside its range, or an update without params.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("scale_by_param_block_rms", params)

        def step(g: Array, p: Array) -> Array:
            return g * jnp.maximum(rms(p), min_scale)

        return map_with_params(step, updates, params), state

    return GradientTransformation(empty_state, update)


@transformation(scale_factor=NUMBER, eps=NON_NEGATIVE)
def normalize_by_update_norm(
    scale_factor: Hyper = 1.0, eps: Hyper = 1e-6
) -> GradientTransformation:
    """`u = s g / (‖g‖ + ε)`, with the norm of all leaves together.

    Args:
      scale_factor: the length `s`, of either sign.
      eps: `ε ≥ 0`; positive if all gradients may be 0.

    Raises:
      ValueError: for a number outside its range.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        length = global_norm(updates) + eps
        return map_updates(lambda g: g / length * scale_factor, updates), state

    return GradientTransformation(empty_state, update)


@by_value
def centralize() -> GradientTransformation:
    """`u = g - mean(g)`, the mean over all axes but the first; vectors and scalars stay.

    As in Optax; in the reference the mean is over a unit's inputs, which for `[in, out]` kernels
    are the first axis.

    References:
      Yong et al., [Gradient centralization: a new optimization technique for deep neural
      networks](https://arxiv.org/abs/2004.01461), 2020.
    """

    def center(g: Array) -> Array:
        return g - g.mean(range(1, g.ndim), keepdims=True) if g.ndim > 1 else g

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return map_updates(center, updates), state

    return GradientTransformation(empty_state, update)
