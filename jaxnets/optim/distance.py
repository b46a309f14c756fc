"""Rates from distances over gradients: how far the parameters have come, over what drove them."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import NON_NEGATIVE, POSITIVE, Hyper, checked, in_range, transformation
from jaxnets.optim.leaves import (
    copy_of,
    dot,
    map_updates,
    moved_from,
    require_params,
    scalar_dtype,
    with_zeros,
)
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain, identity
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params, PyTree, ScalarOrSchedule


def _sq_norm(tree: PyTree) -> Array:
    return dot(tree, tree)


def _norm(tree: PyTree) -> Array:
    """Without the second pass of `global_norm`: no net is 1e19 away from where it started."""
    square = _sq_norm(tree)
    # the root of 0 has no derivative
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


class DoGState(NamedTuple):
    """The start, the largest distance from it, and the sum of squared gradient norms."""

    is_init_step: Array
    init_params: Params
    max_dist: Array
    sum_sq_norm_grads: Array


InitStep: TypeAlias = tuple[Literal["distance", "learning_rate", "heuristic"], Hyper]


def _first_step(function: str, init_step: InitStep) -> InitStep:
    """`init_step`, whose value must be a number or an array `> 0`: from 0 nothing ever moves."""
    kind, value = init_step
    if kind not in ("distance", "learning_rate", "heuristic"):
        raise ValueError(
            f"{function}: init_step must be ('distance', 'learning_rate' or 'heuristic', value), "
            f"got {init_step!r}"
        )
    if callable(value):
        raise ValueError(f"{function}: the value in init_step is the first only, so no schedule")
    return kind, in_range(function, "the value in init_step", value, POSITIVE)


@transformation(eps=NON_NEGATIVE)
def scale_by_dog(
    init_step: InitStep,
    eps: Hyper = 1e-8,
) -> GradientTransformation:
    """`u = g max ‖θ - θ₀‖ / √(Σ ‖g‖² + ε)`. See `dog`."""
    kind, first = _first_step("scale_by_dog", init_step)

    def init(params: Params) -> DoGState:
        dtype = scalar_dtype(params)
        distance: Hyper = 0.0 if kind == "learning_rate" else first
        if kind == "heuristic":
            distance = first * (1 + global_norm(params))
        return DoGState(
            is_init_step=jnp.ones((), bool),
            init_params=copy_of(params),
            max_dist=jnp.asarray(distance, dtype),
            sum_sq_norm_grads=jnp.zeros((), dtype),
        )

    def update(
        updates: Updates, state: DoGState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, DoGState]:
        require_params("scale_by_dog", params)
        dtype = state.max_dist.dtype
        distance = _norm(moved_from(state.init_params, params)).astype(dtype)
        distance = jnp.maximum(state.max_dist, distance)
        total = (state.sum_sq_norm_grads + _sq_norm(with_zeros(updates, params))).astype(dtype)
        rate = distance / jnp.sqrt(total + eps)
        if kind == "learning_rate":
            rate = jnp.where(state.is_init_step, first, rate)
        new = DoGState(jnp.zeros((), bool), state.init_params, distance, total)
        return map_updates(lambda g: rate * g, updates), new

    return GradientTransformation(init, update)


class DoWGState(NamedTuple):
    """The start, the weighted sum of squared gradient norms, and the largest squared distance."""

    init_params: Params
    weighted_sq_norm_grads: Array
    estim_sq_dist: Array


@transformation(init_estim_sq_dist=POSITIVE, eps=NON_NEGATIVE)
def scale_by_dowg(
    init_estim_sq_dist: Hyper | None = None, eps: Hyper = 1e-4
) -> GradientTransformation:
    """`r² = max ‖θ - θ₀‖²`; `v ← v + r² ‖g‖²`; `u = g r² / (√v + ε)`. See `dowg`."""
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist

    def init(params: Params) -> DoWGState:
        dtype = scalar_dtype(params)
        return DoWGState(copy_of(params), jnp.zeros((), dtype), jnp.asarray(first, dtype))

    def update(
        updates: Updates, state: DoWGState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, DoWGState]:
        require_params("scale_by_dowg", params)
        dtype = state.estim_sq_dist.dtype
        sq_distance = _sq_norm(moved_from(state.init_params, params)).astype(dtype)
        sq_distance = jnp.maximum(state.estim_sq_dist, sq_distance)
        sq_norm = _sq_norm(with_zeros(updates, params))
        v = (sq_distance * sq_norm + state.weighted_sq_norm_grads).astype(dtype)
        rate = sq_distance / (jnp.sqrt(v) + eps)
        new = DoWGState(state.init_params, v, sq_distance)
        return map_updates(lambda g: rate * g, updates), new

    return GradientTransformation(init, update)


def _decayed(weight_decay: ScalarOrSchedule | None, mask: Mask | None) -> GradientTransformation:
    return identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)


@checked(learning_rate=NON_NEGATIVE, eps=NON_NEGATIVE, weight_decay=NON_NEGATIVE)
def dog(
    learning_rate: ScalarOrSchedule = 1.0,
    init_step: InitStep = ("heuristic", 1e-6),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Distance over gradients (DoG): no rate to tune; its authors average the iterates.

        r ← max(r, ‖θ - θ₀‖)
        G ← G + ‖g‖²
        θ ← θ - η g r / √(G + ε)

    Args:
      learning_rate: `η ≥ 0`, usually 1.
      init_step: how the first step is chosen: `("distance", r)`; `("learning_rate", rate)` for its
        rate; or `("heuristic", a)` for `r = a (1 + ‖θ₀‖)`, with 1e-4 in place of 1e-6 for nets with
        batch normalization. The value is above 0, a number or an array.
      eps: `ε ≥ 0`.
      weight_decay: `λ ≥ 0`; the gradient becomes `g + λ θ`.
      mask: which parameters decay, see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Ivgi, Hinder and Carmon, [DoG is SGD's best friend: a parameter-free dynamic step size
      schedule](https://arxiv.org/abs/2302.12022), 2023.
    """
    return chain(
        _decayed(weight_decay, mask),
        scale_by_dog(_first_step("dog", init_step), eps),
        scale_by_learning_rate(learning_rate),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    init_estim_sq_dist=POSITIVE,
    eps=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def dowg(
    learning_rate: ScalarOrSchedule = 1.0,
    init_estim_sq_dist: ScalarOrSchedule | None = None,
    eps: ScalarOrSchedule = 1e-4,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Distance over weighted gradients (DoWG): no rate to tune, no average needed.

        r² ← max(r², ‖θ - θ₀‖²)
        v ← v + r² ‖g‖²
        θ ← θ - η g r² / (√v + ε)

    Args:
      learning_rate: `η ≥ 0`, usually 1.
      init_estim_sq_dist: the first `r² > 0`, by default `ε`.
      eps: `ε ≥ 0`.
      weight_decay: `λ ≥ 0`; the gradient becomes `g + λ θ`.
      mask: which parameters decay, see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = dowg()

    References:
      Khaled, Mishchenko and Jin, [DoWG unleashed: an efficient universal parameter-free gradient
      descent method](https://arxiv.org/abs/2305.16284), 2023.
    """
    return chain(
        _decayed(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )
