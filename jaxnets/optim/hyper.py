"""Hyper-parameters: numbers, traced arrays or schedules, treated alike by every transformation.

- A number is checked when the transformation is made, and nothing is compiled for it twice.
- An array may be traced: a sweep is a `vmap` over a function that makes the optimizer inside.
- A schedule `step -> value` is evaluated at each step, and the transformation made anew with that
  value. Only this file knows about schedules; a transformation sees numbers and arrays.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.checks import concrete
from jaxnets.optim.calls import by_value
from jaxnets.optim.transform import GradientTransformation, State, Updates
from jaxnets.types import Array, Params

P = ParamSpec("P")
T = TypeVar("T")

Hyper: TypeAlias = Any
"""A hyper-parameter of a transformation: for its callers a `ScalarOrSchedule`, in its body a number
or a scalar array."""


class Range(NamedTuple):
    """Which numbers a hyper-parameter may be."""

    text: str
    holds: Callable[[Any], bool]
    optional: bool = False
    """Whether None passes too, where it is not the default."""


NUMBER = Range("a number", lambda x: not math.isnan(x))
POSITIVE = Range("> 0", lambda x: x > 0)
NON_NEGATIVE = Range("finite and >= 0", lambda x: 0 <= x < math.inf)
FRACTION = Range("in [0, 1]", lambda x: 0 <= x <= 1)
DECAY_RATE = Range("in [0, 1)", lambda x: 0 <= x < 1)
WHOLE = Range("an integer >= 0", lambda x: x >= 0 and x % 1 == 0)
COUNTING = Range("an integer >= 1", lambda x: x >= 1 and x % 1 == 0)


def in_range(function: str, name: str, value: Any, wanted: Range) -> Any:
    """`value` as a Python number, a scalar array or a schedule; see `checked`."""
    if callable(value):
        return value
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        raise ValueError(
            f"{function}: {name} must be a scalar, got shape {value.shape}; "
            "to sweep it, jax.vmap a function that makes the optimizer from one value"
        )
    if isinstance(value, jax.Array):
        known = concrete(value)
        if known is not None and not wanted.holds(known.item()):
            raise ValueError(f"{function}: {name} must be {wanted.text}, got {known}")
        return value
    # NumPy's scalars would make float32 leaves float64 where float64 is enabled; Python's do not
    number = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if not isinstance(number, Real):
        raise ValueError(
            f"{function}: {name} must be a number, an array or a schedule, got {value!r}"
        )
    if not wanted.holds(number):
        raise ValueError(f"{function}: {name} must be {wanted.text}, got {value!r}")
    return number


def checked(**ranges: Range) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Check the named hyper-parameters of the decorated function before it is called.

    Numbers outside their range, vectors and what is no number raise `ValueError`. Arrays (traced
    ones have no value yet) and schedules pass; so does None where it is the default.
    """

    def decorate(factory: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def make(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, wanted in ranges.items():
                value = bound.arguments[name]
                optional = wanted.optional or signature.parameters[name].default is None
                if value is not None or not optional:
                    bound.arguments[name] = in_range(factory.__name__, name, value, wanted)
            return factory(*bound.args, **bound.kwargs)

        return make

    return decorate


class ScheduledState(NamedTuple):
    """The number of steps made, for the schedules, beside the transformation's own state."""

    count: Array  # type: ignore[assignment]
    inner_state: State


def at(value: Hyper, count: Array) -> Hyper:
    """`value`, of a schedule that at `count`."""
    return value(count) if callable(value) else value


def increment(count: Array) -> Array:
    """`count + 1`, staying at the largest integer instead of wrapping around."""
    # as a Python number, that of unsigned ones is too large for JAX's default integer
    largest = np.asarray(np.iinfo(count.dtype).max, count.dtype)
    return jnp.where(count < largest, count + 1, largest)


def _scheduled(
    factory: Callable[..., GradientTransformation],
    arguments: Mapping[str, Any],
    schedules: Mapping[str, Callable[[Array], Any]],
) -> GradientTransformation:
    def at(count: Array) -> GradientTransformation:
        values = {name: schedule(count) for name, schedule in schedules.items()}
        return factory(**{**arguments, **values})

    def init(params: Params) -> ScheduledState:
        count = jnp.zeros((), jnp.int32)
        return ScheduledState(count, at(count).init(params))

    def update(
        updates: Updates, state: ScheduledState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScheduledState]:
        updates, inner_state = at(state.count).update(updates, state.inner_state, params, **extra)
        return updates, ScheduledState(increment(state.count), inner_state)

    return GradientTransformation(init, update)


def transformation(
    **ranges: Range,
) -> Callable[[Callable[P, GradientTransformation]], Callable[P, GradientTransformation]]:
    """The decorator of a function that makes a transformation, naming its hyper-parameters.

    They are checked (see `checked`), may be schedules (the state is then a `ScheduledState`, and
    the first step sees 0), and equal ones make equal transformations (see `by_value`).
    """

    def decorate(
        factory: Callable[P, GradientTransformation],
    ) -> Callable[P, GradientTransformation]:
        signature = inspect.signature(factory)
        make_at = checked(**ranges)(factory)

        @functools.wraps(factory)
        def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
            arguments = signature.bind(*args, **kwargs).arguments
            schedules = {
                name: value
                for name, value in arguments.items()
                if name in ranges and callable(value)
            }
            if schedules:
                return _scheduled(make_at, arguments, schedules)
            return make_at(*args, **kwargs)

        return checked(**ranges)(by_value(make, hyper=tuple(ranges)))

    return decorate
