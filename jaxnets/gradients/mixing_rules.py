"""What each operation makes of the examples in its operands: a rule for each kind of operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Along:
    """Each example's own value, the examples along this axis (alone, or its slowest part)."""

    axis: int
    outer: int = 1
    """How many positions along the axis are slower than the examples are: `T` in `[T·B·k]`."""

    def at(self, axis: int) -> "Along":
        """The same along another axis."""
        return replace(self, axis=axis)


@dataclass(frozen=True)
class Summed:
    """A sum over the examples of their own values."""

    where: str


@dataclass(frozen=True)
class Mixed:
    """A value of one example that others had part in."""

    what: str


@dataclass(frozen=True)
class Unknown:
    """The axis was lost."""


State: TypeAlias = Along | Summed | Mixed | Unknown | None
"""None: no example is in it."""
Rule: TypeAlias = Callable[[Any, Sequence[State], str], State]

_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "complex", "conj", "convert_element_type",
    "copy", "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite",
    "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name", "ne", "neg",
    "nextafter", "not", "or", "polygamma", "pow", "real", "reduce_precision",
    "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "stored", "sub", "tan", "tanh", "xor", "zeta",
}  # fmt: skip
_LINEAR = {"add", "add_any", "convert_element_type", "copy", "copy_p", "name", "neg",
           "reduce_precision", "select_n", "stored", "sub"}  # fmt: skip
REDUCING = {"argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or",
             "reduce_prod", "reduce_sum", "reduce_xor"}  # fmt: skip
SCATTERING = {
    "scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub",
    "scatter_add", "scatter_max", "scatter_min", "scatter_mul", "scatter_sub",
}  # fmt: skip
"""Under the names of all versions of JAX."""
_ALONG_AN_AXIS = {"cumlogsumexp": "axis", "cummax": "axis", "cummin": "axis", "cumprod": "axis",
                  "cumsum": "axis", "sort": "dimension"}  # fmt: skip


def state_after(equation: Any, states: Sequence[State], place: str) -> State:
    """What has become of the examples in the results of one operation that is not a call or a loop.

    Args:
      equation: the operation, as it was traced.
      states: of its operands, at least one of which has examples in it.
      place: what to call it where it mixes them.
    """
    name = equation.primitive.name
    for state in states:
        if isinstance(state, Mixed):
            return state
    if any(isinstance(state, Unknown) for state in states):
        return Unknown()
    if any(isinstance(state, Summed) for state in states):
        return _after_the_sum(equation, states, place)
    if name in _ELEMENTWISE:
        return _same_axis(states, place)
    if name in REDUCING:
        return _reduced(equation, states[0], place)
    if name in _ALONG_AN_AXIS:
        axes = {state.axis for state in states if isinstance(state, Along)}
        if axes == {equation.params[_ALONG_AN_AXIS[name]]}:
            return Mixed(f"{place} over the batch")
        return _same_axis(states, place)
    if name == "split":
        kept = isinstance(states[0], Along) and states[0].axis != equation.params["axis"]
        return states[0] if kept else Unknown()
    if name in OF_ONE_KIND:
        return OF_ONE_KIND[name](equation, states, place)
    return Unknown()


def _same_axis(states: Sequence[State], place: str) -> State:
    axes = {state for state in states if state is not None}
    return axes.pop() if len(axes) == 1 else Mixed(f"{place}, of examples with examples")


def _after_the_sum(equation: Any, states: Sequence[State], place: str) -> State:
    name = equation.primitive.name
    sums = [state for state in states if isinstance(state, Summed)]
    others = [state for state in states if isinstance(state, Along)]
    if others:
        return Mixed(f"{sums[0].where}, a sum over the batch that meets single examples again")
    scaled = name == "mul" and len(sums) == 1
    divided = name == "div" and isinstance(states[0], Summed) and states[1] is None
    chosen = name != "select_n" or states[0] is None
    rearranged = {"broadcast_in_dim", "reduce_sum", "reshape", "squeeze", "transpose"}
    if scaled or divided or name in rearranged or (name in _LINEAR and chosen):
        return sums[0]
    if name == "dot_general" and len(sums) == 1:
        return sums[0]
    if name in _ELEMENTWISE | REDUCING | {"dot_general"}:
        return Mixed(f"{sums[0].where}, a sum over the batch that goes into {place}")
    return Unknown()


def _reduced(equation: Any, state: State, place: str) -> State:
    if not isinstance(state, Along):
        return Unknown()
    axes = equation.params["axes"]
    if state.axis not in axes:
        return state.at(state.axis - sum(axis < state.axis for axis in axes))
    if equation.primitive.name == "reduce_sum":
        return Summed(place)
    return Mixed(f"{place} over the batch")


def _dot(equation: Any, states: Sequence[State], place: str) -> State:
    contracted, shared = equation.params["dimension_numbers"]
    ndims = [len(v.aval.shape) for v in equation.invars]
    found: list[Along] = []
    for i, state in enumerate(states):
        if not isinstance(state, Along):
            continue
        if state.axis in contracted[i]:
            other = states[1 - i]
            partner = contracted[1 - i][contracted[i].index(state.axis)]
            if other is None or other == state.at(partner):
                return Summed(place)
            return Unknown()
        if state.axis in shared[i]:
            found.append(state.at(shared[i].index(state.axis)))
            continue
        free = [a for a in range(ndims[i]) if a not in contracted[i] and a not in shared[i]]
        before = len(shared[0])
        if i == 1:
            before += ndims[0] - len(contracted[0]) - len(shared[0])
        found.append(state.at(before + free.index(state.axis)))
    if len(set(found)) > 1:
        return Mixed(f"{place}, of examples with examples")
    return found[0]


def _conv(equation: Any, states: Sequence[State], place: str) -> State:
    layout = equation.params["dimension_numbers"]
    plain = equation.params["batch_group_count"] == 1 and states[1] is None
    (x, *_) = states
    if plain and isinstance(x, Along) and x.axis == layout.lhs_spec[0]:
        return x.at(layout.out_spec[0])
    return Unknown()


def _reshape(equation: Any, states: Sequence[State], place: str) -> State:
    (state, *_) = states
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    assert isinstance(state, Along)
    examples = before[state.axis]
    ahead = prod(before[: state.axis])
    for axis, size in enumerate(after):
        if prod(after[:axis]) == ahead and size > 1 and _divides(examples, size):
            return Along(axis)
    return Unknown()


def _divides(a: int, b: int) -> bool:
    return b % a == 0 or a % b == 0


def _gather(equation: Any, states: Sequence[State], place: str) -> State:
    numbers = equation.params["dimension_numbers"]
    table, indices = states
    out = equation.outvars[0].aval
    batch = [axis for axis in range(out.ndim) if axis not in numbers.offset_dims]
    if isinstance(table, Along) and indices is None:
        taken = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        window = [a for a in range(equation.invars[0].aval.ndim) if a not in taken]
        whole = equation.invars[0].aval.shape[table.axis]
        if table.axis in taken or equation.params["slice_sizes"][table.axis] != whole:
            return Unknown()
        return table.at(numbers.offset_dims[window.index(table.axis)])
    if not isinstance(indices, Along) or indices.axis >= len(batch):
        return Unknown()
    if isinstance(table, Along):
        pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
        if (table.axis, indices.axis) not in set(pairs):
            return Unknown()
    return indices.at(batch[indices.axis])


def _scatter(equation: Any, states: Sequence[State], place: str) -> State:
    """Into places along other axes than the examples'."""
    numbers = equation.params["dimension_numbers"]
    into, indices, updates = states
    taken = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [a for a in range(equation.invars[0].aval.ndim) if a not in taken]
    found = {into} if isinstance(into, Along) else set()
    if isinstance(updates, Along):
        if updates.axis not in numbers.update_window_dims:
            return Unknown()
        found.add(updates.at(window[numbers.update_window_dims.index(updates.axis)]))
    if indices is not None or len(found) != 1:
        return Unknown()
    (state,) = found
    chosen = state.axis not in window or state.axis in numbers.scatter_dims_to_operand_dims
    return Unknown() if chosen else state


def _window(equation: Any, states: Sequence[State], place: str) -> State:
    (state, *_) = states
    alone = isinstance(state, Along) and equation.params["window_dimensions"][state.axis] == 1
    return state if alone else Unknown()


def _slice(equation: Any, states: Sequence[State], place: str) -> State:
    (state, *_) = states
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    alone = isinstance(state, Along) and before[state.axis] == after[state.axis]
    return state if alone and all(s is None for s in states[1:]) else Unknown()


def _pad(equation: Any, states: Sequence[State], place: str) -> State:
    state, padding = states
    config = equation.params["padding_config"]
    # as much before as is cut off behind would leave the size, and shift the examples
    alone = isinstance(state, Along) and tuple(config[state.axis]) == (0, 0, 0)
    return state if alone and padding is None else Unknown()


def _stack(equation: Any, states: Sequence[State], place: str) -> State:
    state = _same_axis(states, place)
    if not isinstance(state, Along):
        return state
    return state.at(state.axis + (equation.params["axis"] <= state.axis))


def _unstack(equation: Any, states: Sequence[State], place: str) -> State:
    (state,), axis = states, equation.params["axis"]
    if not isinstance(state, Along) or state.axis == axis:
        return Unknown()
    return state.at(state.axis - (axis < state.axis))


def _tile(equation: Any, states: Sequence[State], place: str) -> State:
    (state,) = states
    alone = isinstance(state, Along) and equation.params["reps"][state.axis] == 1
    return state if alone else Unknown()


def _update_slice(equation: Any, states: Sequence[State], place: str) -> State:
    into, update, *starts = states
    whole, part = (v.aval.shape for v in equation.invars[:2])
    axes = [state.axis for state in (into, update) if isinstance(state, Along)]
    if any(starts) or any(whole[axis] != part[axis] for axis in axes):
        return Unknown()
    return _same_axis([into, update], place)


def _transpose(equation: Any, states: Sequence[State], place: str) -> State:
    (state,) = states
    assert isinstance(state, Along)
    return state.at(equation.params["permutation"].index(state.axis))


def _squeeze(equation: Any, states: Sequence[State], place: str) -> State:
    (state,) = states
    assert isinstance(state, Along)
    gone = equation.params["dimensions"]
    return state.at(state.axis - sum(axis < state.axis for axis in gone))


def _broadcast(equation: Any, states: Sequence[State], place: str) -> State:
    (state, *_) = states
    assert isinstance(state, Along)
    return state.at(equation.params["broadcast_dimensions"][state.axis])


def _concatenate(equation: Any, states: Sequence[State], place: str) -> State:
    joined = equation.params["dimension"]
    if any(isinstance(state, Along) and state.axis == joined for state in states):
        return Unknown()
    return _same_axis(states, place)


def _reversed(equation: Any, states: Sequence[State], place: str) -> State:
    (state,) = states
    turned = isinstance(state, Along) and state.axis in equation.params["dimensions"]
    return Unknown() if turned else state


def _bitcast(equation: Any, states: Sequence[State], place: str) -> State:
    """To a type of another width an axis of parts comes or goes at the end."""
    (state,) = states
    before, after = equation.invars[0].aval.ndim, equation.outvars[0].aval.ndim
    return state if isinstance(state, Along) and state.axis < min(before, after) else Unknown()


OF_ONE_KIND: Mapping[str, Rule] = {
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "dynamic_slice": _slice,
    "dynamic_update_slice": _update_slice,
    "gather": _gather,
    "pad": _pad,
    "reduce_window": _window,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "reshape": _reshape,
    "rev": _reversed,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    **dict.fromkeys(SCATTERING, _scatter),
}
