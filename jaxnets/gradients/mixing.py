"""Whether the examples of a batch interact in a loss that was written for batches.

The loss is traced for a batch, and the axis of the examples is followed from equation to equation.
A sum over the examples is all that may happen to them, and nothing but linear steps may come after
it: then the loss is a sum of losses of single examples. A maximum over the axis, a product of
examples with examples, or a sum that meets single examples again makes of each what others are too.
Where the axis cannot be followed (an unknown operation, a permutation), nothing is said.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.equations import leading_axes_are_kept, on_any_platform, programs_inside
from jaxnets.gradients.graph import body_of
from jaxnets.gradients.mixing_rules import Along, Mixed, State, Unknown, state_after
from jaxnets.types import PyTree

_CALLS = {"closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
          "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2", "checkpoint"}  # fmt: skip


def what_mixes(
    loss: Callable[..., Any], params: PyTree, batch: tuple[PyTree, ...]
) -> str | None:  # fmt: skip
    """What makes examples interact in `loss(params, *batch) -> (scalar, aux)`, as far as is known.

    Args:
      loss: written for batches.
      params: a pytree of arrays.
      batch: with a leading axis of more than one example.
    """
    state = state_of(loss, params, batch)
    return state.what if isinstance(state, Mixed) else None


def state_of(loss: Callable[..., Any], params: PyTree, batch: tuple[PyTree, ...]) -> State:
    """What has become of the examples in the loss; arguments as for `what_mixes`."""
    closed = jax.make_jaxpr(lambda p, b: loss(p, *b)[0])(params, batch)
    own: list[State] = [None] * len(jax.tree.leaves(params))
    # keys are drawn from, one by one, in ways of their own
    own += [
        None if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else Along(0)
        for leaf in jax.tree.leaves(batch)
    ]
    (state,) = _follow(closed.jaxpr, own)
    return state


def _follow(jaxpr: Any, inputs: Sequence[State], line: str = "") -> list[State]:
    """The states of a program's results; `line` is where the program was called."""
    known: dict[Any, State] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> State:
        return None if hasattr(variable, "val") else known.get(variable)

    for equation in jaxpr.eqns:
        states = [read(v) for v in equation.invars]
        results = _results(equation, states, line or _line(equation))
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _results(equation: Any, states: Sequence[State], line: str) -> list[State]:
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
    if name in _CALLS:
        body = body_of(equation) or next(programs_inside(equation), None)
        inside = getattr(body, "jaxpr", body)
        if inside is not None and len(inside.invars) == len(states):
            # a program may have been traced at an earlier call
            return _follow(inside, states, line)
    if (default := on_any_platform(equation)) is not None:
        return _follow(default.jaxpr, states[1:], line)
    if name == "scan":
        return _scan(equation, states)
    place = f"{name} (in {line})" if line else name
    return all_are(state_after(equation, states, place))


def _line(equation: Any) -> str:
    """`net, net.py:12`: the innermost line that is not JAX's own."""
    traceback = getattr(equation.source_info, "traceback", None)
    own = str(Path(jax.__file__).parent), str(Path(__file__).parent)
    for frame in getattr(traceback, "frames", ()):
        if not frame.file_name.startswith(own):
            return f"{frame.function_name}, {Path(frame.file_name).name}:{frame.line_num}"
    return ""


def _scan(equation: Any, states: Sequence[State]) -> list[State]:
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
        return Along(state.axis - 1) if state.axis else Unknown()

    now = [within(state, cut) for state, cut in zip(states, sliced, strict=True)]
    carried = slice(n_whole, n_whole + n_carry)
    # what is carried may meet examples in the first turn, or become a sum in the second
    for _ in range(3):
        results = _follow(body, now)
        joined = [_joined(a, b) for a, b in zip(now[carried], results[:n_carry], strict=True)]
        if joined == now[carried]:
            break
        now[carried] = joined
    else:
        results = [Unknown()] * len(results)

    def outside(state: State, cut: bool) -> State:
        return Along(state.axis + 1) if cut and isinstance(state, Along) else state

    return [outside(state, cut) for state, cut in zip(results, stacked, strict=True)]


def _joined(before: State, after: State) -> State:
    if before is None or before == after:
        return after
    for state in (before, after):
        if isinstance(state, Mixed):
            return state
    return before if after is None else Unknown()
