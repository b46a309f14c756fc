"""An elementwise optimizer is one equation for one leaf; here it is carried over whole trees.

The rules that all of them share are kept in this one place:

- Arithmetic is done in float32 at least. In float16, `√v + ε` underflows to 0; in bfloat16, `b2`
  rounds to 1; so hyper-parameters never meet a half-precision array.
- Moments keep the dtype they were made with, so that a state can be the carry of a `scan`.
- Updates leave in the dtype of the gradients, or of the parameters where that is wider.
- A gradient of None is no gradient: it passes as None and its moments stay as they are.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.optim.transform import Updates
from jaxnets.tree import missing_and_added, path_string, roots_of_squares, times, unmatched
from jaxnets.types import Array, DTypeLike, Params, PyTree

Axis: TypeAlias = int | tuple[int, ...] | None


def _at_least_float32(dtype: DTypeLike) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _real(dtype: DTypeLike) -> Any:
    return jnp.finfo(dtype).dtype  # type: ignore[no-untyped-call]


def widened(x: Any) -> Array:
    """`x` in float32 at least."""
    return jnp.asarray(x, _at_least_float32(jnp.result_type(x)))


def _update_dtype(g: Any, p: Any) -> Any:
    dtype = jnp.result_type(g, p)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else _at_least_float32(dtype)


def is_none(x: Any) -> bool:
    """For `is_leaf`: that None is a leaf."""
    return x is None


def require_inexact_leaves(what: str, tree: PyTree) -> None:
    """Raise `ValueError` naming the first leaf of integers; Python's numbers count as floats."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        known = jax.typeof(leaf)
        if not (jnp.issubdtype(known.dtype, jnp.inexact) or known.weak_type):
            raise ValueError(
                f"{what} must be of a floating or complex dtype, got {known.dtype} at "
                f"{path_string(path)!r}; keep what is not trained out of the tree, see partition"
            )


def moments_like(
    params: Params, value: Any = 0.0, *, dtype: DTypeLike | None = None, real: bool = False
) -> PyTree:
    """A tree of moments like `params`, filled with `value`.

    Args:
      params: a pytree of arrays.
      value: the initial value, a scalar.
      dtype: of the moments; by default that of each parameter, at least float32.
      real: whether moments of complex parameters are real, as those of `|g|²` are.

    Raises:
      ValueError: if `dtype` would drop the imaginary parts of moments, or a parameter is of an
        integer dtype.
    """
    require_inexact_leaves("parameters", params)

    def moment(p: Any) -> Array:
        own = dtype or _at_least_float32(jnp.result_type(p))
        if jnp.iscomplexobj(p) and not real and not jnp.issubdtype(own, jnp.complexfloating):
            raise ValueError(
                f"moments of {jnp.result_type(p)} parameters cannot be stored in {jnp.dtype(own)}"
            )
        # `full_like` rather than `full`: a moment is sharded as its parameter
        if real:
            own = _real(own)
        return jnp.full_like(p, value, dtype=own)

    return jax.tree.map(moment, params)


def copy_of(params: Params, dtype: DTypeLike | None = None) -> PyTree:
    """A copy of the parameters to keep in a state: in `dtype`, by default theirs, float32 at least.

    A copy, since state and parameters may both be donated.

    Raises:
      ValueError: if a parameter is of an integer dtype.
    """
    require_inexact_leaves("parameters", params)
    return jax.tree.map(
        lambda p: jnp.array(p, dtype or _at_least_float32(jnp.result_type(p))), params
    )


def scalar_dtype(params: Params) -> Any:
    """The dtype of numbers about all parameters at once: the narrowest one's, float32 at least."""
    dtypes = [_real(_at_least_float32(jnp.result_type(p))) for p in jax.tree.leaves(params)]
    return min(dtypes, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))


def require_params(function: str, params: Params | None) -> None:
    """Raise `ValueError` where an `update` that needs the parameters gets none."""
    if params is None:
        raise ValueError(f"{function}: needs the parameters; call update(gradients, state, params)")


def _flatten(updates: Updates) -> tuple[list[Any], Any]:
    leaves, structure = jax.tree.flatten(updates, is_leaf=is_none)
    return leaves, structure


def require_real_leaves(function: str, params: Params) -> None:
    """Raise `ValueError` naming the first complex leaf, for optimizers that go by signs."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{function}: parameters must be real, got {jnp.result_type(leaf)} "
                f"at {path_string(path)!r}"
            )


def _flatten_up_to(updates: Updates, other: PyTree, what: str) -> list[Any]:
    """The subtrees of `other` that stand where `updates` has its leaves."""
    _, structure = _flatten(updates)
    try:
        subtrees: list[Any] = structure.flatten_up_to(other)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"updates and {what} must be trees of the same structure; in {what}: "
            f"{missing_and_added(*unmatched(updates, other, is_none))}"
        ) from error
    return subtrees


def _flatten_like(updates: Updates, other: PyTree, what: str) -> list[Any]:
    """The leaves of `other` in the order of those of `updates`, which it must match."""
    gradients, _ = _flatten(updates)
    leaves = _flatten_up_to(updates, other, what)

    def shape(leaf: Any) -> Any:
        return jnp.shape(leaf) if jax.tree_util.all_leaves([leaf]) else _flatten(leaf)[1]

    for i, (g, leaf) in enumerate(zip(gradients, leaves, strict=True)):
        if g is not None and jnp.shape(g) != shape(leaf):
            path = path_string(jax.tree_util.tree_leaves_with_path(updates, is_none)[i][0])
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
    reads_params: bool = False,
    statistics: tuple[PyTree, ...] = (),
    static: tuple[PyTree, ...] = (),
) -> tuple[PyTree, ...]:
    """Run the equation of one leaf, `step(g, *moments) -> (update, *new_moments)`, over trees.

    Args:
      step: gets the gradient and its moments in float32 at least; then its statistics, and what is
        static; returns the update, the new moments and the new statistics.
      updates: the gradients.
      moments: trees of the same structure.
      params: for the dtypes of the updates, and for `step` where it reads them.
      reads_params: whether `step` gets the parameter too, after the gradient.
      statistics: trees that hold a tree of arrays, of any shapes, in the place of each gradient.
      static: trees that hold anything in the place of each gradient; handed to `step` as it is.

    Returns:
      The tree of updates and one tree for each of `moments` and `statistics`.

    Raises:
      ValueError: if the trees, or the shapes of two leaves, do not match.
    """
    require_inexact_leaves("gradients", updates)
    gradients, structure = _flatten(updates)
    references = gradients if params is None else _flatten_like(updates, params, "params")
    what = "the optimizer's state"
    columns = [_flatten_like(updates, tree, what) for tree in moments]
    columns += [_flatten_up_to(updates, tree, what) for tree in statistics]
    settings = [structure.flatten_up_to(tree) for tree in static]

    def run(g: Any, reference: Any, leaves: Any, constants: Any) -> tuple[Any, ...]:
        if g is None:
            return (None, *leaves)
        read = (g, reference) if reads_params else (g,)
        update, *new = step(*jax.tree.map(widened, (*read, *leaves)), *constants)
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
    require_inexact_leaves("gradients", updates)
    gradients, structure = _flatten(updates)
    columns = [_flatten_like(updates, params, "params")]
    columns += [structure.flatten_up_to(tree) for tree in trees]

    def run(g: Any, p: Any, *leaves: Any) -> Any:
        if g is None:
            return None
        return step(widened(g), widened(p), *leaves).astype(_update_dtype(g, p))

    mapped: Updates = structure.unflatten(
        [run(*row) for row in zip(gradients, *columns, strict=True)]
    )
    return mapped


def map_updates(step: Callable[[Array], Any], updates: Updates) -> Updates:
    """`step(g)` for each gradient; see `map_moments`."""
    (mapped,) = map_moments(lambda g: (step(g),), updates)
    return mapped


def with_zeros(updates: Updates, params: Params) -> Updates:
    """The gradients in float32 at least, zeros where there is none; in a tree like `params`."""
    gradients, structure = _flatten(updates)
    columns = zip(gradients, _flatten_like(updates, params, "params"), strict=True)
    filled: Updates = structure.unflatten(
        [moments_like(p) if g is None else widened(g) for g, p in columns]
    )
    return filled


def moved_from(start: PyTree, params: Params) -> PyTree:
    """`start - params`, in float32 at least."""
    now, structure = _flatten(params)
    starts = _flatten_like(params, start, "the optimizer's state")
    moved: PyTree = structure.unflatten(
        [None if p is None else p0 - widened(p) for p0, p in zip(starts, now, strict=True)]
    )
    return moved


def dot(a: PyTree, b: PyTree) -> Array:
    """`Re Σ ā b` over all leaves, in float32 at least; leaves that are None on the left count 0."""
    lefts, structure = _flatten(a)
    total = jnp.zeros((), jnp.float32)
    for x, y in zip(lefts, structure.flatten_up_to(b), strict=True):
        if x is not None:
            # no matrix product: those of accelerators round their factors
            total = total + jnp.sum((widened(x).conj() * widened(y)).real)
    return total


def abs_sq(x: Array) -> Array:
    """`|x|²`, real also for complex `x`."""
    return x**2 if jnp.isrealobj(x) else (x.conj() * x).real


def norms(tree: PyTree, axis: Callable[[Array], Axis]) -> PyTree:
    """The Euclidean norm `√Σ|x|²` of each leaf over `axis(x)` (which stays, with size 1).

    In float32 at least; neither overflows nor underflows while the norm itself is a normal number,
    and its gradient at 0 is 0. A leaf of None has none.
    """
    leaves, structure = jax.tree.flatten(tree)
    xs = [widened(leaf) for leaf in leaves]

    def sums(scales: list[Any]) -> list[Array]:
        scaled = [x if s is None else times(x, s) for x, s in zip(xs, scales, strict=True)]
        return [jnp.sum(abs_sq(x), axis(x), keepdims=True) for x in scaled]

    return jax.tree.unflatten(structure, roots_of_squares(sums, len(xs)) if xs else [])


def norm(x: Array) -> Array:
    """The Euclidean norm of all of `x`, see `norms`."""
    root: Array = jnp.squeeze(norms(x, lambda x: None))
    return root


def rms(x: Array) -> Array:
    """The root mean square of all of `x`, see `norm`; 0 where `x` is empty."""
    mean: Array = norm(x) / max(x.size, 1) ** 0.5
    return mean


def leaves_like(updates: Updates, other: PyTree, what: str) -> tuple[list[Any], list[Any], Any]:
    """The leaves of `updates`, None among them, those of `other` beside them, and the structure.

    Raises:
      ValueError: if the trees, or the shapes of two leaves, do not match.
    """
    leaves, structure = _flatten(updates)
    return leaves, _flatten_like(updates, other, what), structure
