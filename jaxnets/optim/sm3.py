"""SM3: an Adagrad whose sums take no more memory than one vector for each axis."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import rsqrt

from jaxnets.optim.hyper import (
    DECAY_RATE,
    FRACTION,
    NON_NEGATIVE,
    Hyper,
    checked,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Params, ScalarOrSchedule


class ScaleBySM3State(NamedTuple):
    """For each leaf a list of accumulators, one for each axis, and the momentum."""

    mu: Params
    nu: Params


def _other_axes(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if i != axis)


@transformation(b1=DECAY_RATE, b2=FRACTION, eps=NON_NEGATIVE)
def scale_by_sm3(b1: Hyper = 0.9, b2: Hyper = 1.0, eps: Hyper = 1e-8) -> GradientTransformation:
    """`s = min_i μ_i + g²`; `u ← β₁ u + (1 - β₁) g / √(s + ε)`; `μ_i` are maxima of `s`: see `sm3`.

    Optax has no accumulators for scalars, and fails for them and for empty leaves.

    Args:
      b1: `β₁` in [0, 1), of the momentum.
      b2: `β₂` in [0, 1]: 1 for a sum of squares, else a moving average,
        `s = β₂ min_i μ_i + (1 - β₂) g²`.
      eps: `ε ≥ 0`.

    Raises:
      ValueError: for a number outside its range.
    """

    def init(params: Params) -> ScaleBySM3State:
        def accumulators(p: Any) -> list[Any]:
            # not by the shape alone: they are sharded as their parameter
            ndim = jnp.ndim(p)
            sums = [functools.partial(jnp.sum, axis=_other_axes(i, ndim)) for i in range(ndim)]
            return [jax.eval_shape(total, p) for total in sums] or [p]

        return ScaleBySM3State(
            mu=moments_like(jax.tree.map(accumulators, params), real=True),
            nu=moments_like(params),
        )

    def update(
        updates: Updates, state: ScaleBySM3State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleBySM3State]:
        weight = jnp.where(b2 == 1, 1, 1 - b2)

        def step(g: Array, m: Array, accumulators: list[Array]) -> tuple[Any, ...]:
            axes = [_other_axes(i, g.ndim) for i in range(max(g.ndim, 1))]
            covers = map(jnp.expand_dims, accumulators, axes)
            s = weight * abs_sq(g) + b2 * functools.reduce(jnp.minimum, covers)
            scaled = g * jnp.where(s > 0, rsqrt(s + eps), 0)
            m = (1 - b1) * scaled + b1 * m
            return m, m, [jnp.max(s, axis, initial=0) for axis in axes]

        updates, nu, mu = map_moments(
            step, updates, state.nu, params=params, statistics=(state.mu,)
        )
        return updates, ScaleBySM3State(mu, nu)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, momentum=DECAY_RATE)
def sm3(
    learning_rate: ScalarOrSchedule, momentum: ScalarOrSchedule = 0.9
) -> GradientTransformation:
    """SM3 (in its second form): Adagrad with sums bounded by those of rows and columns.

        s = min_i μ_i + g²
        μ_i ← max s                            over all axes but i
        m ← β m + (1 - β) g / √(s + ε)         ε = 10⁻⁸
        θ ← θ - η m

    Args:
      learning_rate: `η ≥ 0`, a number, an array or (unlike Optax's) a schedule.
      momentum: `β` in [0, 1).

    Raises:
      ValueError: for a number outside its range.

    References:
      Anil et al., [Memory-efficient adaptive optimization](https://arxiv.org/abs/1901.11150), 2019.
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))
