"""Gradients of several small batches for one step, as if of one large batch."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.conditional import update_if
from jaxnets.optim.hyper import COUNTING, checked, increment
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like, widened
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, ArrayLike, DTypeLike, Params, PyTree

Every: TypeAlias = ArrayLike | Callable[[Array], ArrayLike]
"""A number of gradients, or a function of the number of steps made with them."""


class ShouldSkip(Protocol):
    """`should_skip(updates, gradient_step, params) -> (bool, anything to keep in the state)`."""

    def __call__(
        self, updates: Updates, gradient_step: Array, params: Params | None
    ) -> tuple[Array, PyTree]:
        """Whether these gradients count for nothing."""


def skip_not_finite(
    updates: Updates, gradient_step: ArrayLike, params: Params | None
) -> tuple[Array, PyTree]:
    """Skip gradients that have a NaN or an infinity; keeps how many."""
    counts = [jnp.sum(~jnp.isfinite(g)) for g in jax.tree.leaves(updates)]
    total = sum(counts, start=jnp.zeros((), int))
    return total > 0, {"should_skip": total > 0, "num_not_finite": total}


def skip_large_updates(
    updates: Updates, gradient_step: ArrayLike, params: Params | None, max_squared_norm: ArrayLike
) -> tuple[Array, PyTree]:
    """Skip gradients unless `‖g‖² < c`, which is false of a NaN; keeps `‖g‖²`.

    Args:
      updates: the gradients `g`.
      gradient_step: unused.
      params: unused.
      max_squared_norm: `c`.

    Example:
      >>> small = functools.partial(skip_large_updates, max_squared_norm=9.0)
      >>> optimizer = accumulate(adam(1e-3), 4, should_skip=small)
    """
    total = jnp.zeros((), jnp.float32)
    for g in jax.tree.leaves(updates):
        total += jnp.sum(abs_sq(widened(g)))
    skip = ~(total < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": total}


class MultiStepsState(NamedTuple):
    """The gradients accumulated so far, and the inner transformation's state."""

    mini_step: Array
    """How many gradients there are of this cycle."""
    gradient_step: Array
    """How many steps have been made."""
    inner_opt_state: State
    acc_grads: Updates
    skip_state: PyTree = ()
    """What `should_skip` last said."""


@checked(every_k=COUNTING)
@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_opt_state)})
def accumulate(
    inner: GradientTransformation,
    every_k: Every,
    *,
    use_grad_mean: bool = True,
    should_skip: ShouldSkip | None = None,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Make one step of `inner` with the mean of `k` gradients; the updates in between are 0.

        a ← a + (g - a) / (i + 1)      i = 0, …, k - 1

    The inner transformation runs once in a cycle, under `lax.cond`.

    Args:
      inner: gets the mean.
      every_k: `k ≥ 1`, or a function of the number of steps made that gives the `k` of the next.
      use_grad_mean: whether to take the mean, or else the sum.
      should_skip: `(gradients, steps made, params) -> (bool, anything)`: where true, it is as if
        `update` had not been called. See `skip_not_finite`, `skip_large_updates`.
      accumulator_dtype: dtype of `a`; by default the parameters', at least float32. (Optax's is
        float32 also for float64 and complex parameters.)

    Raises:
      ValueError: if `k` is no integer >= 1.

    Example:
      >>> optimizer = accumulate(adamw(1e-3), 4)
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> MultiStepsState:
        mini_step, gradient_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        skip_state: PyTree = ()
        if should_skip is not None:
            _, skip_state = should_skip(jax.tree.map(jnp.zeros_like, params), gradient_step, params)
        accumulators = moments_like(params, dtype=accumulator_dtype)
        inner_state = inner.init(params)
        return MultiStepsState(mini_step, gradient_step, inner_state, accumulators, skip_state)

    def update(
        updates: Updates, state: MultiStepsState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MultiStepsState]:
        k = every_k(state.gradient_step) if callable(every_k) else every_k
        skip, skip_state = jnp.array(False), state.skip_state
        if should_skip is not None:
            skip, skip_state = should_skip(updates, state.gradient_step, params)
            if skip.dtype != jnp.bool_ or skip.shape != ():
                raise ValueError(
                    "accumulate: should_skip must return a scalar of dtype bool first, "
                    f"got {skip.dtype}{list(skip.shape)}"
                )
        finish = ~skip & (state.mini_step == k - 1)

        def add(g: Array, a: Array) -> tuple[Array, Array]:
            new = a + (g - a) / (state.mini_step + 1) if use_grad_mean else g + a
            return (new, new) if should_skip is None else (new, jnp.where(skip, a, new))

        # of the accumulators' dtypes: a mean of half-precision gradients is not rounded to theirs
        means, sums = map_moments(add, updates, state.acc_grads, params=state.acc_grads)

        def step(means: Updates, kept: Any) -> tuple[Updates, Any]:
            updates, inner_state = inner.update(means, kept[0], params, **extra)
            cleared = jax.tree.map(jnp.zeros_like, kept[1])
            return updates, (inner_state, cleared)

        new_updates, (inner_state, sums) = update_if(
            finish, step, means, (state.inner_opt_state, sums), like=updates
        )
        return new_updates, MultiStepsState(
            jnp.where(skip, state.mini_step, (state.mini_step + 1) % k).astype(jnp.int32),
            jnp.where(finish, increment(state.gradient_step), state.gradient_step),
            inner_state,
            sums,
            skip_state,
        )

    return GradientTransformation(init, update)


class MultiSteps(GradientTransformation):
    """`accumulate` under Optax's name and with Optax's methods; itself a transformation.

    Args:
      opt, every_k_schedule, use_grad_mean: as `inner`, `every_k`, `use_grad_mean` of `accumulate`.
      should_skip_update_fn: its `should_skip`.
      accumulator_dtype: as of `accumulate`.

    Example:
      >>> optimizer = MultiSteps(adamw(1e-3), every_k_schedule=4)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(gradients, state, params)
      >>> optimizer.has_updated(state)
    """

    inner_opt: GradientTransformation

    def __new__(
        cls,
        opt: GradientTransformation,
        every_k_schedule: Every,
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkip | None = None,
        accumulator_dtype: DTypeLike | None = None,
    ) -> "MultiSteps":
        """See the class."""
        self = super().__new__(
            cls,
            *accumulate(
                opt,
                every_k_schedule,
                use_grad_mean=use_grad_mean,
                should_skip=should_skip_update_fn,
                accumulator_dtype=accumulator_dtype,
            ),
        )
        self.inner_opt = with_extra_args_support(opt)
        return self

    def has_updated(self, state: MultiStepsState) -> Array:
        """Whether the last gradients ended a cycle."""
        return (state.mini_step == 0) & (state.gradient_step > 0)

    def gradient_transformation(self) -> GradientTransformation:
        """The plain pair of functions."""
        return GradientTransformation(*self)
