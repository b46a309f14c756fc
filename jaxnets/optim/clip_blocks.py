"""Clipping of each leaf, or of each unit in it, by its own norm."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.decay import Mask, mask_tree
from jaxnets.optim.hyper import NON_NEGATIVE, POSITIVE, Hyper, transformation
from jaxnets.optim.leaves import (
    Axis,
    map_updates,
    map_with_params,
    norm,
    norms,
    require_params,
    rms,
)
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    State,
    Updates,
    empty_state,
)
from jaxnets.types import Array, ArrayLike, Params


@transformation(threshold=POSITIVE)
def clip_by_block_rms(threshold: Hyper) -> GradientTransformation:
    """Scale each leaf down whose root mean square exceeds `d`: `u = g / max(1, rms(g) / d)`.

    Args:
      threshold: `d > 0`, a number, an array or a schedule.

    Raises:
      ValueError: for a number outside its range.

    References:
      Shazeer and Stern, [Adafactor: adaptive learning rates with sublinear memory
      cost](https://arxiv.org/abs/1804.04235), 2018.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return map_updates(lambda g: g / jnp.maximum(1, rms(g) / threshold), updates), state

    return GradientTransformation(empty_state, update)


@transformation(max_norm=POSITIVE)
def clip_per_leaf(max_norm: Hyper, mask: Mask | None = None) -> GradientTransformation:
    """Scale each leaf down whose own norm exceeds `c`: `u = g / max(1, ‖g‖ / c)`.

    Optax has no such transformation.

    Args:
      max_norm: `c > 0`, a number, an array or a schedule.
      mask: which leaves are clipped, by default all; a path rule such as `"kernel$"`, or Optax's
        masks, see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or a mask that does not fit.

    Example:
      A bound for the embeddings, another for all kernels:

      >>> chain(clip_per_leaf(0.1, "embedding$"), clip_per_leaf(1.0, "kernel$"), sgd(0.1))
    """

    def init(params: Params) -> EmptyState:
        if mask is not None:
            mask_tree(mask, params)
        return EmptyState()

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        def step(g: Array, p: Array, clips: bool = True) -> Array:
            return g / jnp.maximum(1, norm(g) / max_norm) if clips else g

        like = updates if params is None else params
        masks = () if mask is None else (mask_tree(mask, like),)
        return map_with_params(step, updates, like, *masks), state

    return GradientTransformation(init, update)


def _unit_axes(x: Array) -> Axis:
    """The axes that one unit's weights lie along, by the usual layouts."""
    if jnp.squeeze(x).ndim <= 1:
        return tuple(range(x.ndim))
    if x.ndim > 5:
        raise ValueError(
            f"unitwise_norm: axis must be given for leaves of more than 5 axes, got shape {x.shape}"
        )
    return 0 if x.ndim <= 3 else tuple(range(x.ndim - 1))


def unitwise_norm(x: ArrayLike, axis: Axis = None) -> Array:
    """The norm of each unit's weights, in the place of each of them.

    Args:
      x: an array.
      axis: along which a unit's weights lie. By default all axes of scalars and vectors, the first
        one of arrays with 2 or 3 axes, and all but the last one of those with 4 or 5 (kernels of
        convolutions).

    Raises:
      ValueError: for more than 5 axes, if `axis` is not given.
    """
    x = jnp.asarray(x)
    units: Array = norms(x, _unit_axes if axis is None else lambda x: axis)
    dtype = jnp.real(x).dtype if jnp.issubdtype(x.dtype, jnp.inexact) else units.dtype
    return jnp.broadcast_to(units, x.shape).astype(dtype)


def _shrinking(g_norm: Array, max_norm: Array, div_eps: ArrayLike = 1e-6) -> Array:
    return jnp.where(g_norm < max_norm, 1, max_norm / jnp.maximum(g_norm, div_eps))


def unitwise_clip(g_norm: Array, max_norm: Array, grad: Array, div_eps: ArrayLike = 1e-6) -> Array:
    """`g` where `‖g‖ < c`, else `g c / max(‖g‖, ε)`, for arrays of one shape.

    Args:
      g_norm: `‖g‖`, as of `unitwise_norm`.
      max_norm: `c`.
      grad: `g`.
      div_eps: `ε`, against division by 0.

    Raises:
      ValueError: if the shapes differ.
    """
    shapes = tuple(map(jnp.shape, (g_norm, max_norm, grad)))
    if len(set(shapes)) > 1:
        raise ValueError(f"unitwise_clip: arrays must have the same shape, got {shapes}")
    return grad * _shrinking(g_norm, max_norm, div_eps)


@transformation(clipping=POSITIVE, eps=NON_NEGATIVE)
def adaptive_grad_clip(
    clipping: Hyper, eps: Hyper = 1e-3, axis: Axis = None
) -> GradientTransformation:
    """Clip each unit's gradient to `λ max(‖θ‖, ε)`, in proportion to the norm of its weights.

    Args:
      clipping: `λ > 0`.
      eps: `ε ≥ 0`, so that weights of 0 can grow.
      axis: along which a unit's weights lie; by default see `unitwise_norm`.

    Raises:
      ValueError: for a number outside its range, an update without params, or a leaf of more than
        5 axes if `axis` is not given.

    References:
      Brock et al., [High-performance large-scale image recognition without
      normalization](https://arxiv.org/abs/2102.06171), 2021.
    """

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("adaptive_grad_clip", params)

        axes = _unit_axes if axis is None else lambda x: axis
        g_norms, p_norms = norms((updates, params), axes)

        def step(g: Array, p: Array, g_norm: Array, p_norm: Array) -> Array:
            return g * _shrinking(g_norm, clipping * jnp.maximum(p_norm, eps))

        return map_with_params(step, updates, params, g_norms, p_norms), state

    return GradientTransformation(empty_state, update)
