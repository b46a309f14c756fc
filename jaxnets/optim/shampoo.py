"""Shampoo: each axis of the gradient divided by a root of its own second moment."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.descent import trace
from jaxnets.optim.hyper import (
    COUNTING,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.kronecker import along_axes, factors_like, gram, gram_diagonal, stack_flags
from jaxnets.optim.leaves import abs_sq, map_moments
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, State, Updates, chain, identity
from jaxnets.types import Array, Params, ScalarOrSchedule, Shape


class ScaleByShampooState(NamedTuple):
    """The number of steps made, the statistics of each axis and the roots taken of them."""

    count: Array  # type: ignore[assignment]
    statistics: Params
    """For each parameter a tuple: for each axis a matrix, or its diagonal."""
    roots: Params
    """For each of `statistics` its inverse root, as last taken."""
    grafting_state: State


def _inverse_root(statistic: Array, eps: Any, exponent: Any, precision: Any) -> Array:
    """`(S + ε 1)⁻ᵉ`; `S` is a matrix, or a vector for a diagonal one."""
    if statistic.ndim == 1:
        return jnp.power(statistic + eps, -exponent)
    eigenvalues, vectors = jnp.linalg.eigh(statistic)
    # below this an eigenvalue is rounding error, of either sign
    least = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps * jnp.max(eigenvalues)
    powers = (jnp.maximum(eigenvalues, least) + eps) ** -exponent
    return jnp.matmul(vectors * powers[None, :], vectors.conj().T, precision=precision)


# compiled once for each shape, also where the caller runs op by op
@functools.partial(jax.jit, static_argnames="precision")
def _roots(
    is_due: Array,
    roots: tuple[Array, ...],
    statistics: tuple[Array, ...],
    correction: Any,
    eps: Any,
    exponent: Any,
    precision: Any,
) -> tuple[Array, ...]:
    """The inverse roots of the statistics if they are due, else the old ones."""

    def new() -> tuple[Array, ...]:
        return tuple(
            _inverse_root(s / correction, eps, exponent, precision).astype(old.dtype)
            for s, old in zip(statistics, roots, strict=True)
        )

    chosen: tuple[Array, ...] = jax.lax.cond(is_due, new, lambda: roots)
    return chosen


@transformation(b2=FRACTION, eps=POSITIVE, exponent=NON_NEGATIVE, precondition_frequency=COUNTING)
def scale_by_shampoo(
    b2: Hyper = 1.0,
    eps: Hyper = 1e-12,
    exponent: Hyper | None = None,
    precondition_frequency: Hyper = 1,
    max_precond_dim: int = 10000,
    grafting: GradientTransformation | None = None,
    *,
    stacked: Mask | None = None,
    precision: Any = "highest",
) -> GradientTransformation:
    """`u = L^(-1/4) G R^(-1/4)`, the direction of Shampoo; see `shampoo`."""

    graft = chain() if grafting is None else chain(grafting)

    def factor_shapes(shape: Shape) -> tuple[Shape, ...]:
        # a scalar is a vector of one value
        return tuple((d, d) if 0 < d <= max_precond_dim else (d,) for d in shape or (1,))

    def init(params: Params) -> ScaleByShampooState:
        stacks = stack_flags(stacked, params)
        return ScaleByShampooState(
            count=jnp.zeros((), jnp.int32),
            statistics=factors_like(params, stacks, factor_shapes),
            roots=factors_like(params, stacks, factor_shapes),
            grafting_state=graft.init(params),
        )

    def update(
        updates: Updates, state: ScaleByShampooState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByShampooState]:
        t = increment(state.count)
        is_due = state.count % precondition_frequency == 0
        # a sum where b2 is 1, else an average corrected for its start at 0
        weight = jnp.where(b2 == 1, 1, 1 - b2)
        correction = jnp.where(b2 == 1, 1, 1 - b2**t)

        def step_of_layer(
            g: Array, grafted: Array, statistics: tuple[Array, ...], roots: tuple[Array, ...]
        ) -> tuple[Any, ...]:
            shape = g.shape
            g = g.reshape(shape or (1,))
            now = (
                gram(g, axis, precision) if old.ndim == 2 else gram_diagonal(g, axis)
                for axis, old in enumerate(statistics)
            )
            statistics = tuple(
                b2 * old + weight * new for old, new in zip(statistics, now, strict=True)
            )

            power = 1 / (2 * g.ndim) if exponent is None else exponent
            roots = _roots(is_due, roots, statistics, correction, eps, power, precision)
            step = along_axes(g, [r.T if r.ndim == 2 else r for r in roots], precision)
            if grafting is not None:
                own, wanted = (jnp.sqrt(jnp.sum(abs_sq(x))) for x in (step, grafted))
                step = step * jnp.where(own > 0, wanted / jnp.where(own > 0, own, 1), 0)
            return step.reshape(shape), statistics, roots

        def step(g: Array, statistics: Any, roots: Any, grafted: Any, is_stack: bool) -> Any:
            run = jax.vmap(step_of_layer) if is_stack else step_of_layer
            return run(g, jnp.asarray(grafted, g.dtype), statistics, roots)

        grafted, grafting_state = graft.update(updates, state.grafting_state, params, **extra)
        stacks = stack_flags(stacked, updates if params is None else params)
        updates, statistics, roots = map_moments(
            step,
            updates,
            params=params,
            statistics=(state.statistics, state.roots),
            static=(grafted, stacks),
        )
        return updates, ScaleByShampooState(t, statistics, roots, grafting_state)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b2=FRACTION,
    eps=POSITIVE,
    exponent=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    precondition_frequency=COUNTING,
    momentum=FRACTION,
)
def shampoo(
    learning_rate: ScalarOrSchedule,
    b2: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 1e-12,
    exponent: ScalarOrSchedule | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    precondition_frequency: ScalarOrSchedule = 1,
    max_precond_dim: int = 10000,
    grafting: GradientTransformation | None = None,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    *,
    stacked: Mask | None = None,
    precision: Any = "highest",
) -> GradientTransformation:
    """Shampoo: Adagrad with one full matrix for each axis of a parameter. For a matrix:

        L ← L + G Gᴴ,   R ← R + Gᵀ G*
        θ ← θ - η ((L + ε)^(-1/4) G (R* + ε)^(-1/4) + λ θ)

    An array of `k` axes has `k` such matrices and the exponent `-1 / 2k`; a vector is divided by
    the root of its full second moment, as in full-matrix Adagrad, and a scalar as in Adagrad. Of
    axes longer than `max_precond_dim` only the diagonal is kept.

    The defaults are the paper's. At scale one takes averages in place of sums, new roots every so
    many steps, and the length of each parameter's step from another optimizer (grafting):

    >>> shampoo(1e-3, b2=0.999, precondition_frequency=10, grafting=scale_by_adam(), momentum=0.9)

    Eigenvalues are taken to be at least the rounding error of the largest.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b2: 1 for sums as above; below 1 the decay `β₂ ≥ 0` of averages, `L ← β₂ L + (1 - β₂) G Gᴴ`,
        which are divided by `1 - β₂ᵗ`.
      eps: `ε > 0`, added to the eigenvalues.
      exponent: `e ≥ 0`, for `(L + ε)⁻ᵉ`; by default `1 / 2k` for an array of `k` axes.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay, see `add_decayed_weights`.
      precondition_frequency: the number of steps, at least 1, from one root to the next; the first
        step takes one.
      max_precond_dim: of axes longer than this only the diagonal is kept.
      grafting: a transformation, ours or Optax's, such as `scale_by_adam()`. Each parameter moves
        in the direction of Shampoo and by the length of this one's step.
      momentum: `μ` in [0, 1] of `trace`, after preconditioning; None (not 0) keeps no state.
      nesterov: whether to use Nesterov's form of momentum.
      stacked: which parameters are stacks of layers, `[layers, ...]`, a path rule or one of
        Optax's masks. Each layer then has statistics and a length of step of its own.
      precision: of the matrix products.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Gupta et al., [Shampoo: preconditioned stochastic tensor
      optimization](https://arxiv.org/abs/1802.09568), 2018; Anil et al., [Scalable second order
      optimization for deep learning](https://arxiv.org/abs/2002.09018), 2020 (grafting).
    """
    return chain(
        scale_by_shampoo(
            b2,
            eps,
            exponent,
            precondition_frequency,
            max_precond_dim,
            grafting,
            stacked=stacked,
            precision=precision,
        ),
        identity() if momentum is None else trace(momentum, nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
