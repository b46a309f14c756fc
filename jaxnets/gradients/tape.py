"""A forward pass that is written down, operation by operation, as it is computed.

Calls are entered and loops written out turn by turn: the tape is one list, from first to last, and
the backward pass goes over it from its end (`backprop`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxnets import convolution
from jaxnets.equations import bind, is_enterable, on_any_platform
from jaxnets.gradients.graph import body_of
from jaxnets.gradients.site_kinds import CUSTOM, ENTERED
from jaxnets.gradients.sites import scanned
from jaxnets.types import Array, PyTree


@dataclass(frozen=True, eq=False)
class Operation:
    """One line of the forward pass."""

    name: str
    """Of the operation: `dot_general`, `tanh`, …"""
    operands: tuple[int, ...]
    """Their places in `Tape.values`."""
    results: tuple[int, ...]
    params: Mapping[str, Any]
    """What else determines it, such as axes and strides."""
    inside: tuple[str, ...]
    """The functions and turns of loops that it stands in, outermost first."""


@dataclass(frozen=True, eq=False)
class Tape:
    """A forward pass as it was recorded."""

    values: list[Array] = field(default_factory=list)
    """Every value: arguments, constants, results."""
    operations: list[Operation] = field(default_factory=list)
    """In the order in which they were computed."""
    arguments: list[int] = field(default_factory=list)
    """Places of the arguments' leaves."""
    outputs: list[int] = field(default_factory=list)
    """Places of the leaves of what the function returned."""


def record(function: Callable[..., PyTree], *args: PyTree) -> tuple[PyTree, Tape]:
    """The forward pass: `function(*args)`, and the tape of how it came about.

    Args:
      function: any function that JAX can trace.
      *args: pytrees of arrays.

    Returns:
      what the function returns, and the tape.

    Raises:
      ValueError: if a `cond` or `while` depends on what only the run of a compiled program will
        show: record outside of `jit`, `vmap` and `grad`.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    tape = Tape()
    tape.arguments.extend(_write(tape, leaf) for leaf in jax.tree.leaves(args))
    tape.outputs.extend(_run(tape, closed, tape.arguments, ()))
    outputs = [tape.values[place] for place in tape.outputs]
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs), tape


def _write(tape: Tape, value: Any) -> int:
    tape.values.append(jnp.asarray(value))
    return len(tape.values) - 1


def _compute(
    tape: Tape, name: str, operands: Sequence[int], inside: tuple[str, ...],
    function: Callable[..., Sequence[Any]], params: Mapping[str, Any],
) -> list[int]:  # fmt: skip
    """Do an operation and write it down; the places of its results."""
    results = [_write(tape, y) for y in function(*(tape.values[place] for place in operands))]
    operation = Operation(name, tuple(operands), tuple(results), params, inside)
    tape.operations.append(operation)
    return results


def _run(tape: Tape, closed: Any, inputs: Sequence[int], inside: tuple[str, ...]) -> list[int]:
    """A traced program, equation by equation; the places of its results."""
    jaxpr = closed.jaxpr
    known: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update({v: _write(tape, c) for v, c in zip(jaxpr.constvars, closed.consts, strict=True)})

    def place_of(variable: Any) -> int:
        if isinstance(variable, Literal):
            return _write(tape, variable.val)
        return known[variable]

    for equation in jaxpr.eqns:
        results = _equation(tape, equation, [place_of(v) for v in equation.invars], inside)
        known.update(zip(equation.outvars, results, strict=True))
    return [place_of(v) for v in jaxpr.outvars]


def _equation(tape: Tape, equation: Any, operands: list[int], inside: tuple[str, ...]) -> list[int]:
    kind, called = equation.primitive.name, _called(equation)
    call, body = partial(_bound, equation), body_of(equation)
    if kind == "scan":
        return _scan(tape, equation, operands, inside)
    if kind == "while":
        return _while(tape, equation, operands, inside)
    if (default := on_any_platform(equation)) is not None:
        return _run(tape, default, operands[1:], inside)
    if kind == "cond":
        branches = equation.params["branches"]
        index = min(max(int(_known(tape, operands[0], "cond")), 0), len(branches) - 1)
        return _run(tape, branches[index], operands[1:], (*inside, f"branch {index}"))
    if kind in CUSTOM and not _has_the_derivative_of_its_body(equation):
        return _compute(tape, "own rule", operands, (*inside, *called), call, {"call": call})
    if body is not None and kind in ENTERED | CUSTOM:
        return _run(tape, body, operands, (*inside, *called))
    return _compute(tape, kind, operands, inside, call, equation.params)


def _has_the_derivative_of_its_body(equation: Any) -> bool:
    """Whether a call with a rule of its own has it for speed alone."""
    body = body_of(equation)
    if body is None:
        return False
    return is_enterable(body.jaxpr) or _source(body).startswith(f"convolve at {_CONVOLUTION}:")


_CONVOLUTION = convolution.__file__


def _source(body: Any) -> str:
    """`function at file:line`, where it is known."""
    return str(getattr(getattr(body.jaxpr, "debug_info", None), "func_src_info", ""))


def _called(equation: Any) -> tuple[str, ...]:
    """The name of the function that an equation calls, or nothing."""
    if "name" in equation.params:
        return (str(equation.params["name"]),)
    body = body_of(equation)
    name = "" if body is None else _source(body).partition(" ")[0]
    return (name,) if name else ()


def _bound(equation: Any, *values: Any) -> list[Any]:
    return bind(equation, values)


def _scan(tape: Tape, equation: Any, operands: list[int], inside: tuple[str, ...]) -> list[int]:
    """A loop with a known number of turns, written out."""
    params = equation.params
    n_whole, n_carry = scanned(equation)
    whole, carry, sliced = (
        operands[:n_whole], operands[n_whole : n_whole + n_carry], operands[n_whole + n_carry :]
    )  # fmt: skip
    length, turns = params["length"], range(params["length"])
    handed = [_compute(tape, "unstack", [place], inside, list, {}) for place in sliced]
    left: dict[int, list[int]] = {}
    for t in reversed(turns) if params["reverse"] else turns:
        here, now = (*inside, f"turn {t}"), [each[t] for each in handed]
        results = _run(tape, params["jaxpr"], [*whole, *carry, *now], here)
        carry, left[t] = results[:n_carry], results[n_carry:]
    stacked = []
    for i, variable in enumerate(equation.outvars[n_carry:]):
        if not length:
            stacked.append(_write(tape, jnp.zeros(variable.aval.shape, variable.aval.dtype)))
            continue
        each = [left[t][i] for t in turns]
        stacked += _compute(tape, "stack", each, inside, lambda *ys: [jnp.stack(ys)], {})
    return [*carry, *stacked]


def _while(tape: Tape, equation: Any, operands: list[int], inside: tuple[str, ...]) -> list[int]:
    """A loop whose turns only the run shows."""
    params = equation.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    tested, whole, carry = (
        operands[:n_test], operands[n_test : n_test + n_body], operands[n_test + n_body :]
    )  # fmt: skip
    turn = 0
    while _known(
        tape, _run(tape, params["cond_jaxpr"], [*tested, *carry], (*inside, "test"))[0], "while"
    ):
        carry = _run(tape, params["body_jaxpr"], [*whole, *carry], (*inside, f"turn {turn}"))
        turn += 1
    return carry


def _known(tape: Tape, place: int, kind: str) -> Any:
    value = tape.values[place]
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"backprop: which way a {kind} goes must be known while it is recorded; call it "
            "outside of jit, vmap and grad"
        )
    return value
