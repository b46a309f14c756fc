"""Equations of a traced program (a jaxpr): computing one, their order, and marks found again."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.types import Array

Result = TypeVar("Result")
_MARK = "mixes_examples_"
_ENTERABLE = "enterable_"
_LEADING = "keeps_leading_axes_"


def bind(
    equation: Any, values: Sequence[Any], params: Mapping[str, Any] | None = None
) -> list[Any]:
    """The results of an equation of a jaxpr, from the values of its inputs.

    `params` in place of the equation's own, such as its types or axes.
    """
    primitive = equation.primitive
    given = equation.params if params is None else params
    results = primitive.bind(*values, **primitive.get_bind_params(given))
    return list(results) if primitive.multiple_results else [results]


def programs_inside(equation: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, such as a loop's body."""
    waiting = list(equation.params.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple | list):
            waiting.extend(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            waiting.append(value.jaxpr)


def true_of(x: Array) -> Array:
    """True, which XLA can only know once the number `x` has been computed."""
    bits = lax.bitcast_convert_type(jnp.real(x).astype(jnp.float32), jnp.uint32)
    return (bits & 1) < 2


def is_there(x: Array) -> Array:
    """True, which XLA can only know once `x` has been computed; at once on other platforms.

    For the order of computations on a CPU, where XLA drops what `optimization_barrier` says of it.
    """
    ready: Array = lax.platform_dependent(
        x.ravel()[0], cpu=true_of, default=lambda first: jnp.array(True)
    )
    return ready


def mixes_examples(name: str, function: Callable[..., Result], *values: Any) -> Result:
    """`function(*values)`, marked as something that makes of each example what others are too."""

    @functools.wraps(function)
    def marked(*values: Any) -> Result:
        return function(*values)

    marked.__name__ = _MARK + name
    result: Result = jax.jit(marked, inline=False)(*values)
    return result


def keeps_leading_axes(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function(x, …)`, marked: it does the same along all axes of x but the last."""

    @functools.wraps(function)
    def marked(*values: Any) -> Result:
        return function(*values)

    marked.__name__ = _LEADING + function.__name__
    jitted: Callable[..., Result] = jax.jit(marked, inline=False)
    return jitted


def leading_axes_are_kept(equation: Any) -> bool:
    """Whether an equation is a call of what is so marked."""
    return str(equation.params.get("name", "")).startswith(_LEADING)


def enterable(
    function: Callable[..., Result], static_argnums: Sequence[int] = ()
) -> Callable[..., Result]:
    """`function`, marked: as the body of a rule for derivatives it has the derivative of that rule.

    So that whoever follows parameters through a program may follow them into it.
    """

    @functools.wraps(function)
    def marked(*values: Any) -> Result:
        return function(*values)

    marked.__name__ = _ENTERABLE + function.__name__
    jitted: Callable[..., Result] = jax.jit(marked, static_argnums=static_argnums, inline=False)
    return jitted


def is_enterable(jaxpr: Any) -> bool:
    """Whether a program is nothing but what is so marked."""
    names = [str(equation.params.get("name", "")) for equation in jaxpr.eqns]
    return len(names) == 1 and names[0].startswith(_ENTERABLE)


def what_mixes_examples(jaxpr: Any) -> str | None:
    """The name of the first thing in a program that is so marked."""
    for equation in jaxpr.eqns:
        name = str(equation.params.get("name", ""))
        if name.startswith(_MARK):
            return name.removeprefix(_MARK)
        for inner in programs_inside(equation):
            found = what_mixes_examples(inner)
            if found:
                return found
    return None


def on_any_platform(equation: Any) -> Any:
    """Of a choice by platform, the program for those that are not named; else None."""
    chosen_by = equation.params.get("branches_platforms")
    if equation.primitive.name != "cond" or chosen_by is None or chosen_by[-1] is not None:
        return None
    return equation.params["branches"][-1]
