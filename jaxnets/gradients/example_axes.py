"""Along which axis of a value the examples of a batch lie, followed through a traced program.

As for whether examples interact (see `mixing`), but what interacts is followed on: in batch norm
each row is still one example's, whatever it has of others. Sums and maxima over the batch are of
none, until they meet what is.
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

    None if that is not known, or of a sum over the examples. Where examples meet each other, or
    there are none, they are taken to lie along the first axis if it is as long.
    """
    if examples == 1:
        return 1
    if isinstance(state, Along):
        whole = shape[state.axis] % (state.outer * examples) == 0
        return prod(shape[: state.axis]) * state.outer if whole else None
    at_first = not isinstance(state, Unknown | Summed) and tuple(shape[:1]) == (examples,)
    return 1 if at_first else None


_PICKING = {"concatenate", "dynamic_slice", "gather", "slice", "split", *SCATTERING}
_OF_THE_LAST_AXES = {"cholesky": 2, "eigh": 2, "lu": 2, "qr": 2, "svd": 2, "triangular_solve": 2}
"""Of how many axes these are; they do the same along all others."""


def _rule(examples: int) -> After:
    def after(equation: Any, states: Sequence[State], calls: Calls) -> State:
        name, (first, *_) = equation.primitive.name, states
        if name.startswith("random_"):
            return _drawn(equation, states)
        if any(isinstance(state, Along) for state in states):
            # what is a sum over the batch, each example has of all
            states = [None if isinstance(state, Summed) else state for state in states]
        elif any(isinstance(state, Summed) for state in states):
            return next(state for state in states if state is not None)
        if name == "reshape" and isinstance(first, Along):
            return _reshaped(equation, first, examples)
        if name in REDUCING and isinstance(first, Along) and first.axis in equation.params["axes"]:
            return Summed(name)
        if name == "rev":
            # a mean over the examples does not know their order
            return first
        if name == "concatenate" and isinstance(first, Along):
            state = _concatenated(equation, states, name)
        elif name == "gather" and _picks_as_many(equation, first, examples):
            return first
        elif name == "fft":
            state = _of_the_last_axes(equation, states, len(equation.params["fft_lengths"]))
        elif name == "top_k":
            axes = equation.invars[0].aval.ndim
            of_last = equation.params.get("axis", axes - 1) == axes - 1
            state = _of_the_last_axes(equation, states, 1) if of_last else Unknown()
        elif name in _OF_THE_LAST_AXES:
            state = _of_the_last_axes(equation, states, _OF_THE_LAST_AXES[name])
        else:
            state = state_after(equation, states, name)
        if isinstance(state, Unknown) and name in _PICKING and not _any_unknown(states):
            # rows in another order, or some of them, are of examples too
            return Mixed(name)
        return state

    return after


def _drawn(equation: Any, states: Sequence[State]) -> State:
    """By the keys of examples, or from distributions of theirs; by others, noise is of none."""
    out = equation.outvars[0].aval
    for state, v in zip(states, equation.invars, strict=True):
        if not isinstance(state, Along):
            continue
        if out.ndim > state.axis and out.shape[state.axis] == v.aval.shape[state.axis]:
            return state
    return None


def _picks_as_many(equation: Any, state: State, examples: int) -> bool:
    """Whether whole examples are taken, of the first axis, as many as there are."""
    numbers, table = equation.params["dimension_numbers"], equation.invars[0].aval
    out = equation.outvars[0].aval
    return bool(
        state == Along(0)
        and table.shape[0] == examples
        and numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and numbers.offset_dims == tuple(range(1, out.ndim))
        and out.shape == table.shape
    )


def _any_unknown(states: Sequence[State]) -> bool:
    return any(isinstance(state, Unknown) for state in states)


def _of_the_last_axes(equation: Any, states: Sequence[State], last: int) -> State:
    pairs = zip(states, equation.invars, strict=True)
    found = {(state, v.aval.ndim) for state, v in pairs if state is not None}
    mixed = next((state for state in states if isinstance(state, Mixed)), Unknown())
    if len(found) > 1:
        return mixed
    ((state, ndim),) = found
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
