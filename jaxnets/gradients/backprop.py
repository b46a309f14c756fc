"""Backpropagation written out: a forward pass that records, a backward pass by the chain rule.

    forward     every operation computes its result from its operands, and is written down
    backward    from the last to the first, each turns the error signal δ = ∂loss/∂result of its
                result into those of its operands; what several operations used adds up
    update      θ ← θ - η ∂loss/∂θ

This is the reference for what `jax.grad` and the rest of this package compute, made to be read and
to be looked into: every value and every error signal is kept, and loops are written out turn by
turn (backpropagation through time). It is not the fast path.

Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
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
from jaxnets.gradients.local_rules import OF_SEVERAL, RULES
from jaxnets.gradients.rule import Rule
from jaxnets.gradients.site_kinds import CUSTOM, ENTERED
from jaxnets.gradients.sites import scanned
from jaxnets.types import Array, ArrayLike, Params, PyTree


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


def backward(
    tape: Tape, error: ArrayLike = 1.0, *, rules: Mapping[str, Rule] = RULES
) -> list[Array | None]:
    """The backward pass: `∂loss/∂value` of every value that depends on a floating argument.

    Args:
      tape: of a function with one result (or whose first is the loss), from `record`.
      error: the derivative of the loss by that result, of its shape.
      rules: local derivatives, by the operation's name; to have more of them,
        `rules={**RULES, "name": rule}`.

    Returns:
      for each of `tape.values` its error signal, of the same shape and dtype; None where it does
      not reach the loss, hangs on no floating argument, or has no derivative.

    Raises:
      TypeError: if the result is not floating.
      NotImplementedError: if an operation on the way has no rule, or complex values.
    """
    (last, *_) = tape.outputs
    loss = tape.values[last]
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"backward: the first result must be floating, got {jax.typeof(loss)}")
    depends = _dependent(tape)
    signals: list[Array | None] = [None] * len(tape.values)
    signals[last] = jnp.broadcast_to(jnp.asarray(error, loss.dtype), loss.shape)
    for operation in reversed(tape.operations):
        found = [signals[place] for place in operation.results]
        if all(signal is None for signal in found) or depends.isdisjoint(operation.operands):
            continue
        if operation.name not in rules:
            raise NotImplementedError(
                f"backprop: no rule for {operation.name!r}; pass rules={{**RULES, "
                f"{operation.name!r}: rule}}, with rule(x, y, error, /, **params) -> error signals"
            )
        x = [tape.values[place] for place in operation.operands]
        y = [tape.values[place] for place in operation.results]
        errors = [
            jnp.zeros_like(value) if signal is None else signal
            for value, signal in zip(y, found, strict=True)
        ]
        one = len(y) == 1 and operation.name not in OF_SEVERAL
        parts = rules[operation.name](
            x, y[0] if one else tuple(y), errors[0] if one else tuple(errors), **operation.params
        )
        for place, part in zip(operation.operands, parts, strict=True):
            if part is not None and place in depends:
                known = signals[place]
                signals[place] = part if known is None else known + part
    return signals


def backprop(
    loss: Callable[..., Any], *, has_aux: bool = False, rules: Mapping[str, Rule] = RULES
) -> Callable[..., tuple[Any, Params]]:
    """`(params, *args) -> (value, gradient)`: what `jax.value_and_grad(loss)` returns.

    Args:
      loss: `loss(params, *args) -> scalar`, or `(scalar, aux)` with `has_aux`.
      has_aux: whether it returns something beside the loss.
      rules: as in `backward`.

    Raises:
      TypeError: if a parameter is not floating, or the loss is not one floating number.
      ValueError: as `record`.
      NotImplementedError: as `backward`.

    Example:
      >>> value, gradient = backprop(loss)(params, x, y)
      >>> params = descend(params, gradient, 0.1)
    """

    def gradient(params: Params, *args: PyTree) -> tuple[Any, Params]:
        leaves, structure = jax.tree.flatten(params)
        for leaf in leaves:
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"backprop: parameters must be floating, got {jnp.result_type(leaf)}"
                )
        # what is not a parameter may be any object, as for `jax.grad`
        value, tape = record(lambda params: loss(params, *args), params)
        scalar = value[0] if has_aux else value
        if not isinstance(scalar, jax.Array):
            raise TypeError(f"backprop: loss must return one number, got {scalar!r:.60}")
        if jnp.shape(scalar) or not jnp.issubdtype(jnp.result_type(scalar), jnp.floating):
            raise TypeError(f"backprop: loss must return one number, got {jax.typeof(scalar)}")
        signals = backward(tape, rules=rules)
        places = tape.arguments[: len(leaves)]
        found = [
            jnp.zeros_like(leaf) if signals[place] is None else signals[place]
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return value, jax.tree.unflatten(structure, found)

    return gradient


def descend(params: Params, gradient: Params, learning_rate: ArrayLike) -> Params:
    """The weight update `θ ← θ - η g`."""

    def step(p: Any, g: Array) -> Array:
        p = jnp.asarray(p)
        moved: Array = p - jnp.asarray(learning_rate, p.dtype) * g
        return moved

    return jax.tree.map(step, params, gradient)


def describe(tape: Tape, signals: Sequence[Array | None]) -> str:
    """A line for each operation: where it stands, its result, and the size of its error signal.

    Sizes are root mean squares. Values must be known: not for use inside `jit`.
    """
    lines = [f"{'operation':<22} {'result':<20} {'value':>10} {'error':>10}  inside"]
    for operation in tape.operations:
        for place in operation.results:
            value, signal = tape.values[place], signals[place]
            shape = f"{jnp.result_type(value)}{list(jnp.shape(value))}"
            sizes = [_rms(value) if _has_derivative(value) else "", _rms(signal)]
            cells = " ".join(f"{size:>10}" for size in sizes)
            where = " / ".join(operation.inside)
            lines.append(f"{operation.name:<22} {shape:<20} {cells}  {where}".rstrip())
    return "\n".join(lines)


def _rms(x: Array | None) -> str:
    return "" if x is None else f"{float(jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x))))):.3g}"


def _has_derivative(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _dependent(tape: Tape) -> set[int]:
    """The places of what has a derivative by an argument."""
    found = {place for place in tape.arguments if _has_derivative(tape.values[place])}
    for operation in tape.operations:
        if not found.isdisjoint(operation.operands):
            results = [place for place in operation.results if _has_derivative(tape.values[place])]
            if any(jnp.iscomplexobj(tape.values[place]) for place in results):
                raise NotImplementedError(
                    f"backward: {operation.name!r} makes complex values, which have no rules here"
                )
            found.update(results)
    return found


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
