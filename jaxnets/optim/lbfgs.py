"""L-BFGS: Newton's method, its Hessian estimated from the last few steps."""

import math
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.scipy.linalg import solve_triangular

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NON_NEGATIVE, checked, increment
from jaxnets.optim.leaves import (
    copy_of,
    dot,
    map_with_params,
    moments_like,
    moved_from,
    require_params,
    scalar_dtype,
    with_zeros,
)
from jaxnets.optim.scale import scale, scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain, identity
from jaxnets.optim.zoom import scale_by_zoom_linesearch
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params, PyTree, ScalarOrSchedule


class ScaleByLBFGSState(NamedTuple):
    """Where it was, the gradient there, and the last steps `S`, gradient changes `Y`, `1 / s·y`."""

    count: Array  # type: ignore[assignment]
    params: Params
    updates: Updates
    diff_params_memory: Params
    """Each leaf with a leading axis for the steps; the oldest is overwritten."""
    diff_updates_memory: Updates
    weights_memory: Array


def _rows(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _products(memory: PyTree, other: PyTree) -> Array:
    """`Re M̄ Oᵀ`, summed over the leaves: all inner products of the rows of two memories."""

    def product(m: Array, o: Array) -> Array:
        return jnp.matmul(_rows(m).conj(), _rows(o).T, precision=Precision.HIGHEST).real

    leaves = jax.tree.leaves(jax.tree.map(product, memory, other))
    return reduce(jnp.add, leaves, jnp.zeros((), jnp.float32))


def _along(memory: PyTree, vector: PyTree) -> Array:
    """`Re M̄ v`."""
    lifted = jax.tree.map(lambda v: v[None], vector)
    return jnp.squeeze(_products(memory, lifted), -1)


def _combine(weights: Array, memory: PyTree) -> PyTree:
    """`Mᵀ w`."""

    def combine(m: Array) -> Array:
        flat = jnp.matmul(weights.astype(m.dtype), _rows(m), precision=Precision.HIGHEST)
        return flat.reshape(m.shape[1:])

    return jax.tree.map(combine, memory)


def inverse_hessian_product(
    gradient: Updates, S: PyTree, Y: PyTree, weights: Array, scaling: Any, oldest: Any
) -> Updates:
    """`H g`, where `H` is `γ I` corrected by each remembered step, the oldest first.

    Nocedal's two loops are two triangular systems: with `R = triu(S Yᵀ)` and `D` its diagonal,

        R a = S g,    q = g - Yᵀ a,    Rᵀ c = D a - γ Y q,    H g = γ q + Sᵀ c

    so that a step is six products with whole memories, whatever their length. The loops would be
    as many small kernels for each remembered step and leaf.

    Args:
      gradient: `g`.
      S: the steps, each leaf with a leading axis.
      Y: the changes of the gradient.
      weights: `1 / s·y` of each, or 0 where there is nothing to remember.
      scaling: `γ`.
      oldest: index of the oldest.
    """
    if not jax.tree.leaves(gradient):
        return gradient
    n = weights.shape[0]
    order = (oldest + jnp.arange(n)) % n
    known = weights[order] != 0
    R = _products(S, Y)[order][:, order]
    # rows that hold nothing: an equation `a = 0`
    R = jnp.where(known[:, None] & known[None, :], jnp.triu(R), 0)
    diagonal = jnp.where(known, jnp.diagonal(R), 1)
    R = R + jnp.diag(jnp.where(known, 0, 1).astype(R.dtype))

    a = solve_triangular(R, jnp.where(known, _along(S, gradient)[order], 0))
    back = jnp.zeros_like(order).at[order].set(jnp.arange(n))
    q = jax.tree.map(lambda g, y: g - y, gradient, _combine(a[back], Y))
    right = jnp.where(known, diagonal * a - scaling * _along(Y, q)[order], 0)
    c = solve_triangular(R, right, trans=1)
    return jax.tree.map(lambda q, s: scaling * q + s, q, _combine(c[back], S))


@by_value
def scale_by_lbfgs(
    memory_size: int = 10, scale_init_precond: bool = True
) -> GradientTransformation:
    """`u = H g`, where `H` estimates the inverse Hessian; see `lbfgs`.

    Args:
      memory_size: number of steps remembered, at least 1.
      scale_init_precond: whether `γ` is as in `lbfgs`, else 1.

    Raises:
      ValueError: if `memory_size` is less than 1, or an update gets no params.
    """
    if memory_size < 1:
        raise ValueError(f"scale_by_lbfgs: memory_size must be >= 1, got {memory_size}")

    def init(params: Params) -> ScaleByLBFGSState:
        zeros = moments_like(params)

        def memory() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros((memory_size, *p.shape), p.dtype), zeros)

        return ScaleByLBFGSState(
            count=jnp.zeros((), jnp.int32),
            params=zeros,
            updates=moments_like(params),
            diff_params_memory=memory(),
            diff_updates_memory=memory(),
            weights_memory=jnp.zeros(memory_size, scalar_dtype(params)),
        )

    def update(
        updates: Updates, state: ScaleByLBFGSState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByLBFGSState]:
        require_params("scale_by_lbfgs", params)
        gradient = with_zeros(updates, params)
        started, dtype = state.count > 0, state.weights_memory.dtype

        def change(now: PyTree, before: PyTree) -> PyTree:
            # before the first step there is no difference
            return jax.tree.map(lambda d: jnp.where(started, -d, 0), moved_from(before, now))

        s, y = change(params, state.params), change(gradient, state.updates)
        curvature = dot(y, s)
        weight = jnp.where(curvature == 0, 0, 1 / jnp.where(curvature == 0, 1, curvature))

        def remember(memory: PyTree, newest: PyTree) -> PyTree:
            place = (state.count - 1) % memory_size
            return jax.tree.map(
                lambda m, x: jax.lax.dynamic_update_index_in_dim(m, x.astype(m.dtype), place, 0),
                memory,
                newest,
            )

        new = ScaleByLBFGSState(
            count=increment(state.count),
            params=jax.tree.map(lambda p, old: p.astype(old.dtype), copy_of(params), state.params),
            updates=jax.tree.map(lambda g, old: g.astype(old.dtype), gradient, state.updates),
            diff_params_memory=remember(state.diff_params_memory, s),
            diff_updates_memory=remember(state.diff_updates_memory, y),
            weights_memory=remember(state.weights_memory, weight).astype(dtype),
        )
        scaling: Any = 1.0
        if scale_init_precond:
            size = dot(y, y)
            estimate = jnp.where(size > 0, curvature / jnp.where(size > 0, size, 1), 1)
            # the first step is no longer than 1: there is no curvature to go by
            norm = global_norm(gradient)
            scaling = jnp.where(started, estimate, 1 / jnp.maximum(norm, 1))

        def corrected(new: ScaleByLBFGSState) -> Updates:
            return inverse_hessian_product(
                gradient,
                new.diff_params_memory,
                new.diff_updates_memory,
                new.weights_memory,
                scaling,
                state.count % memory_size,
            )

        def plain(new: ScaleByLBFGSState) -> Updates:
            return jax.tree.map(lambda g: scaling * g, gradient)

        # a border that XLA's fusions do not cross: without it, the memories are copied for each
        # product instead of written in place
        direction = jax.lax.cond(started, corrected, plain, new)
        return map_with_params(lambda g, p, u: u, updates, params, direction), new

    return GradientTransformation(init, update)


_ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


@checked(learning_rate=NON_NEGATIVE)
def lbfgs(
    learning_rate: ScalarOrSchedule | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = _ZOOM,
) -> GradientTransformation:
    """L-BFGS: steps `-η H g`, with `H` an estimate of the inverse Hessian from the last `m` steps.

        s = θₖ - θₖ₋₁,   y = gₖ - gₖ₋₁,   ρ = 1 / s·y
        H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ      over the last m, from H = γ I
        γ = s·y / y·y                                  of the last; 1 / max(‖g‖, 1) at first

    and `η` found by a line search, so that the loss itself is an argument of `update`. For losses
    without noise. The memory is `2 m` times the parameters. Optax's two loops over it are two
    triangular systems here, so that results agree up to rounding only.

    Args:
      learning_rate: `η ≥ 0`, beside that of the line search; by default 1.
      memory_size: `m ≥ 1`.
      scale_init_precond: whether `γ` is as above, else 1.
      linesearch: the transformation that scales the step, by default a zoom line search of 20
        points at most; None for none.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = lbfgs()
      >>> state = optimizer.init(params)
      >>> value_and_grad = value_and_grad_from_state(loss)  # spares one evaluation a step
      >>> for _ in range(30):
      ...     value, grad = value_and_grad(params, state=state)
      ...     updates, state = optimizer.update(
      ...         grad, state, params, value=value, grad=grad, value_fn=loss
      ...     )
      ...     params = apply_updates(params, updates)

    References:
      Liu and Nocedal, [On the limited memory BFGS method for large scale
      optimization](https://doi.org/10.1007/BF01589116), 1989; Byrd, Nocedal and Schnabel,
      [Representations of quasi-Newton matrices and their use in limited memory
      methods](https://doi.org/10.1007/BF01582063), 1994 (triangular systems).
    """
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond),
        scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate),
        identity() if linesearch is None else linesearch,
    )
