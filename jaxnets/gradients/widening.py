"""A traced program computed in float64, as if the narrower types in it were exact.

A derivative is a matter of formulas, and what rounds in bfloat16, float16 or float32 has the same
formula in float64. So every floating value becomes float64 (a complex one complex128), and casts
among floating types do nothing. Calls and rules for derivatives are entered, loops and branches
are made anew. What takes no float64 (kernels, callbacks, the bits of a number) is computed in the
types that it was written in.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxnets.equations import bind, programs_inside
from jaxnets.gradients.graph import body_of
from jaxnets.gradients.site_kinds import CUSTOM, ENTERED
from jaxnets.gradients.sites import scanned
from jaxnets.types import PyTree

_CALLS = CUSTOM | ENTERED
_DTYPES = ("dtype", "new_dtype", "preferred_element_type")
_COMBINING = {"reduce", "reduce_window"}
"""Like `scatter-…`, they hold a program of two numbers."""


def in_float64(
    function: Callable[..., PyTree], *args: PyTree, keep_rules: bool = False
) -> Callable[..., PyTree] | None:
    """A function for arguments like these, compiled, in float64; where x64 is on.

    What it returns has no rules for derivatives that someone wrote. With `keep_rules` it has, and
    functions with such a rule compute in their own types.

    None if it cannot be traced, or what came of it cannot be run.
    """
    try:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        flat = jax.jit(_widened(program, ENTERED if keep_rules else _CALLS))
        if not keep_rules:  # that is for being differentiated
            flat(*jax.tree.leaves(args))
    except Exception:  # whatever it was, the function itself is still there
        return None

    def run(*args: PyTree) -> PyTree:
        return jax.tree.unflatten(jax.tree.structure(shapes), flat(*jax.tree.leaves(args)))

    return run


def narrowest(jaxpr: Any, reached: Sequence[bool]) -> tuple[float, list[bool]]:
    """In which type a program computes with some of its inputs.

    Args:
      jaxpr: the program.
      reached: for each input whether it is one of them.

    Returns:
      the distance from 1 to the next number of the narrowest floating type through which a slope
      leads from there (0 if through none), and for each result whether one leads to it. What is
      carried through a loop counts as one.
    """
    known = {v for v, yes in zip(jaxpr.invars, reached, strict=True) if yes and _continuous(v)}
    largest = 0.0
    for equation in jaxpr.eqns:
        marks = [not isinstance(v, Literal) and v in known for v in equation.invars]
        onward = [_continuous(v) for v in equation.outvars]
        if not any(marks) or not any(onward):
            continue
        name, inner = equation.primitive.name, []
        for program in programs_inside(equation):
            # operands come last, after what chooses a branch
            count = len(program.invars)
            whole = name not in _CALLS | {"cond"} or count > len(marks)
            eps, found = narrowest(
                program, [True] * count if whole else marks[len(marks) - count :]
            )
            largest = max(largest, eps)
            inner.append([True] * len(onward) if whole else found)
        if inner:
            onward = [a and any(b) for a, *b in zip(onward, *inner, strict=True)]
        taken = [v for v, yes in zip(equation.invars, marks, strict=True) if yes]
        largest = max([largest, *map(_eps, taken)])
        known.update(v for v, yes in zip(equation.outvars, onward, strict=True) if yes)
    results = [not isinstance(v, Literal) and v in known for v in jaxpr.outvars]
    given = [_eps(v) for v, yes in zip(jaxpr.outvars, results, strict=True) if yes]
    return max([largest, *given]), results


def _continuous(variable: Any) -> bool:
    return bool(jnp.issubdtype(getattr(variable.aval, "dtype", jnp.int32), jnp.inexact))


def _eps(variable: Any) -> float:
    finfo: Any = jnp.finfo
    return float(finfo(variable.aval.dtype).eps)


def _widened(program: Any, entered: Set[str]) -> Callable[..., list[Any]]:
    """`(*inputs) -> results` of a ClosedJaxpr; of `entered` are the names of calls."""
    jaxpr = program.jaxpr

    def run(*values: Any) -> list[Any]:
        known = dict(zip(jaxpr.constvars, map(_raised, program.consts), strict=True))
        known.update(zip(jaxpr.invars, map(_raised, values), strict=True))

        def value_of(variable: Any) -> Any:
            if isinstance(variable, Literal):
                aval: Any = variable.aval
                return np.asarray(variable.val, _wide(aval.dtype))
            return known[variable]

        for equation in jaxpr.eqns:
            results = _compute(equation, [value_of(v) for v in equation.invars], entered)
            known.update(zip(equation.outvars, results, strict=True))
        return [value_of(v) for v in jaxpr.outvars]

    return run


def _compute(equation: Any, values: list[Any], entered: Set[str]) -> list[Any]:
    name, params, body = equation.primitive.name, equation.params, body_of(equation)
    if name in entered and body is not None:
        return _widened(body, entered)(*values)
    if name == "reduce_precision":
        return values
    if name == "scan":
        return _scan(equation, values, entered)
    if name == "while":
        return _while(equation, values, entered)
    if name == "cond":
        branches = [_widened(branch, entered) for branch in params["branches"]]
        platforms = params.get("branches_platforms")
        if platforms is None:
            return list(lax.switch(values[0], branches, *values[1:]))
        chosen = list(zip(platforms, branches, strict=True))
        default = next((branch for names, branch in chosen if names is None), None)
        named = {name: branch for names, branch in chosen for name in names or ()}
        return list(lax.platform_dependent(*values[1:], default=default, **named))
    results = _bound_wide(equation, values)
    if results is None:
        pairs = zip(values, equation.invars, strict=True)
        results = bind(equation, [_cast(x, v.aval.dtype) for x, v in pairs])
    return [_raised(result) for result in results]


def _bound_wide(equation: Any, values: list[Any]) -> list[Any] | None:
    """The results of an equation in float64, or None if there are none."""
    name, params = equation.primitive.name, dict(equation.params)
    for key in _DTYPES:
        if params.get(key) is not None:
            params[key] = _wide(params[key])
    if name in ("dot_general", "conv_general_dilated"):
        # some say of which narrow types the products are made
        params["precision"] = None
    if any(True for _ in programs_inside(equation)):
        if name not in _COMBINING and not name.startswith("scatter"):
            return None
        params = {key: _retyped(value) for key, value in params.items()}
    try:
        results = bind(equation, values, params)
    except Exception:  # whatever it says of other types, it works with its own
        return None
    expected = [(v.aval.shape, _wide(v.aval.dtype)) for v in equation.outvars]
    return results if [(y.shape, y.dtype) for y in results] == expected else None


def _retyped(value: Any) -> Any:
    """A program of single numbers, for float64; whatever else it is as it is."""
    if not hasattr(value, "eqns") and not hasattr(value, "jaxpr"):
        return value
    closed = value if hasattr(value, "jaxpr") else ClosedJaxpr(value, ())
    inputs = [jax.ShapeDtypeStruct(a.shape, _wide(a.dtype)) for a in closed.in_avals]
    wide = jax.make_jaxpr(_widened(closed, _CALLS))(*inputs)
    return wide if hasattr(value, "jaxpr") else wide.jaxpr


def _scan(equation: Any, values: list[Any], entered: Set[str]) -> list[Any]:
    params = equation.params
    n_whole, n_carry = scanned(equation)
    whole, carry, sliced = (
        values[:n_whole], values[n_whole : n_whole + n_carry], values[n_whole + n_carry :]
    )  # fmt: skip
    body = _widened(params["jaxpr"], entered)

    def turn(carry: list[Any], now: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body(*whole, *carry, *now)
        return results[:n_carry], results[n_carry:]

    carry, stacked = lax.scan(
        turn, carry, sliced, params["length"], params["reverse"], params["unroll"]
    )
    return [*carry, *stacked]


def _while(equation: Any, values: list[Any], entered: Set[str]) -> list[Any]:
    params = equation.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    tested, whole = values[:n_test], values[n_test : n_test + n_body]
    test, body = (_widened(params[key], entered) for key in ("cond_jaxpr", "body_jaxpr"))
    return list(
        lax.while_loop(
            lambda carry: test(*tested, *carry)[0],
            lambda carry: body(*whole, *carry),
            values[n_test + n_body :],
        )
    )


def _wide(dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return np.dtype(np.complex128) if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def _raised(x: Any) -> Any:
    return _cast(x, _wide(x.dtype))


def _cast(x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype else lax.convert_element_type(x, dtype)
