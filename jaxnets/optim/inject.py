"""Hyper-parameters kept in the state, where they can be read and set."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.optim.calls import by_value
from jaxnets.optim.conditional import cast_like
from jaxnets.optim.hyper import increment
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, ArrayLike, DTypeLike, Params, PyTree, Schedule


@runtime_checkable
class StatefulSchedule(Protocol):
    """A schedule with a state of its own, which may depend on the extra arguments of `update`."""

    def init(self) -> PyTree:
        """The state before the first step."""

    def update(self, state: PyTree, **extra: Any) -> PyTree:
        """The state after a step."""

    def __call__(self, state: PyTree, **extra: Any) -> ArrayLike:
        """The value at this step."""


class WrappedScheduleState(NamedTuple):
    """The number of steps made."""

    count: Array  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class WrappedSchedule:
    """A plain schedule as a stateful one."""

    schedule_fn: Schedule

    def init(self) -> WrappedScheduleState:
        """At step 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra: Any) -> WrappedScheduleState:
        """One step on."""
        return WrappedScheduleState(increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra: Any) -> ArrayLike:
        """The schedule's value."""
        return self.schedule_fn(state.count)


class InjectStatefulHyperparamsState(NamedTuple):
    """The number of steps made, the hyper-parameters by name, and the states of what uses them."""

    count: Array  # type: ignore[assignment]
    hyperparams: dict[str, Array]
    hyperparams_states: dict[str, PyTree]
    inner_state: State


class InjectHyperparamsState(NamedTuple):
    """Optax's former state, for reading old ones."""

    count: Array  # type: ignore[assignment]
    hyperparams: dict[str, Array]
    inner_state: State


def _array(x: Any, dtype: Any) -> Array:
    """`x` as an array; Python's floats in `dtype`, arrays in their own."""
    if isinstance(x, jax.Array) and not getattr(x, "weak_type", False):
        return x
    return jnp.asarray(x, dtype if jnp.issubdtype(jnp.result_type(x), jnp.floating) else None)


@by_value
def _injected(
    factory: Callable[..., GradientTransformation],
    arguments: Mapping[str, Any],
    static: tuple[str, ...],
    dtype: DTypeLike | None,
) -> GradientTransformation:
    schedules: dict[str, StatefulSchedule] = {}
    numbers, fixed = {}, {}
    for name, value in arguments.items():
        if name in static or isinstance(value, bool):
            fixed[name] = value
        elif isinstance(value, StatefulSchedule):
            schedules[name] = value
        elif callable(value):
            schedules[name] = WrappedSchedule(value)
        elif isinstance(value, int | float | jax.Array | np.ndarray | np.number):
            numbers[name] = value
        else:
            fixed[name] = value

    def dtype_for(tree: PyTree) -> Any:
        # `b2` is 1 in bfloat16
        leaves = (jnp.real(leaf) for leaf in jax.tree.leaves(tree))
        return dtype or jnp.result_type(jnp.float32, *leaves)

    def init(params: Params) -> InjectStatefulHyperparamsState:
        states = {name: schedule.init() for name, schedule in schedules.items()}
        values = numbers | {name: schedules[name](states[name]) for name in schedules}
        known = {name: _array(value, dtype_for(params)) for name, value in values.items()}
        return InjectStatefulHyperparamsState(
            jnp.zeros((), jnp.int32), known, states, factory(**fixed, **known).init(params)
        )

    def update(
        updates: Updates,
        state: InjectStatefulHyperparamsState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, InjectStatefulHyperparamsState]:
        states = state.hyperparams_states
        scheduled = {name: schedules[name](states[name], **extra) for name in schedules}
        wide = dtype_for(updates if params is None else params)
        known = {
            name: _array(value, wide) for name, value in (state.hyperparams | scheduled).items()
        }
        inner = with_extra_args_support(factory(**fixed, **known))
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        # other libraries' moments become float32 where the hyper-parameters are
        inner_state = cast_like(inner_state, state.inner_state)
        after = {name: schedules[name].update(states[name], **extra) for name in schedules}
        return updates, InjectStatefulHyperparamsState(
            increment(state.count), known, after, inner_state
        )

    return GradientTransformation(init, update)


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DTypeLike | None = None,
) -> Callable[..., GradientTransformation]:
    """`inner_factory`, whose numbers and schedules are kept in the state, to be read and set.

    It is not needed for schedules, which any of our hyper-parameters may be, nor for reading (see
    `hyperparams`), but for setting a hyper-parameter between two steps of a compiled program.

    Args:
      inner_factory: makes a transformation; ours, Optax's or any other.
      static_args: which arguments are left alone: functions that are no schedules, integers that
        must be known when the step is compiled.
      hyperparam_dtype: of Python's floats; by default the parameters' widest, at least float32.
        (Optax's default is that of the parameters; but in bfloat16, `b2=0.999` is 1.)

    Returns:
      A function of the same arguments. Each number, array and schedule is one of
      `state.hyperparams`; of those, the ones that are no schedules may be set.

    Raises:
      ValueError: for a static argument that `inner_factory` does not have.

    Example:
      >>> optimizer = inject_hyperparams(adam)(1e-3)
      >>> state = optimizer.init(params)
      >>> state.hyperparams["learning_rate"] = 1e-4
    """
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    signature = inspect.signature(inner_factory)
    if not set(static) <= set(signature.parameters):
        raise ValueError(
            f"inject_hyperparams: static_args {list(static)} must be arguments of "
            f"{getattr(inner_factory, '__name__', inner_factory)}, which are "
            f"{list(signature.parameters)}"
        )
    rest = [n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(inner_factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name in rest:
            arguments |= arguments.pop(name)
        return _injected(inner_factory, arguments, static, hyperparam_dtype)

    return make


inject_stateful_hyperparams = inject_hyperparams
"""Optax's former name."""
