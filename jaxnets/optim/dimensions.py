"""Which axes of a parameter are the rows and columns of a matrix."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.optim.calls import by_value
from jaxnets.optim.decay import broadcast
from jaxnets.types import Array, Params, PyTree, Shape


class MuonDimensionNumbers(NamedTuple):
    """The axes that are summed over and those of the outputs; the others count a batch of matrices.

    A kernel `[in, out]` has the default; a stack of them `[layers, in, out]` has `(-2, -1)`; a
    convolution kernel `[height, width, in, out]` has `((0, 1, 2), 3)`.
    """

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


Numbers: TypeAlias = MuonDimensionNumbers | None
"""None for a parameter that is no matrix."""

WeightDimNumOrFn: TypeAlias = Numbers | Mapping[str, Numbers] | PyTree | Callable[[Params], PyTree]
"""Dimension numbers for each parameter: a tree of them (or a prefix of one), a function from the
parameters to such a tree, or path rules: a dict from regular expressions to dimension numbers, in
order of precedence, that must cover every leaf. A dict is a tree where its keys are those of the
parameters."""


def _is_numbers(x: Any) -> bool:
    return x is None or isinstance(x, MuonDimensionNumbers)


def _is_rules(spec: Any, params: Params) -> TypeGuard[Mapping[str, Numbers]]:
    if not isinstance(spec, Mapping) or not all(map(_is_numbers, spec.values())):
        return False
    return not (isinstance(params, Mapping) and set(spec) <= set(params))


def _axes(shape: Shape, numbers: MuonDimensionNumbers, path: str = "") -> tuple[Shape, ...]:
    """The axes of the batch, the rows and the columns."""
    where = f" at {path!r}" if path else ""
    rows, columns = (
        tuple(axis % max(len(shape), 1) for axis in ((axes,) if isinstance(axes, int) else axes))
        for axes in numbers
    )
    if len(shape) < 2:
        raise ValueError(f"muon: a matrix needs two axes at least, got shape {shape}{where}")
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise ValueError(
            f"muon: reduction and output axes must be different ones, got {numbers} "
            f"for shape {shape}{where}"
        )
    batch = tuple(axis for axis in range(len(shape)) if axis not in rows + columns)
    return batch, rows, columns


def numbers_like(spec: WeightDimNumOrFn, params: Params, *, default: Any = None) -> PyTree:
    """`params` with each leaf replaced by its dimension numbers, or None.

    Args:
      spec: see `WeightDimNumOrFn`.
      params: a pytree of arrays; of a part of the parameters only, rules need not all apply.
      default: from a leaf to its numbers, where `spec` is None.

    Raises:
      ValueError: if `spec` does not cover `params` or does not fit a leaf.
    """
    if not jax.tree.leaves(params):
        return params
    if spec is None:
        prefix = jax.tree.map(default, params)
    elif callable(spec):
        prefix = spec(params)
    elif _is_rules(spec, params):
        rules = spec
        prefix = tree.map_with_paths(
            lambda path, _: next((n for rule, n in rules.items() if re.search(rule, path)), None),
            params,
        )
    else:
        prefix = spec
    full = broadcast(prefix, params, "the dimension numbers", _is_numbers)
    tree.map_with_paths(
        lambda path, p, n: None if n is None else _axes(jnp.shape(p), n, path), params, full
    )
    return full


def require_covered(spec: WeightDimNumOrFn, params: Params) -> None:
    """Raise `ValueError` if path rules leave out a leaf, or one of them decides none."""
    if _is_rules(spec, params) and jax.tree.leaves(params):
        tree.apply_rules(spec, params)


def numbers_of_all(spec: WeightDimNumOrFn, params: Params) -> PyTree:
    """The dimension numbers of parameters that are all matrices."""
    return numbers_like(spec, params, default=lambda _: MuonDimensionNumbers())


def require_matrices(spec: WeightDimNumOrFn, params: Params) -> None:
    """Raise `ValueError` unless all are."""

    def require(path: Any, p: Any, numbers: MuonDimensionNumbers | None) -> None:
        if numbers is None or (spec is None and jnp.ndim(p) != 2):
            raise ValueError(
                f"muon: {tree.path_string(path)!r} of shape {jnp.shape(p)} is no matrix; "
                "give it dimension numbers, or leave it to another optimizer"
            )

    jax.tree_util.tree_map_with_path(require, params, numbers_of_all(spec, params))


def _matrix(p: Any) -> MuonDimensionNumbers | None:
    return MuonDimensionNumbers() if jnp.ndim(p) == 2 else None


@by_value
def numbers_of_chosen(spec: WeightDimNumOrFn) -> Callable[[Params], PyTree]:
    """From the parameters that are Muon's to their dimension numbers."""
    return lambda params: numbers_like(spec, params, default=_matrix)


@by_value
def labels_of(spec: WeightDimNumOrFn) -> Callable[[Params], PyTree]:
    """From the parameters to whose they are."""

    def labels(params: Params) -> PyTree:
        require_covered(spec, params)
        return jax.tree.map(
            lambda _, numbers: "adam" if numbers is None else "muon",
            params,
            numbers_like(spec, params, default=_matrix),
        )

    return labels


def fans(shape: Shape, numbers: MuonDimensionNumbers) -> tuple[int, int]:
    """The numbers of rows (inputs) and columns (outputs)."""
    _, rows, columns = _axes(shape, numbers)
    return math.prod(shape[i] for i in rows), math.prod(shape[i] for i in columns)


def as_matrices(x: Array, numbers: MuonDimensionNumbers) -> tuple[Array, Callable[[Array], Array]]:
    """`x` as a batch `[matrices, rows, columns]`, and the function back to its own shape."""
    batch, rows, columns = _axes(x.shape, numbers)
    order = batch + rows + columns
    moved = x.transpose(order)
    sizes = [math.prod(x.shape[i] for i in axes) for axes in (batch, rows, columns)]

    def back(y: Array) -> Array:
        return y.reshape(moved.shape).transpose(sorted(range(x.ndim), key=lambda i: order[i]))

    return moved.reshape(sizes), back
