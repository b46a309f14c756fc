"""Rates from distances over gradients, each leaf's own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import NON_NEGATIVE, NUMBER, POSITIVE, Hyper, transformation
from jaxnets.optim.leaves import (
    abs_sq,
    copy_of,
    map_moments,
    norm,
    require_params,
    scalar_dtype,
    widened,
)
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, DTypeLike, Params, PyTree


class ScaleByDistanceOverGradientsState(NamedTuple):
    """For each leaf: the largest distance from its start, its sum of squares, and its start."""

    max_dist: PyTree
    grad_sum_of_squares: PyTree
    init_params: Params


@transformation(reps_rel=POSITIVE, eps=NON_NEGATIVE, global_scale=NUMBER)
def scale_by_distance_over_gradients(
    reps_rel: Hyper = 1e-6,
    eps: Hyper = 1e-8,
    param_dtype: DTypeLike = jnp.float32,
    global_scale: Hyper = 1.0,
) -> GradientTransformation:
    """DoG for each leaf on its own (L-DoG): `u = s g r / √(Σ ‖g‖² + ε)`, `r = max ‖θ - θ₀‖`.

    Optax's updates of scalars have an axis; these have the parameters' shapes.

    Args:
      reps_rel: `a > 0` of the first distance, `r = a (1 + ‖θ₀‖)`: 1e-6, or 1e-4 for nets with
        batch normalization.
      eps: `ε ≥ 0`.
      param_dtype: dtype in which `θ₀` is stored; its rounding is the least distance that is seen.
      global_scale: `s`, 1 or -1.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Ivgi, Hinder and Carmon, [DoG is SGD's best friend: a parameter-free dynamic step size
      schedule](https://arxiv.org/abs/2302.12022), 2023.
    """

    def stored_dtype(p: Array) -> Any:
        return jnp.promote_types(param_dtype, jnp.complex64) if jnp.iscomplexobj(p) else param_dtype

    def init(params: Params) -> ScaleByDistanceOverGradientsState:
        def number(p: Array, value: Any, shape: tuple[int, ...]) -> Array:
            return jnp.full(shape, value, scalar_dtype(p))

        return ScaleByDistanceOverGradientsState(
            jax.tree.map(lambda p: number(p, reps_rel * (1 + norm(widened(p))), ()), params),
            jax.tree.map(lambda p: number(p, 0, (1,)), params),
            jax.tree.map(lambda p: copy_of(p, stored_dtype(p)), params),
        )

    def update(
        updates: Updates,
        state: ScaleByDistanceOverGradientsState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByDistanceOverGradientsState]:
        require_params("scale_by_distance_over_gradients", params)

        def step(g: Array, p: Array, start: Array, r: Array, total: Array) -> tuple[Array, ...]:
            r = jnp.maximum(r, norm(p - start))
            total = total + jnp.sum(abs_sq(g))
            rate = global_scale * (r / jnp.sqrt(jnp.squeeze(total) + eps))
            return rate * g, start, r, total

        updates, start, distance, sums = map_moments(
            step,
            updates,
            state.init_params,
            params=params,
            reads_params=True,
            statistics=(state.max_dist, state.grad_sum_of_squares),
        )
        return updates, ScaleByDistanceOverGradientsState(distance, sums, start)

    return GradientTransformation(init, update)
