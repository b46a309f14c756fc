"""Pytrees seen by path: `"blocks/0/attention/query/kernel"`, and rules over such paths.

A rule is a regular expression that is searched for in the whole path (`re.search`), so
`"kernel$"` names every kernel and `"^encoder/"` a whole sub-tree. A rule that touches no leaf is
an error: a freezing or decay rule that silently misses its parameters is a bug that training hides.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from jaxnets.types import Array, PyTree

IsLeaf: TypeAlias = Callable[[Any], bool]


def _entry(key: Any) -> str:
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return str(name)
        case _:
            return str(key)


def path_string(path: tuple[Any, ...]) -> str:
    """A JAX key path as `"blocks/0/kernel"`; the root leaf's path is the empty string."""
    return "/".join(map(_entry, path))


def flatten_with_paths(tree: PyTree) -> dict[str, Any]:
    """The leaves by path, in the tree's own order.

    Raises:
      ValueError: if two leaves have the same path, as in `{"a/b": x, "a": {"b": y}}`.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_string(path)
        if name in leaves:
            raise ValueError(f"two leaves have the path {name!r}; rename a key")
        leaves[name] = leaf
    return leaves


def paths(tree: PyTree) -> PyTree:
    """`tree` with each leaf replaced by its path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_string(path), tree)


def map_with_paths(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function gets the leaf's path first: `function(path, leaf, ...)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def _require_all_used(rules: Mapping[str, Any], used: set[str], tree: PyTree) -> None:
    for pattern in rules:
        if pattern not in used:
            known = ", ".join(map(repr, flatten_with_paths(tree)))
            raise ValueError(
                f"rule {pattern!r} matches no leaf (or only leaves an earlier rule has taken); "
                f"the paths are {known}"
            )


def _search(pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise ValueError(f"rule {pattern!r} is not a regular expression: {error}") from None


def match(pattern: str, tree: PyTree) -> PyTree:
    """`tree` with each leaf replaced by whether `pattern` is found in its path.

    Raises:
      ValueError: if no leaf matches, or `pattern` is not a regular expression.
    """
    mask = map_with_paths(lambda path, _: _search(pattern, path), tree)
    _require_all_used({pattern: None}, {pattern} if any(jax.tree.leaves(mask)) else set(), tree)
    return mask


def apply_rules(rules: Mapping[str, Any], tree: PyTree) -> PyTree:
    """`tree` with each leaf replaced by the value of the first rule found in its path.

    Args:
      rules: regular expression -> value, in order of precedence; `{".*": value}` last for the rest.
      tree: any pytree.

    Raises:
      ValueError: if a leaf is matched by no rule, or a rule decides no leaf.
    """
    used: set[str] = set()

    def first(path: str, _: Any) -> Any:
        for pattern, value in rules.items():
            if _search(pattern, path):
                used.add(pattern)
                return value
        raise ValueError(f"no rule covers leaf {path!r}; the rules are {list(rules)}")

    values = map_with_paths(first, tree)
    _require_all_used(rules, used, tree)
    return values


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return ", ".join(map(repr, paths[:10])) + more


def missing_and_added(missing: Sequence[str], added: Sequence[str]) -> str:
    """`"missing 'a/b', 'c'; added 'd'"`, for errors; of many paths the first ten."""
    parts = (("missing", missing), ("added", added))
    return "; ".join(f"{word} {_some(paths)}" for word, paths in parts if paths)


def _above(path: str) -> list[str]:
    """`path` and those of all nodes above it."""
    entries = path.split("/")
    return ["", *("/".join(entries[: i + 1]) for i in range(len(entries)))]


def _unlike_node(
    prefix: PyTree, tree: PyTree, is_leaf: IsLeaf, path: tuple[Any, ...] = ()
) -> tuple[str, str] | None:
    """The first node that is another in the two trees, as each has it."""
    if is_leaf(prefix) or jax.tree_util.all_leaves([prefix]):
        return None
    flat: list[tuple[Any, Any]] = [
        jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda child, x=x: child is not x)
        for x in (prefix, tree)
    ]
    (below, node), (others, other) = flat
    if node != other:
        names = (f"{path_string(path)} ({type(x).__name__})".lstrip() for x in (prefix, tree))
        return next(names), next(names)
    pairs = zip(below, others, strict=True)
    found = (_unlike_node(a, b, is_leaf, (*path, *key)) for (key, a), (_, b) in pairs)
    return next((pair for pair in found if pair), None)


def unmatched(
    prefix: PyTree, tree: PyTree, is_leaf: IsLeaf = lambda x: False
) -> tuple[list[str], list[str]]:
    """The paths that only one of two trees has, where a leaf of `prefix` may stand for a subtree.

    Args:
      prefix: of the structure of `tree` or a prefix of it, but for the paths returned.
      tree: any pytree.
      is_leaf: what counts as a leaf of either.

    Returns:
      The paths of leaves that only `prefix` has, and those that only `tree` has. If there are none
      of either, the first node whose type differs, with its type: `"layers (list)"`.
    """
    paths, others = (
        [path_string(path) for path, _ in jax.tree_util.tree_leaves_with_path(x, is_leaf)]
        for x in (prefix, tree)
    )
    known, reached = set(paths), {above for path in others for above in _above(path)}
    only = [path for path in paths if path not in reached]
    only_other = [path for path in others if known.isdisjoint(_above(path))]
    if not (only or only_other) and (pair := _unlike_node(prefix, tree, is_leaf)):
        return [pair[0]], [pair[1]]
    return only, only_other


def size(tree: PyTree) -> int:
    """The number of values in all leaves together."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def times(x: Array, scale: Array) -> Array:
    """`x · scale`, computed as such: of its square XLA would make `x² · scale²`, and overflow."""
    scaled: Array = jax.lax.optimization_barrier(x * scale)
    return scaled


def roots_of_squares(sums: Callable[[list[Any]], list[Array]], n: int) -> list[Array]:
    """`√Σ|x|²`, which neither overflows nor underflows while it is itself a normal number.

    Its gradient at 0 is 0. NaN anywhere gives NaN; else infinity anywhere gives infinity.

    Args:
      sums: `[s, ...] -> [Σ|s x|², ...]`, numbers or arrays, in float32 or wider; `s` is None for 1.
      n: how many sums there are.
    """
    totals = sums([None] * n)
    limits = [np.finfo(total.dtype) for total in totals]

    def representable() -> list[Array]:
        return [
            (limit.tiny / limit.eps < total) & (total < jnp.inf)
            for total, limit in zip(totals, limits, strict=True)
        ]

    def rescaled() -> Array:
        # by a power of two, which rounds nothing; 1 where nothing needs it or `vmap` runs this too
        shifts = [2.0 ** (limit.maxexp // 2 + 2) for limit in limits]
        scales = [
            jnp.where(fits, 1, jnp.where(total > 1, 1 / shift, shift)).astype(total.dtype)
            for total, fits, shift in zip(totals, representable(), shifts, strict=True)
        ]
        # the root of 0 has no derivative
        return _end_to_end(
            [
                jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)) / scale)
                for square, scale in zip(sums(scales), scales, strict=True)
            ]
        )

    # a second pass over the leaves costs as much as the first, and is hardly ever needed; one
    # branch for all of them, since after each one XLA waits, and one result, since inside each is
    # a kernel of its own
    fit = sum(jnp.sum(jnp.where(fits, 0.0, 1.0)) for fits in representable()) == 0
    ends = np.cumsum([total.size for total in totals])
    anew = jax.lax.cond(fit, lambda: jnp.zeros_like(_end_to_end(totals)), rescaled)
    parts = jnp.split(anew, ends[:-1])
    return [
        # the branch not taken must have a finite derivative too
        jnp.where(fit, jnp.sqrt(jnp.where(fit, total, 1)), part.reshape(total.shape)).astype(
            total.dtype
        )
        for total, part in zip(totals, parts, strict=True)
    ]


def _end_to_end(xs: list[Array]) -> Array:
    return jnp.concatenate([x.ravel() for x in xs])


def global_norm(tree: PyTree) -> Array:
    """The Euclidean norm `√Σ|x|²` of all leaves taken as one vector.

    Neither overflows nor underflows while the norm itself is a normal number, and its gradient at 0
    is 0. Accumulates in float32 or wider. NaN anywhere gives NaN; else infinity anywhere gives
    infinity.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = jnp.result_type(jnp.float32, *(jnp.real(leaf).dtype for leaf in leaves))

    def sum_of_squares(scales: list[Array | None]) -> list[Array]:
        (scale,) = scales
        total = jnp.zeros((), dtype)
        for leaf in leaves:
            x = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            if scale is not None:
                x = times(x, scale)
            total += jnp.sum(x * x if jnp.isrealobj(x) else (x.conj() * x).real)
        return [total]

    (norm,) = roots_of_squares(sum_of_squares, 1)
    return norm
