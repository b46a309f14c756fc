"""An elementwise optimizer is one equation for one leaf; here it is carried over whole trees.

The rules that all of them share are kept in this one place:

- Arithmetic is done in float32 at least. In float16, `√v + ε` underflows to 0; in bfloat16, `b2`
  rounds to 1; so hyper-parameters never meet a half-precision array.
- Moments keep the dtype they were made with, so that a state can be the carry of a `scan`.
- Updates leave in the dtype of the gradients, or of the parameters where that is wider.
- A gradient of None is no gradient: it passes as None and its moments stay as they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.optim.transform import Updates
from jaxnets.tree import path_string
from jaxnets.types import Array, DTypeLike, Params, PyTree


def _at_least_float32(dtype: DTypeLike) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _widened(x: Any) -> Array:
    return jnp.asarray(x, _at_least_float32(jnp.result_type(x)))


def _update_dtype(g: Any, p: Any) -> Any:
    dtype = jnp.result_type(g, p)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else _at_least_float32(dtype)


def _is_none(x: Any) -> bool:
    return x is None


def moments_like(
    params: Params, value: Any = 0.0, *, dtype: DTypeLike | None = None, real: bool = False
) -> PyTree:
    """A tree of moments like `params`, filled with `value`.

    Args:
      params: a pytree of arrays.
      value: the initial value, a scalar.
      dtype: of the moments; by default that of each parameter, at least float32.
      real: whether moments of complex parameters are real, as those of `|g|²` are.
    """

    def moment(p: Any) -> Array:
        own = dtype or _at_least_float32(jnp.result_type(p))
        # `full_like` rather than `full`: a moment is sharded as its parameter
        if real:
            own = jnp.finfo(own).dtype  # type: ignore[no-untyped-call]
        return jnp.full_like(p, value, dtype=own)

    return jax.tree.map(moment, params)


def _flatten(updates: Updates) -> tuple[list[Any], Any]:
    leaves, structure = jax.tree.flatten(updates, is_leaf=_is_none)
    return leaves, structure


def _flatten_up_to(updates: Updates, other: PyTree, what: str) -> list[Any]:
    """What `other` holds at each leaf of `updates`, a leaf itself or a tree."""
    structure = _flatten(updates)[1]
    try:
        subtrees: list[Any] = structure.flatten_up_to(other)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"updates and {what} must be trees of the same structure, "
            f"got {structure} and {_flatten(other)[1]}"
        ) from error
    return subtrees


def _flatten_like(updates: Updates, other: PyTree, what: str) -> list[Any]:
    """The leaves of `other` in the order of those of `updates`, which it must match."""
    gradients = _flatten(updates)[0]
    leaves = _flatten_up_to(updates, other, what)

    def shape(leaf: Any) -> Any:
        return jnp.shape(leaf) if jax.tree_util.all_leaves([leaf]) else _flatten(leaf)[1]

    for i, (g, leaf) in enumerate(zip(gradients, leaves, strict=True)):
        if g is not None and jnp.shape(g) != shape(leaf):
            path = path_string(jax.tree_util.tree_leaves_with_path(updates, _is_none)[i][0])
            raise ValueError(
                f"updates and {what} must have leaves of the same shapes, "
                f"got {jnp.shape(g)} and {shape(leaf)} at {path!r}"
            )
    return leaves


def map_moments(
    step: Callable[..., tuple[Any, ...]],
    updates: Updates,
    *moments: PyTree,
    params: Params | None = None,
    factors: tuple[PyTree, ...] = (),
    static: tuple[PyTree, ...] = (),
) -> tuple[PyTree, ...]:
    """Run the equation of one leaf, `step(g, *moments) -> (update, *new_moments)`, over trees.

    Args:
      step: gets the gradient and its moments in float32 at least; then its factors and what is
        static, as `step(g, *moments, *factors, *static) -> (update, *new_moments, *new_factors)`.
      updates: the gradients.
      moments: trees of the same structure.
      params: for the dtypes of the updates only.
      factors: trees that hold a tree of arrays, of any shapes, in the place of each gradient.
      static: trees that hold anything in the place of each gradient; handed to `step` as it is.

    Returns:
      The tree of updates and one tree for each of `moments` and `factors`.

    Raises:
      ValueError: if the trees, or the shapes of two leaves, do not match.
    """
    gradients, structure = _flatten(updates)
    columns = [_flatten_like(updates, tree, "the optimizer's state") for tree in moments]
    references = gradients if params is None else _flatten_like(updates, params, "params")
    columns += [_flatten_up_to(updates, tree, "the optimizer's state") for tree in factors]
    settings = [structure.flatten_up_to(tree) for tree in static]

    def run(g: Any, reference: Any, leaves: Any, constants: Any) -> tuple[Any, ...]:
        if g is None:
            return (None, *leaves)
        update, *new = step(*jax.tree.map(_widened, (g, *leaves)), *constants)
        stored = jax.tree.map(lambda leaf, x: x.astype(leaf.dtype), tuple(leaves), tuple(new))
        return (update.astype(_update_dtype(g, reference)), *stored)

    rows = [
        run(g, reference, [column[i] for column in columns], [column[i] for column in settings])
        for i, (g, reference) in enumerate(zip(gradients, references, strict=True))
    ]
    return tuple(structure.unflatten([row[i] for row in rows]) for i in range(1 + len(columns)))


def map_with_params(
    step: Callable[..., Array], updates: Updates, params: Params, *trees: PyTree
) -> Updates:
    """`step(g, p, *leaves)` for each gradient and parameter; see `map_moments`.

    Args:
      step: gets gradient and parameter in float32 at least, and the other leaves as they are.
      updates: the gradients.
      params: a tree of the same structure.
      trees: further trees of the same structure.
    """
    gradients, structure = _flatten(updates)
    columns = [_flatten_like(updates, params, "params")]
    columns += [structure.flatten_up_to(tree) for tree in trees]

    def run(g: Any, p: Any, *leaves: Any) -> Any:
        if g is None:
            return None
        return step(_widened(g), _widened(p), *leaves).astype(_update_dtype(g, p))

    mapped: Updates = structure.unflatten(
        [run(*row) for row in zip(gradients, *columns, strict=True)]
    )
    return mapped


def map_updates(step: Callable[[Array], Any], updates: Updates) -> Updates:
    """`step(g)` for each gradient; see `map_moments`."""
    (mapped,) = map_moments(lambda g: (step(g),), updates)
    return mapped


def abs_sq(x: Array) -> Array:
    """`|x|²`, real also for complex `x`."""
    return x**2 if jnp.isrealobj(x) else (x.conj() * x).real
