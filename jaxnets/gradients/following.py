"""The examples of a batch followed through a traced program, into calls, branches and loops."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jaxnets.equations import leading_axes_are_kept, on_any_platform, programs_inside
from jaxnets.gradients.graph import body_of
from jaxnets.gradients.mixing_rules import Along, Mixed, State, Summed, Unknown

Calls: TypeAlias = tuple[Any, ...]
"""The equations of the calls that an equation stands in, the outermost first."""
After: TypeAlias = Callable[[Any, Sequence[State], Calls], State]
"""`(equation, states of its operands, calls) -> state of its results`, of an operation that is no
call, branch or loop."""

_CALLS = {"closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
          "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2", "checkpoint"}  # fmt: skip
_SAME = {"device_put", "optimization_barrier", "sharding_constraint"}
"""Their results are their operands, each."""


def follow(jaxpr: Any, inputs: Sequence[State], after: After, calls: Calls = ()) -> list[State]:
    """The states of a program's results."""
    known: dict[Any, State] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> State:
        return None if hasattr(variable, "val") else known.get(variable)

    for equation in jaxpr.eqns:
        results = _results(equation, [read(v) for v in equation.invars], after, calls)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _results(
    equation: Any, states: Sequence[State], after: After, calls: Calls
) -> Sequence[State]:  # fmt: skip
    def all_are(state: State) -> list[State]:
        return [state] * len(equation.outvars)

    name = equation.primitive.name
    if all(state is None for state in states):
        return all_are(None)
    x, *others = states
    if leading_axes_are_kept(equation) and isinstance(x, Along) and not any(others):
        last = equation.invars[0].aval.ndim - 1
        if x.axis != last:
            return all_are(x)
    inside = (*calls, equation)
    if name in _CALLS:
        body = body_of(equation) or next(programs_inside(equation), None)
        body = getattr(body, "jaxpr", body)
        if body is not None and len(body.invars) == len(states):
            return follow(body, states, after, inside)
    if (default := on_any_platform(equation)) is not None:
        return follow(default.jaxpr, states[1:], after, inside)
    if name == "cond" and x is None:
        return _branches(equation, states[1:], after, inside)
    if name == "scan":
        return _scan(equation, states, after, inside)
    if name in _SAME:
        return states
    return all_are(after(equation, states, calls))


def _branches(
    equation: Any, states: Sequence[State], after: After, calls: Calls
) -> list[State]:  # fmt: skip
    results: list[State] = [None] * len(equation.outvars)
    for branch in equation.params["branches"]:
        own = follow(branch.jaxpr, states, after, calls)
        results = [_joined(a, b) for a, b in zip(results, own, strict=True)]
    return results


def _scan(
    equation: Any, states: Sequence[State], after: After, calls: Calls
) -> list[State]:  # fmt: skip
    body = equation.params["jaxpr"].jaxpr

    def turns(outside: Sequence[Any], inside: Sequence[Any]) -> list[bool]:
        pairs = zip(outside, inside, strict=True)
        return [len(x.aval.shape) > len(y.aval.shape) for x, y in pairs]

    sliced, stacked = (
        turns(equation.invars, body.invars), turns(equation.outvars, body.outvars)
    )  # fmt: skip
    n_carry = len(stacked) - sum(stacked)
    n_whole = len(sliced) - sum(sliced) - n_carry

    def within(state: State, cut: bool) -> State:
        if not cut or not isinstance(state, Along):
            return state
        return state.at(state.axis - 1) if state.axis else Unknown()

    now = [within(state, cut) for state, cut in zip(states, sliced, strict=True)]
    carried = slice(n_whole, n_whole + n_carry)
    # what is carried may meet examples in the first turn, or become a sum in the second
    for _ in range(3):
        results = follow(body, now, after, calls)
        joined = [_joined(a, b) for a, b in zip(now[carried], results[:n_carry], strict=True)]
        if joined == now[carried]:
            break
        now[carried] = joined
    else:
        results = [Unknown()] * len(results)

    def outside(state: State, cut: bool) -> State:
        return state.at(state.axis + 1) if cut and isinstance(state, Along) else state

    return [outside(state, cut) for state, cut in zip(results, stacked, strict=True)]


def _joined(before: State, after: State) -> State:
    if before is None or before == after:
        return after
    for state in (before, after):
        if isinstance(state, Mixed):
            return state
    if isinstance(before, Summed) and isinstance(after, Summed):
        return before
    return before if after is None else Unknown()
