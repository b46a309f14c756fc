"""Along which axis of a value the examples of a batch lie, followed through a traced program.

As for whether examples interact (see `mixing`), but what interacts is followed on: in batch norm
each row is still one example's, whatever it has of others. Sums and maxima over the batch are of
no example.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from jaxnets.gradients.following import After, Calls, follow
from jaxnets.gradients.mixing_rules import (
    REDUCING,
    SCATTERING,
    Along,
    Mixed,
    State,
    Summed,
    Unknown,
    state_after,
)


def states_of_results(closed: Any, examples: int) -> list[State]:
    """What has become of the examples in each result of a program.

    Args:
      closed: the program, traced; an input's first axis is the examples' if it is as long.
      examples: their number.
    """
    if examples == 1:
        # no axis needs to be followed where everything is of one
        return [None] * len(closed.jaxpr.outvars)
    shapes = [v.aval.shape for v in closed.jaxpr.invars]
    states: list[State] = [Along(0) if shape[:1] == (examples,) else None for shape in shapes]
    return follow(closed.jaxpr, states, _rule(examples))


def inside(state: State, loops: int) -> State:
    """The state of one turn's result, of loops that stack theirs along axes in front."""
    if not isinstance(state, Along):
        return state
    return state.at(state.axis - loops) if state.axis >= loops else Unknown()


def ahead_of_examples(state: State, shape: Sequence[int], examples: int) -> int | None:
    """How many elements are slower than the examples: `ahead` in an array `[ahead, B, rest]`.

    None if that is not known. Where examples meet each other, or there are none, they are taken to
    lie along the first axis if it is as long.
    """
    if examples == 1:
        return 1
    if isinstance(state, Along):
        whole = shape[state.axis] % (state.outer * examples) == 0
        return prod(shape[: state.axis]) * state.outer if whole else None
    at_first = not isinstance(state, Unknown) and tuple(shape[:1]) == (examples,)
    return 1 if at_first else None


_PICKING = {"gather", "rev", *SCATTERING}
_OF_THE_LAST_AXES = {"cholesky": 2, "eigh": 2, "fft": 3, "lu": 2, "qr": 2, "svd": 2,
                     "top_k": 1, "triangular_solve": 2}  # fmt: skip
"""Of how many axes, at most, these are; they do the same along all others."""


def _rule(examples: int) -> After:
    def after(equation: Any, states: Sequence[State], calls: Calls) -> State:
        name, (first, *_) = equation.primitive.name, states
        if name.startswith("random_"):
            # by whatever keys, noise is of no example until it meets one
            return None
        if name == "reshape" and isinstance(first, Along):
            return _reshaped(equation, first, examples)
        if name in REDUCING and isinstance(first, Along) and first.axis in equation.params["axes"]:
            return None
        if name == "concatenate" and isinstance(first, Along):
            return _concatenated(equation, states, name)
        if name in _OF_THE_LAST_AXES:
            return _of_the_last_axes(equation, states)
        state = state_after(equation, states, name)
        if isinstance(state, Unknown) and name in _PICKING and not _any_unknown(states):
            # rows in another order, or some of them, are of examples too
            return Mixed(name)
        return None if isinstance(state, Summed) else state

    return after


def _any_unknown(states: Sequence[State]) -> bool:
    return any(isinstance(state, Unknown) for state in states)


def _of_the_last_axes(equation: Any, states: Sequence[State]) -> State:
    pairs = zip(states, equation.invars, strict=True)
    found = {(state, v.aval.ndim) for state, v in pairs if state is not None}
    mixed = next((state for state in states if isinstance(state, Mixed)), Unknown())
    if len(found) > 1:
        return mixed
    ((state, ndim),) = found
    last = _OF_THE_LAST_AXES[equation.primitive.name]
    return state if isinstance(state, Along) and state.axis < ndim - last else mixed


def _concatenated(equation: Any, states: Sequence[State], name: str) -> State:
    """Of views of all examples, one behind the other, each example has its part of each."""
    first, axis = states[0], equation.params["dimension"]
    sizes = {v.aval.shape[axis] for v in equation.invars}
    if isinstance(first, Along) and first.axis == axis and {*states} == {first} and len(sizes) == 1:
        return Along(axis, first.outer * len(states))
    return state_after(equation, states, name)


def _reshaped(equation: Any, state: Along, examples: int) -> State:
    """Elements keep their order: those ahead of the examples are as many as before."""
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    ahead = prod(before[: state.axis]) * state.outer
    if equation.params["dimensions"] is not None or before[state.axis] % (state.outer * examples):
        return Unknown()
    for axis, size in enumerate(after):
        outer, rest = divmod(ahead, prod(after[:axis]))
        if rest == 0 and size and size % (outer * examples) == 0:
            return Along(axis, outer)
    return Unknown()
