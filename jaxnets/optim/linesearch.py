"""Line searches: the backtracking one, and what all of them need of the loss.

`update` gets the loss's `value` and `grad` at the parameters, and the loss itself as `value_fn`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import FRACTION, NON_NEGATIVE, POSITIVE, Hyper, transformation
from jaxnets.optim.leaves import dot, map_updates, moments_like, scalar_dtype, with_zeros
from jaxnets.optim.transform import GradientTransformation, State, Updates
from jaxnets.types import Array, ArrayLike, Params


def objective(
    function: str,
    params: Params | None,
    value: Any,
    grad: Any,
    value_fn: Callable[..., Any] | None,
    extra: dict[str, Any],
) -> Callable[[Params], Array]:
    """The loss as a function of the parameters alone.

    Raises:
      ValueError: if one of the arguments that a line search needs is missing.
      TypeError: for an argument that `value_fn` does not take.
    """
    if params is None or value is None or grad is None or value_fn is None:
        raise ValueError(
            f"{function}: needs the loss; "
            "call update(gradients, state, params, value=value, grad=grad, value_fn=value_fn)"
        )
    parameters = inspect.signature(value_fn).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(extra.keys() - parameters.keys())
        if unknown:
            raise TypeError(
                f"{function}: value_fn takes no argument {', '.join(unknown)} "
                f"(Unexpected keyword arguments passed to update)"
            )
    return partial(value_fn, **extra)


def moved_along(params: Params, direction: Updates, rate: Array) -> Params:
    """`θ + η u`, in the dtypes of the parameters."""

    def move(p: Any, u: Array) -> Any:
        return (p + rate.astype(jnp.real(u).dtype) * u).astype(jnp.result_type(p))

    moved: Params = jax.tree.map(move, params, direction)
    return moved


def value_and_grad_from_state(
    value_fn: Callable[..., ArrayLike],
) -> Callable[..., tuple[Array, Updates]]:
    """`jax.value_and_grad`, except that what the last line search has computed is not again.

    Args:
      value_fn: the loss, `value_fn(params, ...) -> scalar`.

    Returns:
      A function of the same arguments and of `state=`, the optimizer's state.

    Raises:
      ValueError: if the state does not hold a pair of value and gradient. (A backtracking line
        search keeps the gradient only with `store_grad=True`.)
      KeyError: if it holds more than one.

    Example:
      See `lbfgs`. Not for losses on batches: the state's values are those of the last batch.
    """

    def is_pair(node: Any) -> bool:
        return hasattr(node, "value") and hasattr(node, "grad")

    def value_and_grad(
        params: Params, *args: Any, state: State, **extra: Any
    ) -> tuple[Array, Updates]:
        pairs = [x for x in jax.tree.leaves(state, is_leaf=is_pair) if is_pair(x)]
        searches = len(pairs)
        pairs = [x for x in pairs if x.value is not None and x.grad is not None]
        if len(pairs) != 1:
            # as in Optax, too many are another error than none
            raise (KeyError if searches > 1 else ValueError)(
                "value_and_grad_from_state: the state must hold one value and gradient of a line "
                f"search, got {len(pairs)}"
            )
        kept_value, kept_grad = pairs[0].value, pairs[0].grad

        def kept() -> tuple[Array, Updates]:
            return kept_value, jax.tree.map(
                lambda g, p: g.astype(jnp.result_type(p)), kept_grad, params
            )

        def fresh() -> tuple[Array, Updates]:
            value, grad = jax.value_and_grad(value_fn)(params, *args, **extra)
            return jnp.asarray(value, kept_value.dtype), grad

        found: tuple[Array, Updates] = jax.lax.cond(jnp.isfinite(kept_value), kept, fresh)
        return found

    return value_and_grad


class BacktrackingLinesearchInfo(NamedTuple):
    """How many points were tried, and by how much the last one missed the condition."""

    num_linesearch_steps: Array
    decrease_error: Array


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """The last rate, and the value and the gradient that it led to."""

    learning_rate: Array
    value: Array
    grad: Updates | None
    info: BacktrackingLinesearchInfo


class _Backtracking(NamedTuple):
    rate: Array
    value: Array
    grad: Updates | None
    error: Array
    tried: Array


@transformation(
    slope_rtol=NON_NEGATIVE,
    decrease_factor=FRACTION,
    increase_factor=POSITIVE,
    max_learning_rate=POSITIVE,
    atol=NON_NEGATIVE,
    rtol=NON_NEGATIVE,
)
def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: Hyper = 1e-4,
    decrease_factor: Hyper = 0.8,
    increase_factor: Hyper = 1.5,
    max_learning_rate: Hyper = 1.0,
    atol: Hyper = 0.0,
    rtol: Hyper = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> GradientTransformation:
    """`η u`, with `η` shrunk until the loss falls in proportion to its slope along `u` (Armijo).

        L(θ + η u) ≤ (1 + δ) L(θ) + c η ⟨u, ∇L(θ)⟩ + ε

    `u` must point downhill. If no loss along it is finite, the step is 0, and the next search
    begins at the largest rate (Optax's rate stays 0 forever).

    Args:
      max_backtracking_steps: how often `η` may shrink.
      slope_rtol: `c ≥ 0`.
      decrease_factor: what `η` is multiplied by, in [0, 1].
      increase_factor: the search begins at so many times the last `η`; > 0, `inf` for
        `max_learning_rate`.
      max_learning_rate: the largest `η`.
      atol: `ε ≥ 0`.
      rtol: `δ ≥ 0`.
      store_grad: whether to compute the gradient at the new point, for
        `value_and_grad_from_state`.
      verbose: whether to print when the condition is not met.

    Raises:
      ValueError: for a number outside its range, or an update without params, value, grad or
        value_fn.

    Example:
      >>> optimizer = chain(sgd(1.0), scale_by_backtracking_linesearch(15))
      >>> value, grad = jax.value_and_grad(loss)(params, batch)
      >>> updates, state = optimizer.update(
      ...     grad, state, params, value=value, grad=grad, value_fn=loss, batch=batch
      ... )

    References:
      Vaswani et al., [Painless stochastic gradient](https://arxiv.org/abs/1905.09997), 2019.
    """
    if max_backtracking_steps < 0:
        raise ValueError(
            "scale_by_backtracking_linesearch: max_backtracking_steps must be >= 0, "
            f"got {max_backtracking_steps}"
        )

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        dtype = scalar_dtype(params)
        return ScaleByBacktrackingLinesearchState(
            learning_rate=jnp.ones((), dtype),
            value=jnp.full((), jnp.inf, dtype),
            grad=moments_like(params) if store_grad else None,
            info=BacktrackingLinesearchInfo(jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, dtype)),
        )

    def update(
        updates: Updates,
        state: ScaleByBacktrackingLinesearchState,
        params: Params | None = None,
        *,
        value: ArrayLike | None = None,
        grad: Updates | None = None,
        value_fn: Callable[..., ArrayLike] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByBacktrackingLinesearchState]:
        loss = objective("scale_by_backtracking_linesearch", params, value, grad, value_fn, extra)
        dtype = state.learning_rate.dtype
        start = jnp.asarray(value, dtype)
        direction = with_zeros(updates, params)
        slope = dot(jax.tree.map(jnp.conj, direction), with_zeros(grad, params)).astype(dtype)

        def error_at(rate: Array, value: Array) -> Array:
            error = value - (1 + rtol) * start - rate * slope_rtol * slope
            error = jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))
            return jnp.asarray(error, dtype)

        def goes_on(search: _Backtracking) -> Array:
            more: Array = (search.error > atol) & (search.tried <= max_backtracking_steps)
            return more

        def try_next(search: _Backtracking) -> _Backtracking:
            rate = jnp.where(search.tried > 0, decrease_factor * search.rate, search.rate)
            rate = rate.astype(dtype)
            point = moved_along(params, direction, rate)
            if search.grad is None:
                value, new_grad = jnp.asarray(loss(point), dtype), None
                return _Backtracking(rate, value, new_grad, error_at(rate, value), search.tried + 1)
            raw, pullback = jax.vjp(loss, point)
            value = raw.astype(dtype)
            error = error_at(rate, value)
            last = (error <= atol) | (search.tried == max_backtracking_steps)

            def backward() -> Updates:
                (found,) = pullback(jnp.ones_like(raw))
                return jax.tree.map(lambda g, old: g.astype(old.dtype), found, search.grad)

            # only the point that is kept needs a backward pass
            new_grad = jax.lax.cond(last, backward, lambda: search.grad)
            return _Backtracking(rate, value, new_grad, error, search.tried + 1)

        guess = jnp.minimum(increase_factor * state.learning_rate, max_learning_rate)
        guess = jnp.where(state.learning_rate > 0, guess, max_learning_rate).astype(dtype)
        search = jax.lax.while_loop(
            goes_on,
            try_next,
            _Backtracking(
                rate=guess,
                value=start,
                grad=state.grad,
                error=jnp.full((), jnp.inf, dtype),
                tried=jnp.zeros((), jnp.int32),
            ),
        )
        if verbose:
            jax.lax.cond(
                search.error <= atol,
                lambda: None,
                lambda: jax.debug.print(
                    "scale_by_backtracking_linesearch: no sufficient decrease: value {value}, "
                    "slope {slope}, last rate {rate}, error {error}",
                    value=start,
                    slope=slope,
                    rate=search.rate,
                    error=search.error,
                ),
            )
        rate = jnp.where(jnp.isinf(search.error), 0, search.rate)
        info = BacktrackingLinesearchInfo(search.tried, search.error)
        new = ScaleByBacktrackingLinesearchState(rate, search.value, search.grad, info)
        return map_updates(lambda u: rate * u, updates), new

    return GradientTransformation(init, update)
