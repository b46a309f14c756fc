"""The zoom line search: a rate that meets Wolfe's two conditions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import NON_NEGATIVE, POSITIVE, Hyper, Range, increment, transformation
from jaxnets.optim.leaves import dot, map_updates, moments_like, scalar_dtype, with_zeros
from jaxnets.optim.linesearch import moved_along, objective
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, ArrayLike, Params, PyTree

NOT_NEGATIVE = Range(">= 0", lambda x: x >= 0)


class ZoomLinesearchInfo(NamedTuple):
    """How many points were tried, and by how much the last one missed each condition."""

    num_linesearch_steps: Array
    decrease_error: Array
    curvature_error: Array


class ScaleByZoomLinesearchState(NamedTuple):
    """The last rate, and the value and the gradient that it led to."""

    learning_rate: Array
    value: Array
    grad: Updates
    info: ZoomLinesearchInfo


class _Point(NamedTuple):
    """A rate, and the loss and its slope there."""

    rate: Array
    value: Array
    slope: Array


class _Search(NamedTuple):
    count: Array  # type: ignore[assignment]
    last: _Point
    grad: Updates
    decrease_error: Array
    curvature_error: Array
    bracketed: Array
    """Whether an interval that holds a good rate is known: from `low` to `high`, in any order."""
    done: Array
    failed: Array
    low: _Point
    high: _Point
    before: _Point
    """A third point, for the cubic."""
    safe: _Point
    """The best point that meets the first condition."""
    safe_grad: Updates


def _where(condition: Array, yes: PyTree, no: PyTree) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _cubic_minimum(a: _Point, b: _Point, c: _Point) -> Array:
    """Of the cubic through three points with the slope of the first; NaN where it has none."""
    db, dc = b.rate - a.rate, c.rate - a.rate
    rb = b.value - a.value - a.slope * db
    rc = c.value - a.value - a.slope * dc
    scale = (db * dc) ** 2 * (db - dc)
    cubic = (dc**2 * rb - db**2 * rc) / scale
    square = (db**3 * rc - dc**3 * rb) / scale
    return a.rate + (jnp.sqrt(square**2 - 3 * cubic * a.slope) - square) / (3 * cubic)


def _quadratic_minimum(a: _Point, b: _Point) -> Array:
    """Of the parabola through two points with the slope of the first."""
    d = b.rate - a.rate
    return a.rate - a.slope / (2 * (b.value - a.value - a.slope * d) / d**2)


def _inside(low: _Point, high: _Point, before: _Point) -> Array:
    """A rate between `low` and `high`: the cubic's minimum, else the parabola's, else halfway."""
    left, right = jnp.minimum(low.rate, high.rate), jnp.maximum(low.rate, high.rate)
    length = right - left

    def well_inside(rate: Array, margin: float) -> Array:
        return (rate > left + margin * length) & (rate < right - margin * length)

    cubic, quadratic = _cubic_minimum(low, high, before), _quadratic_minimum(low, high)
    rate = jnp.where(well_inside(quadratic, 0.1), quadratic, (low.rate + high.rate) / 2)
    return jnp.where(well_inside(cubic, 0.2), cubic, rate)


@transformation(
    max_learning_rate=POSITIVE,
    tol=NON_NEGATIVE,
    increase_factor=POSITIVE,
    slope_rtol=NON_NEGATIVE,
    curv_rtol=NOT_NEGATIVE,
    stepsize_precision=NON_NEGATIVE,
)
def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: Hyper | None = None,
    tol: Hyper = 0.0,
    increase_factor: Hyper = 2.0,
    slope_rtol: Hyper = 1e-4,
    curv_rtol: Hyper = 0.9,
    approx_dec_rtol: Hyper | None = 1e-6,
    stepsize_precision: Hyper = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> GradientTransformation:
    """`η u`, where along `u` the loss has fallen and its slope has flattened (Wolfe).

        L(θ + η u) ≤ L(θ) + c₁ η s + ε,   s = ⟨u, ∇L(θ)⟩
        |⟨u, ∇L(θ + η u)⟩| ≤ c₂ |s| + ε

    First `η` grows until an interval must hold such a rate; then the interval shrinks, by the
    minimum of a cubic or a parabola. Near a minimum, where differences of values are rounding
    errors, `slope ≤ (2 c₁ - 1) s` may replace the first condition, if `L` rises by no more than
    `c₃ |L|`. If the search fails, the best point that meets the first condition is taken.

    Each point tried costs one value and gradient, and the last ones are kept: with
    `value_and_grad_from_state` a step whose first guess is good costs one evaluation in all.

    Args:
      max_linesearch_steps: how many points may be tried, at least 1.
      max_learning_rate: the largest `η`; by default none.
      tol: `ε ≥ 0`.
      increase_factor: by how much `η` grows, > 0; to find an interval it has to be more than 1.
      slope_rtol: `c₁ ≥ 0`.
      curv_rtol: `c₂ ≥ 0`; `inf` for the first condition only.
      approx_dec_rtol: `c₃`; None for the first condition as it is.
      stepsize_precision: the interval does not shrink further than this.
      initial_guess_strategy: "keep" begins at the last rate, "one" at 1 (for `lbfgs`). (After a
        search that found no finite loss, and so a rate of 0, Optax's "keep" stays at 0.)
      verbose: whether to print when the search fails.

    Raises:
      ValueError: for a number outside its range, or an update without params, value, grad or
        value_fn.

    Example:
      >>> optimizer = chain(sgd(1.0), scale_by_zoom_linesearch(15))

    References:
      Nocedal and Wright, [Numerical optimization](https://doi.org/10.1007/978-0-387-40065-5),
      algorithms 3.5 and 3.6; Hager and Zhang, [Algorithm
      851](https://doi.org/10.1145/1132973.1132979), 2006 (near a minimum).
    """
    name = "scale_by_zoom_linesearch"
    if max_linesearch_steps < 1:
        raise ValueError(f"{name}: max_linesearch_steps must be >= 1, got {max_linesearch_steps}")
    if initial_guess_strategy not in ("one", "keep"):
        raise ValueError(
            f"{name}: initial_guess_strategy must be 'one' or 'keep', "
            f"got {initial_guess_strategy!r}"
        )
    largest: Hyper = math.inf if max_learning_rate is None else max_learning_rate

    def init(params: Params) -> ScaleByZoomLinesearchState:
        dtype = scalar_dtype(params)

        def infinite() -> Array:
            # made anew each time: a buffer that is donated must be in a state but once
            return jnp.full((), jnp.inf, dtype)

        return ScaleByZoomLinesearchState(
            learning_rate=jnp.ones((), dtype),
            value=infinite(),
            grad=moments_like(params),
            info=ZoomLinesearchInfo(jnp.zeros((), jnp.int32), infinite(), infinite()),
        )

    def decrease_error(point: _Point, start: _Point) -> Array:
        rise = point.value - start.value
        error = rise - slope_rtol * point.rate * start.slope
        if approx_dec_rtol is not None:
            flat = point.slope - (2 * slope_rtol - 1) * start.slope
            near = rise - approx_dec_rtol * jnp.abs(start.value)
            error = jnp.minimum(jnp.maximum(flat, near), error)
        return jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))

    def curvature_error(point: _Point, start: _Point) -> Array:
        error = jnp.abs(point.slope) - curv_rtol * jnp.abs(start.slope)
        return jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))

    def widened(search: _Search, point: _Point, decrease: Array) -> Any:
        """Is there an interval now, and which; while the rates grow."""
        too_far = (decrease > 0) | ((point.value >= search.last.value) & (search.count > 0))
        uphill = (point.slope >= 0) & ~too_far
        low = _where(uphill, point, search.last)
        high = _where(uphill, search.last, point)
        return too_far | uphill, low, high, low

    def narrowed(search: _Search, point: _Point, decrease: Array) -> Any:
        """The part of the interval that holds a good rate."""
        low, high = search.low, search.high
        too_high = (decrease > 0) | (point.value >= low.value)
        turn = (point.slope * (high.rate - low.rate) >= 0) & ~too_high
        new_high = _where(too_high, point, _where(turn, low, high))
        return (
            search.bracketed,
            _where(too_high, low, point),
            new_high,
            _where(too_high | turn, high, low),
        )

    def update(
        updates: Updates,
        state: ScaleByZoomLinesearchState,
        params: Params | None = None,
        *,
        value: ArrayLike | None = None,
        grad: Updates | None = None,
        value_fn: Callable[..., ArrayLike] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByZoomLinesearchState]:
        value_and_grad = jax.value_and_grad(objective(name, params, value, grad, value_fn, extra))
        dtype = scalar_dtype(params)
        direction, grad = with_zeros(updates, params), with_zeros(grad, params)
        zero, infinite = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
        start = _Point(zero, jnp.asarray(value, dtype), dot(direction, grad).astype(dtype))
        keeps = (initial_guess_strategy == "keep") & (state.learning_rate > 0)
        guess = jnp.where(keeps, state.learning_rate, 1).astype(dtype)

        def try_next(search: _Search) -> _Search:
            growing = jnp.where(search.count == 0, guess, increase_factor * search.last.rate)
            rate = jnp.where(
                search.bracketed,
                _inside(search.low, search.high, search.before),
                jnp.minimum(growing, largest),
            ).astype(dtype)
            found, new_grad = value_and_grad(moved_along(params, direction, rate))
            new_grad = jax.tree.map(lambda g, old: g.astype(old.dtype), new_grad, search.grad)
            slope = dot(jax.tree.map(jnp.conj, new_grad), direction)
            point = _Point(rate, found.astype(dtype), slope.astype(dtype))

            decrease = decrease_error(point, start).astype(dtype)
            curvature = curvature_error(point, start).astype(dtype)
            good = jnp.maximum(decrease, curvature) <= tol
            better = (decrease <= tol) & (~search.bracketed | (point.value < search.safe.value))
            safe, safe_grad = _where(better, (point, new_grad), (search.safe, search.safe_grad))
            bracketed, low, high, before = _where(
                search.bracketed,
                narrowed(search, point, decrease),
                widened(search, point, decrease),
            )
            # no rate beyond the largest: what it gives is taken
            at_end = ~search.bracketed & (growing >= largest) & ~bracketed
            too_short = jnp.abs(search.high.rate - search.low.rate) <= stepsize_precision
            stuck = search.bracketed & too_short & (safe.rate > 0)
            done = good | at_end
            return _Search(
                count=increment(search.count),
                last=point,
                grad=new_grad,
                decrease_error=decrease,
                curvature_error=curvature,
                bracketed=bracketed,
                done=done,
                failed=((search.count + 1 >= max_linesearch_steps) | stuck) & ~done,
                low=low,
                high=high,
                before=before,
                safe=safe,
                safe_grad=safe_grad,
            )

        no = jnp.zeros((), bool)
        search = jax.lax.while_loop(
            lambda search: ~(search.done | search.failed),
            try_next,
            _Search(
                count=jnp.zeros((), jnp.int32),
                last=start,
                grad=grad,
                decrease_error=infinite,
                curvature_error=infinite,
                bracketed=no,
                done=no,
                failed=no,
                low=start,
                high=start,
                before=start,
                safe=start,
                safe_grad=grad,
            ),
        )
        if verbose:
            jax.lax.cond(
                search.failed,
                lambda: jax.debug.print(
                    "scale_by_zoom_linesearch: failed: value {value}, slope {slope} (downhill if "
                    "negative), last rate {rate}, errors {decrease} and {curvature}, best rate "
                    "that decreases {safe}",
                    value=start.value,
                    slope=start.slope,
                    rate=search.last.rate,
                    decrease=search.decrease_error,
                    curvature=search.curvature_error,
                    safe=search.safe.rate,
                ),
                lambda: None,
            )
        retreat = search.failed & ((search.safe.rate > 0) | jnp.isinf(search.decrease_error))
        point, new_grad = _where(
            retreat, (search.safe, search.safe_grad), (search.last, search.grad)
        )
        info = ZoomLinesearchInfo(search.count, search.decrease_error, search.curvature_error)
        new = ScaleByZoomLinesearchState(
            point.rate,
            point.value,
            jax.tree.map(lambda g, old: g.astype(old.dtype), new_grad, state.grad),
            info,
        )
        return map_updates(lambda u: point.rate * u, updates), new

    return GradientTransformation(init, update)
