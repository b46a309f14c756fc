"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.eigenbasis import rotate, rotate_back, turned
from jaxnets.optim.hyper import (
    COUNTING,
    DECAY_RATE,
    NON_NEGATIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.kronecker import factors_like, gram, merged, stack_flags
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule, Shape


class ScaleBySoapState(NamedTuple):
    """The number of steps made, Adam's moments in the eigenbases, and the bases themselves."""

    count: Array  # type: ignore[assignment]
    mu: Params
    """In the eigenbases."""
    nu: Params
    """In the eigenbases."""
    factors: Params
    """For each parameter a tuple, for each axis the moving average of its Gram matrix, or None."""
    bases: Params
    """For each of `factors` its eigenvectors, as columns."""


@transformation(
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    shampoo_beta=DECAY_RATE,
    eps=NON_NEGATIVE,
    precondition_frequency=COUNTING,
)
def scale_by_soap(
    b1: Hyper = 0.95,
    b2: Hyper = 0.95,
    shampoo_beta: Hyper | None = None,
    eps: Hyper = 1e-8,
    precondition_frequency: Hyper = 10,
    max_precond_dim: int = 10000,
    mu_dtype: DTypeLike | None = None,
    *,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    stacked: Mask | None = None,
    precision: Any = "highest",
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adam's direction in the eigenbases of the gradient's Gram matrices; see `soap`."""
    beta = b2 if shampoo_beta is None else shampoo_beta

    def shape_of(shape: Shape) -> Shape:
        return merged(shape, max_precond_dim) if merge_dims and len(shape) > 1 else shape

    def factor_shapes(shape: Shape) -> tuple[Shape | None, ...]:
        if 0 in shape or (len(shape) == 1 and not precondition_1d):
            return (None,) * len(shape_of(shape))
        return tuple((d, d) if d <= max_precond_dim else None for d in shape_of(shape))

    def init(params: Params) -> ScaleBySoapState:
        stacks = stack_flags(stacked, params)
        return ScaleBySoapState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
            factors=factors_like(params, stacks, factor_shapes),
            bases=factors_like(params, stacks, factor_shapes),
        )

    def update(
        updates: Updates, state: ScaleBySoapState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleBySoapState]:
        # the first call has no basis yet; it makes one and moves nothing
        t = jnp.maximum(state.count, 1)
        is_first, is_due = state.count == 0, state.count % precondition_frequency == 0
        correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)

        def step_of_layer(
            g: Array, m: Array, v: Array, factors: tuple[Any, ...], bases: tuple[Any, ...]
        ) -> tuple[Any, ...]:
            shape, inner = g.shape, shape_of(g.shape)
            g, m, v = g.reshape(inner), m.reshape(inner), v.reshape(inner)
            rotated = rotate(g, bases, precision)
            new_m = (1 - b1) * rotated + b1 * m
            new_v = (1 - b2) * abs_sq(rotated) + b2 * v
            step = rotate_back(new_m / (jnp.sqrt(new_v) + eps), bases, precision)
            step = jnp.where(is_first, 0, correction * step)

            # only now, so that a gradient is never seen in a basis that it made
            factors = tuple(
                None
                if s is None
                else ((1 - beta) * gram(g, axis, precision) + beta * s).astype(s.dtype)
                for axis, s in enumerate(factors)
            )
            case = jnp.where(is_first, 0, jnp.where(is_due, 2, 1))
            after = new_m.astype(m.dtype), new_v.astype(v.dtype)
            m, v, bases = turned(case, (m, v), after, factors, bases, precision)
            return step.reshape(shape), m.reshape(shape), v.reshape(shape), factors, bases

        def step(g: Array, m: Array, v: Array, *rest: Any) -> tuple[Any, ...]:
            *matrices, is_stack = rest
            run = jax.vmap(step_of_layer) if is_stack else step_of_layer
            return run(g, m, v, *matrices)

        updates, mu, nu, factors, bases = map_moments(
            step,
            updates,
            state.mu,
            state.nu,
            params=params,
            statistics=(state.factors, state.bases),
            static=(stack_flags(stacked, updates if params is None else params),),
        )
        return updates, ScaleBySoapState(increment(state.count), mu, nu, factors, bases)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    shampoo_beta=DECAY_RATE,
    eps=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    precondition_frequency=COUNTING,
)
def soap(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    shampoo_beta: ScalarOrSchedule | None = None,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
    precondition_frequency: ScalarOrSchedule = 10,
    max_precond_dim: int = 10000,
    mu_dtype: DTypeLike | None = None,
    *,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    stacked: Mask | None = None,
    precision: Any = "highest",
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """SOAP: Adam run in the slowly turning eigenbasis of Shampoo's preconditioner.

    For a matrix, with `Q_L` and `Q_R` the eigenvectors of `L` and `R`:

        G' = Q_Lᴴ G Q_R
        M ← β₁ M + (1 - β₁) G'
        V ← β₂ V + (1 - β₂) G'²
        θ ← θ - η (√(1 - β₂ᵗ) / (1 - β₁ᵗ) Q_L (M / (√V + ε)) Q_Rᴴ + λ θ)
        L ← β L + (1 - β) G Gᴴ,   R ← β R + (1 - β) Gᵀ G*

    Every `k` steps the bases follow: `Q ← qr(L Q)`, columns by falling eigenvalue; `V` is ordered
    along, and `M`, which is kept in the eigenbasis, is turned into the new one. The first call
    moves no parameter but by decay: it makes the first bases, by a full eigendecomposition. So
    `t` counts from the second call.

    Arrays of more axes have one matrix for each; vectors, scalars and axes longer than
    `max_precond_dim` have none, and there SOAP is Adam. This is the authors' program; in it the
    decay acts on the parameters already moved, here, as in `adamw`, on those before.

    Memory: beside Adam's moments `2 d²` for each axis of length `d`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      shampoo_beta: `β` in [0, 1), of the Gram matrices; by default `b2`.
      eps: `ε ≥ 0`, outside the root, and added before the bias correction.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay, see `add_decayed_weights`.
      precondition_frequency: `k ≥ 1`, the number of steps from one basis to the next.
      max_precond_dim: axes longer than this are not turned.
      mu_dtype: dtype in which `M` is stored; by default the parameters', at least float32.
      merge_dims: whether to merge neighboring axes up to `max_precond_dim` before all else; a
        convolution kernel becomes a matrix `[window * in, out]` (or, if small, a vector).
      precondition_1d: whether vectors are turned too.
      stacked: which parameters are stacks of layers, `[layers, ...]`, a path rule or one of
        Optax's masks. Each layer then has bases of its own, where else the first axis would be
        one more to turn.
      precision: of the matrix products; less than the highest turns bases that are not orthogonal.
      nu_dtype: dtype in which `V` is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = soap(3e-3, mask="kernel$", stacked="^blocks/")

    References:
      Vyas et al., [SOAP: improving and stabilizing Shampoo using
      Adam](https://arxiv.org/abs/2409.11321), 2024, and [their
      program](https://github.com/nikhilvyas/SOAP).
    """
    return chain(
        scale_by_soap(
            b1,
            b2,
            shampoo_beta,
            eps,
            precondition_frequency,
            max_precond_dim,
            mu_dtype,
            merge_dims=merge_dims,
            precondition_1d=precondition_1d,
            stacked=stacked,
            precision=precision,
            nu_dtype=nu_dtype,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
