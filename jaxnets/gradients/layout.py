"""How a layer's kernel and bias are laid out as the matrices of its outer products."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jaxnets.gradients.graph import Computed, Fixed, Input, Node
from jaxnets.gradients.outer import matrices_of, signals_of
from jaxnets.gradients.plans import Used
from jaxnets.gradients.uses import before
from jaxnets.types import Array, Shape

Numbers: TypeAlias = NDArray[np.int64]
"""Of a parameter's elements, in some arrangement."""


@dataclass(frozen=True)
class Layout:
    """A parameter's elements as `[n, d, k]`: reshaped, transposed and reshaped."""

    apart: Shape
    order: tuple[int, ...]
    matrix: Shape

    def to_matrix(self, parameter: Array) -> Array:
        """`[n, d, k]` from the parameter's shape."""
        return parameter.reshape(self.apart).transpose(self.order).reshape(self.matrix)

    def from_matrix(self, matrix: Array, shape: Shape) -> Array:
        """The parameter's shape from `[n, d, k]`."""
        moved = [self.apart[i] for i in self.order]
        return matrix.reshape(moved).transpose(np.argsort(self.order)).reshape(shape)


def layout_from(numbers: Numbers) -> Layout | None:
    """The layout in which a parameter's elements have these numbers `[n, d, k]`, if any."""
    flat, size = numbers.ravel(), numbers.size
    lengths: list[int] = []
    strides: list[int] = []
    inner = 1
    while inner < size:
        # as many steps of one stride as there are
        stride, length = int(flat[inner]), 1
        while length * inner < size and flat[length * inner] == length * stride:
            length += 1
        if length == 1 or size % (inner * length):
            return None
        lengths, strides, inner = [length, *lengths], [stride, *strides], inner * length
    by_stride = sorted(range(len(strides)), key=lambda i: -strides[i])
    apart = tuple(lengths[i] for i in by_stride)
    order = tuple(by_stride.index(i) for i in range(len(lengths)))
    found = Layout(apart, order, numbers.shape)
    right = np.arange(size).reshape(apart).transpose(order).ravel()
    return found if np.array_equal(right, flat) else None


def layout_of(found: Sequence[Used]) -> Layout | None:
    """Of a parameter all of whose uses are the same matrices in products; else None."""
    if not found:
        return None
    same: list[Numbers] = []
    for used in found:
        if used.use.site.kind not in ("dot", "conv") or used.seen is None or used.seen.part:
            return None
        site = used.use.site
        operand = site.operands[site.operand]
        numbers = _numbers(operand, used, lambda x, site=site: matrices_of(site, x))
        if numbers is None:
            return None
        same.append(numbers)
    if any(x.shape != same[0].shape or not np.array_equal(x, same[0]) for x in same[1:]):
        return None
    return layout_from(same[0])


def bias_of(found: Sequence[Used], products: Sequence[Used], layout: Layout) -> bool:
    """Whether a parameter is added to the results of a kernel's products, each output its own."""
    places = {used.use.site.place: used for used in products}
    if [used.use.site.after in places for used in found] != [True] * len(places):
        return False
    added = [(used, places.pop(used.use.site.after, None)) for used in found]  # type: ignore[arg-type]
    return all(
        product is not None and _each_its_own(sum_, product, layout) for sum_, product in added
    )


def _each_its_own(added: Used, product: Used, layout: Layout) -> bool:
    """Whether what one use adds to one product's results are `[n, k]` numbers, at all positions."""
    site = added.use.site
    (operand,) = (x for x in site.operands if x is not None)
    if added.use.loops != product.use.loops or product.seen is None:
        return False

    def inside(x: Numbers) -> Numbers:
        everywhere = np.broadcast_to(x, site.equation.outvars[0].aval.shape)
        signals: Numbers = signals_of(product.use.site, everywhere)
        return signals

    numbers = _numbers(operand, added, inside)
    if numbers is None or _stacked(operand, added) != product.seen.stacked:
        return False
    n, _, k = layout.matrix
    outputs = np.arange(n * k).reshape(n, 1, k)
    return numbers.shape[::2] == (n, k) and bool(np.all(numbers == outputs))


def _chain(operand: Node, used: Used) -> list[Node] | None:
    """What a parameter is in the body of the innermost loop, in that around it, …, outside."""
    nodes, node = [operand], operand
    for loop in reversed(used.use.loops):
        source = _source(node)
        if source is None:
            return None
        node = before(source.key, loop)
        nodes.append(node)
    return nodes


def _stacked(operand: Node, used: Used) -> tuple[bool, ...] | None:
    """For each loop, whether its turns have elements of their own."""
    nodes = _chain(operand, used)
    if nodes is None:
        return None
    keys = [source and source.key for source in map(_source, nodes[:-1])]
    pairs = zip(reversed(keys), used.use.loops, strict=True)
    return tuple(key in loop.sliced for key, loop in pairs)


def _source(node: Node) -> Input | None:
    """What a node is a rearrangement of, broadcast at most."""
    while isinstance(node, Computed):
        if len(node.inputs) != 1 or node.equation.primitive.name not in _REARRANGE:
            return None
        (node,) = node.inputs
    return None if isinstance(node, Fixed) else node


def _numbers(operand: Any, used: Used, inside: Any) -> Numbers | None:
    """The numbers of a parameter's elements as a site sees them, those of all turns together."""
    nodes = _chain(operand, used)
    stacked = _stacked(operand, used)
    if nodes is None or stacked is None:
        return None
    source = _source(nodes[-1])
    if source is None or not source.trained:
        return None

    def within(depth: int, x: Numbers) -> Numbers:
        x = _rearrange(nodes[len(nodes) - 1 - depth], x)
        if depth == len(nodes) - 1:
            return np.asarray(inside(x))
        if not stacked[depth]:
            return within(depth + 1, x)
        return np.concatenate([within(depth + 1, turn) for turn in x])

    size = math.prod(source.aval.shape)
    return within(0, np.arange(size).reshape(source.aval.shape))


def _rearrange(node: Node, x: Numbers) -> Numbers:
    if not isinstance(node, Computed):
        return x
    (inner,) = node.inputs
    x = _rearrange(inner, x)
    equation = node.equation
    rearranged: Numbers = _REARRANGE[equation.primitive.name](
        x, equation.outvars[0].aval.shape, equation.params
    )
    return rearranged


def _broadcast(x: Numbers, shape: Shape, params: Any) -> Numbers:
    axes = params["broadcast_dimensions"]
    lined_up = [x.shape[axes.index(i)] if i in axes else 1 for i in range(len(shape))]
    return np.broadcast_to(x.reshape(lined_up), shape)


def _same(x: Numbers, shape: Shape, params: Any) -> Numbers:
    return x.reshape(shape)


_REARRANGE: dict[str, Any] = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _same,
    "copy": _same,
    "copy_p": _same,
    "expand_dims": _same,
    "reshape": _same,
    "squeeze": _same,
    "stored": _same,
    "transpose": lambda x, shape, params: x.transpose(params["permutation"]),
}
