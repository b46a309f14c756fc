"""Decoupled weight decay."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxnets import tree
from jaxnets.optim.hyper import NON_NEGATIVE, Hyper, transformation
from jaxnets.optim.leaves import is_none, map_with_params
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    State,
    Updates,
)
from jaxnets.types import Array, Params, PyTree

Mask: TypeAlias = str | PyTree | Callable[[Params], PyTree]
"""A rule over paths (see `jaxnets.tree`), a tree of bools like the parameters or a prefix of it, or
a function from parameters to such a tree."""


def is_function(mask: Any) -> bool:
    """Whether `mask` is a function, and not a tree that happens to be callable, as a module is."""
    leaves = jax.tree.leaves(mask)
    return callable(mask) and bool(leaves) and all(map(callable, leaves))


def mask_prefix(mask: Mask, params: Params) -> PyTree:
    """The tree of bools, or the prefix of one, that `mask` says.

    Raises:
      ValueError: if a rule matches no leaf, or a tree is no prefix of `params` or not of bools.
    """
    if not jax.tree.leaves(params):
        # nothing to match where an outer mask has taken all leaves away
        return params
    if isinstance(mask, str):
        return tree.match(mask, params)
    prefix = mask(params) if is_function(mask) else mask
    broadcast(prefix, params, "a mask")
    _require_bools(prefix, params)
    return prefix


def _require_bools(prefix: PyTree, params: Params) -> None:
    def check(path: tuple[Any, ...], choice: Any, subtree: PyTree) -> None:
        if choice is None and not jax.tree.leaves(subtree):
            return
        if choice is None or isinstance(choice, str) or np.ndim(choice) != 0:
            raise ValueError(
                f"a mask must be of bools, got {choice!r} at {tree.path_string(path)!r}; "
                "a rule over paths is one string for all parameters"
            )

    jax.tree_util.tree_map_with_path(check, prefix, params, is_leaf=lambda x: x is None)


def broadcast(
    prefix: PyTree, params: Params, what: str, is_leaf: Callable[[Any], bool] = is_none
) -> PyTree:
    """`params` with each leaf replaced by that of `prefix` above it.

    Args:
      prefix: a tree of the parameters' structure or a prefix of it.
      params: the parameters.
      what: the name of `prefix` in errors.
      is_leaf: what is a leaf of `prefix`.

    Raises:
      ValueError: if it is none.
    """
    try:
        return jax.tree.map(
            lambda value, subtree: jax.tree.map(lambda _: value, subtree),
            prefix,
            params,
            is_leaf=is_leaf,
        )
    except ValueError as error:
        added, missing = tree.unmatched(prefix, params, is_leaf)
        raise ValueError(
            f"{what} must be a tree of the parameters' structure or a prefix of it; "
            f"{tree.missing_and_added(missing, added)}"
        ) from error


def mask_tree(mask: Mask, params: Params) -> PyTree:
    """`params` with each leaf replaced by whether `mask` selects it; see `mask_prefix`."""
    return jax.tree.map(bool, broadcast(mask_prefix(mask, params), params, "a mask"))


@transformation(weight_decay=NON_NEGATIVE)
def add_decayed_weights(
    weight_decay: Hyper = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    """`u = g + λ θ`; after Adam's scaling this is AdamW's decay, before it an L2 penalty.

    Args:
      weight_decay: `λ ≥ 0`, a number, an array or a schedule.
      mask: which parameters decay, by default all. A regular expression over paths, as in
        `"kernel$"`, which must match some; or, as in Optax, a tree of bools (or a prefix of one) or
        a function from the parameters to such a tree. A rule by `ndim` is wrong on stacked layers.

    Raises:
      ValueError: if `update` gets no params, the mask does not fit them, or `λ` is negative.

    Example:
      >>> chain(add_decayed_weights(1e-4, mask="kernel$"), sgd(0.1, momentum=0.9))
    """

    def init(params: Params) -> EmptyState:
        if mask is not None:
            mask_tree(mask, params)
        return EmptyState()

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        if params is None:
            raise ValueError(
                "add_decayed_weights: decay needs the parameters; "
                "call update(gradients, state, params)"
            )
        if isinstance(weight_decay, float | int) and weight_decay == 0:
            return updates, state

        def step(g: Array, p: Array, decays: bool = True) -> Array:
            return g + weight_decay * p if decays else g

        masks = () if mask is None else (mask_tree(mask, params),)
        return map_with_params(step, updates, params, *masks), state

    return GradientTransformation(init, update)
