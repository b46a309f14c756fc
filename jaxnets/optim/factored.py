"""Adafactor: second moments of matrices kept as the means of their rows and columns."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.optim.averages import ema
from jaxnets.optim.blocks import scale_by_param_block_rms
from jaxnets.optim.clip_blocks import clip_by_block_rms
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    NUMBER,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale, scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, PyTree, ScalarOrSchedule, Shape


class FactoredState(NamedTuple):
    """The number of steps made and the second moments: of rows and columns, or of each entry.

    What a leaf does not use is a single 0.
    """

    count: Array  # type: ignore[assignment]
    v_row: Params
    v_col: Params
    v: Params


def _power_decay(step: Array, exponent: Hyper) -> Hyper:
    """`1 - (t + 1)⁻ᶜ`, in float32 as Optax's; 0 at `t ≤ 0`."""
    return 1 - jnp.maximum(step + 1, 1).astype(jnp.float32) ** -exponent


def _two_largest(shape: Shape, least: int) -> tuple[int, int] | None:
    """The axes of the second largest and the largest dimension, if both are at least `least`."""
    if len(shape) < 2:
        return None
    *_, second, first = np.argsort(shape, kind="stable").tolist()
    return (second, first) if shape[second] >= least else None


def _inverse_root(v: Array) -> Array:
    return jnp.where(v == 0, 0, jnp.where(v == 0, 1, v) ** -0.5)


@transformation(decay_rate=NON_NEGATIVE, step_offset=NUMBER, epsilon=NON_NEGATIVE)
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyper = 0.8,
    step_offset: Hyper = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Hyper = 1e-30,
    decay_rate_fn: Callable[[Array, Any], Any] = _power_decay,
) -> GradientTransformation:
    """`u = g / √v`, where `v` of a matrix is `r cᵀ / mean(r)`, of its rows' and columns' means.

        r ← β r + (1 - β) mean_columns(g² + ε)      β = 1 - t⁻ᶜ
        c ← β c + (1 - β) mean_rows(g² + ε)

    Args:
      factored: False for `v ← β v + (1 - β) (g² + ε)` in all leaves.
      decay_rate: `c ≥ 0`.
      step_offset: the number of steps from which `t` counts. (Before it, where Optax's updates are
        NaN, `β` is 0.)
      min_dim_size_to_factor: leaves are factored along their two largest dimensions, if both are of
        this size at least. All leading dimensions of a stack count too.
      epsilon: `ε ≥ 0`, added to the squares.
      decay_rate_fn: `β` as a function of the number of steps since `step_offset`, first 0, and of
        `decay_rate`.

    Raises:
      ValueError: for a number outside its range.

    References:
      Shazeer and Stern, [Adafactor: adaptive learning rates with sublinear memory
      cost](https://arxiv.org/abs/1804.04235), 2018; Zhai et al., [Scaling vision
      transformers](https://arxiv.org/abs/2106.04560), 2021 (which bound `β`).
    """

    def axes(x: Any) -> tuple[int, int] | None:
        return _two_largest(jnp.shape(x), min_dim_size_to_factor) if factored else None

    def init(params: Params) -> FactoredState:
        def mean_over(which: int, p: Any) -> Any:
            pair = axes(p)
            if pair is None:
                return jax.ShapeDtypeStruct((1,), jnp.result_type(p))
            # not by the shape alone: the mean is sharded as its parameter
            return jax.eval_shape(partial(jnp.sum, axis=pair[which]), p)

        def all_entries(p: Any) -> Any:
            return p if axes(p) is None else jax.ShapeDtypeStruct((1,), jnp.result_type(p))

        def moments(shapes: PyTree) -> PyTree:
            return moments_like(shapes, real=True)

        return FactoredState(
            count=jnp.zeros((), jnp.int32),
            v_row=moments(jax.tree.map(partial(mean_over, 1), params)),
            v_col=moments(jax.tree.map(partial(mean_over, 0), params)),
            v=moments(jax.tree.map(all_entries, params)),
        )

    def update(
        updates: Updates, state: FactoredState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, FactoredState]:
        beta = decay_rate_fn(state.count - step_offset, decay_rate)

        def average(old: Array, new: Array) -> Array:
            averaged: Array = beta * old + (1 - beta) * new
            return averaged

        def step(g: Array, row: Array, column: Array, v: Array) -> tuple[Array, ...]:
            squares = abs_sq(g) + epsilon
            pair = axes(g)
            if pair is None:
                v = average(v, squares)
                return g * _inverse_root(v), row, column, v
            second, first = pair
            row = average(row, squares.mean(first))
            column = average(column, squares.mean(second))
            tall, wide = jnp.expand_dims(row, first), jnp.expand_dims(column, second)
            mean = tall.mean(second, keepdims=True)
            relative = tall / jnp.where(mean == 0, 1, mean)
            return g * _inverse_root(relative) * _inverse_root(wide), row, column, v

        old = (state.v_row, state.v_col, state.v)
        updates, *new = map_moments(step, updates, params=params, statistics=old)
        return updates, FactoredState(increment(state.count), *new)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    decay_rate=NON_NEGATIVE,
    decay_offset=NUMBER,
    momentum=DECAY_RATE,
    weight_decay_rate=NON_NEGATIVE,
    eps=NON_NEGATIVE,
)
def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: ScalarOrSchedule = 0.8,
    decay_offset: ScalarOrSchedule = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: ScalarOrSchedule | None = 1.0,
    momentum: ScalarOrSchedule | None = None,
    dtype_momentum: DTypeLike = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: ScalarOrSchedule = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    """Adafactor: RMSProp whose second moments take no more memory than rows and columns.

        u = g / √v                        v = r cᵀ / mean(r), see `scale_by_factored_rms`
        u ← u / max(1, rms(u) / d)        in each leaf
        u ← η u max(rms(θ), 10⁻³)
        u ← m ← μ m + (1 - μ) u           with momentum
        θ ← θ - u - λ θ

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; None is 1. Relative to the
        parameters' size, so that good rates are larger than Adam's.
      min_dim_size_to_factor: leaves are factored if their two largest dimensions are of this size
        at least.
      decay_rate: `c ≥ 0` in `β = 1 - t⁻ᶜ`, the decay of second moments.
      decay_offset: the number of steps from which `t` counts, for fine-tuning.
      multiply_by_parameter_scale: False for a rate that is not relative.
      clipping_threshold: `d > 0`; None does not clip.
      momentum: `μ` in [0, 1); None (not 0) keeps no state. Not corrected for its start at 0.
      dtype_momentum: dtype in which `m` is stored.
      weight_decay_rate: `λ ≥ 0`. It is not multiplied by the learning rate.
      eps: `ε ≥ 0`, added to squared gradients.
      factored: whether to factor at all.
      weight_decay_mask: which parameters decay; a path rule such as `"kernel$"`, or Optax's masks,
        see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = adafactor(1e-2, weight_decay_rate=1e-4, weight_decay_mask="kernel$")

    References:
      Shazeer and Stern, [Adafactor: adaptive learning rates with sublinear memory
      cost](https://arxiv.org/abs/1804.04235), 2018.
    """
    optional = [
        None if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        None if learning_rate is None else scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else None,
        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        None
        if weight_decay_rate is None
        else add_decayed_weights(weight_decay_rate, weight_decay_mask),
    ]
    return chain(
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        *(part for part in optional if part is not None),
        scale(-1),
    )
