"""Values that no example enters: made of parameters and constants alone, and kept as a graph.

`kernel.T`, `kernel / norm(kernel)` or a slice of a stack are such values. They stay unevaluated, so
that where one meets an example it is known which parameters it is made of, and how.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxnets.equations import bind
from jaxnets.types import Array

Key: TypeAlias = Hashable


@dataclass(frozen=True, eq=False)
class Input:
    """A parameter (if `trained`) or a constant, or of either the slice that a loop's body sees."""

    key: Key
    aval: Any
    trained: bool


@dataclass(frozen=True, eq=False)
class Fixed:
    """A number written into the program, or a constant of a program inside it."""

    value: Any
    printed: bool = True
    """Whether the text of the program shows it."""
    trained: bool = False


@dataclass(frozen=True, eq=False)
class Computed:
    """One result of an equation whose inputs are such values too."""

    equation: Any
    inputs: tuple["Node", ...]
    output: int
    trained: bool


Node: TypeAlias = Input | Fixed | Computed


def compute(equation: Any, inputs: Sequence[Node]) -> list[Node]:
    """The results of an equation, unevaluated."""
    trained = any(node.trained for node in inputs)
    return [Computed(equation, tuple(inputs), i, trained) for i in range(len(equation.outvars))]


def trained_inputs(nodes: Sequence[Node]) -> dict[Key, Input]:
    """The parameters that values are made of, in the order of their first use."""
    return {key: node for key, node in inputs_of(nodes).items() if node.trained}


def inputs_of(nodes: Sequence[Node]) -> dict[Key, Input]:
    """The parameters and constants that values are made of, in the order of their first use."""
    found: dict[Key, Input] = {}
    seen: set[int] = set()
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Input):
            found[node.key] = node
        elif isinstance(node, Computed):
            waiting.extend(reversed(node.inputs))
    return found


def all_nodes(nodes: Sequence[Node]) -> list[Node]:
    """These, and all that they are made of, each once."""
    found: dict[int, Node] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting.extend(node.inputs if isinstance(node, Computed) else ())
    return list(found.values())


def evaluate(node: Node, values: Mapping[Key, Array], memo: dict[Any, Any]) -> Any:
    """The value of a node, where the inputs have `values`; equations are computed once a memo."""
    if isinstance(node, Fixed):
        return node.value
    if isinstance(node, Input):
        return values[node.key]
    call = (id(node.equation), *map(id, node.inputs))
    if call not in memo:
        memo[call] = bind(node.equation, [evaluate(i, values, memo) for i in node.inputs])
    return memo[call][node.output]


def narrow(node: Node, value: Any) -> Any:
    """`value`, which is the node's, with length 1 along axes that it was spread along."""
    spread = _spread(node)
    return value[tuple(slice(0, 1) if i in spread else slice(None) for i in range(jnp.ndim(value)))]


def _spread(node: Node) -> set[int]:
    if not isinstance(node, Computed) or len(node.inputs) != 1:
        return set()
    before, (operand,) = _spread(node.inputs[0]), node.equation.invars
    name, shape = node.equation.primitive.name, node.equation.outvars[0].aval.shape
    if name == "broadcast_in_dim":
        kept = node.equation.params["broadcast_dimensions"]
        own = {i for i, n in zip(kept, operand.aval.shape, strict=True) if n == shape[i]}
        return set(range(len(shape))) - own | {kept[i] for i in before}
    return before if name in _REARRANGING and shape == operand.aval.shape else set()


# their results have the elements of their operand, in another order or shape or dtype
_REARRANGING = {"convert_element_type", "copy", "copy_p", "expand_dims", "reshape", "squeeze",
                "stored"}  # fmt: skip


Part: TypeAlias = tuple[tuple[int, int], ...]
"""From where to where along each axis of a parameter."""


class Rearranged(NamedTuple):
    """A parameter of which a value has each element once: its gradient's norm is the same."""

    input: Input
    axes: tuple[int, ...] | None
    """For each axis of the value the parameter's; None where they do not correspond."""
    part: Part | None
    """Which of the parameter's elements the value has; None for all."""


def rearranged(node: Node) -> Rearranged | None:
    """The parameter that a value is a rearrangement of; None if it is anything else."""
    if isinstance(node, Input):
        return Rearranged(node, tuple(range(node.aval.ndim)), None) if node.trained else None
    if not isinstance(node, Computed) or len(node.inputs) != 1:
        return None
    before = rearranged(node.inputs[0])
    if before is None:
        return None
    (operand,), result = node.equation.invars, node.equation.outvars[node.output]
    name = node.equation.primitive.name
    if cut := _cut(node):
        if before.axes != tuple(range(len(cut))):
            return None
        starts = [start for start, _ in before.part or [(0, 0)] * len(cut)]
        part = tuple((s + a, s + b) for s, (a, b) in zip(starts, cut, strict=True))
        return before._replace(part=part)
    if len(node.equation.outvars) != 1:
        return None
    if name == "transpose":
        order = node.equation.params["permutation"]
        return before._replace(axes=before.axes and tuple(before.axes[i] for i in order))
    # of a real parameter as complex numbers the gradient is the real part alone
    if jnp.iscomplexobj(result.aval) != jnp.iscomplexobj(operand.aval):
        return None
    same_shape = result.aval.shape == operand.aval.shape
    same_size = math.prod(result.aval.shape) == math.prod(operand.aval.shape)
    if name in _REARRANGING or (name == "broadcast_in_dim" and same_size):
        return before if same_shape else before._replace(axes=None)
    return None


def _cut(node: Computed) -> Part | None:
    """Where a slice without gaps lies in its operand; None for other equations."""
    equation = node.equation
    (operand,) = equation.invars
    if equation.primitive.name == "slice" and set(equation.params["strides"] or ()) <= {1}:
        limits = equation.params["start_indices"], equation.params["limit_indices"]
        return tuple(zip(*limits, strict=True))
    if equation.primitive.name == "split":
        sizes, axis = equation.params["sizes"], equation.params["axis"]
        start = int(sum(sizes[: node.output]))
        whole = [(0, n) for n in operand.aval.shape]
        whole[axis] = (start, start + int(sizes[node.output]))
        return tuple(whole)
    return None


def apart(parts: Sequence[Part | None]) -> bool:
    """Whether no two of them have an element in common."""

    def meet(a: Part | None, b: Part | None) -> bool:
        if a is None or b is None:
            return True
        return all(x[0] < y[1] and y[0] < x[1] for x, y in zip(a, b, strict=True))

    return not any(meet(a, b) for i, a in enumerate(parts) for b in parts[:i])


def put_back(node: Node, value: Any) -> Any:
    """`value`, shaped as a rearranged parameter, in the shape of the parameter itself.

    Where it is a part of it, with zeros around.
    """
    while isinstance(node, Computed):
        (operand,) = node.equation.invars
        if node.equation.primitive.name == "transpose":
            order = node.equation.params["permutation"]
            value = value.transpose([order.index(i) for i in range(len(order))])
        if cut := _cut(node):
            sizes = zip(cut, operand.aval.shape, strict=True)
            value = jnp.pad(value, [(start, n - stop) for (start, stop), n in sizes])
        value = value.reshape(operand.aval.shape)
        (node,) = node.inputs
    return value


def body_of(equation: Any) -> ClosedJaxpr | None:
    """The program inside a call, such as that of `jit` or `checkpoint`."""
    inside = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if inside is None or isinstance(inside, ClosedJaxpr):
        return inside
    return ClosedJaxpr(inside, ())
