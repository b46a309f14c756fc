"""A transformation for some of the parameters, chosen by path or by mask.

What is not chosen is a `MaskedNode` to the inner transformation: a node of the tree without leaves,
for which it keeps no state.
"""

from typing import Any, NamedTuple

import jax

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.decay import Mask, is_function, mask_prefix
from jaxnets.optim.leaves import is_none, leaves_like
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Params, PyTree


class MaskedNode(NamedTuple):
    """Stands where a leaf has been taken out of a tree."""


class MaskedState(NamedTuple):
    """The state of the masked transformation, for the chosen leaves only."""

    inner_state: State


def without_none(updates: Updates) -> Updates:
    """`updates` with 0 where there is no gradient, so that rules still find these leaves."""
    return jax.tree.map(lambda g: 0 if g is None else g, updates, is_leaf=is_none)


def chosen_by(mask: Mask, updates: Updates) -> PyTree:
    """The tree of bools, or the prefix of one, that `mask` says of `updates`.

    A function from updates to a mask says nothing, which is None, of those that are None.
    """
    if jax.tree.leaves(updates) and not is_function(mask):
        updates = without_none(updates)
    return mask_prefix(mask, updates)


def keep(chosen: PyTree, tree: PyTree) -> PyTree:
    """`tree` with a `MaskedNode` in place of all that is not chosen."""

    def kept(choice: Any, subtree: PyTree) -> PyTree:
        return subtree if choice is None or choice else MaskedNode()

    return jax.tree.map(kept, chosen, tree, is_leaf=is_none)


def put_back(chosen: PyTree, kept: PyTree, tree: PyTree) -> PyTree:
    """`tree` with that which is chosen replaced by what has become of it."""

    def mixed(choice: Any, new: PyTree, old: PyTree) -> PyTree:
        return new if choice is None or choice else old

    return jax.tree.map(mixed, chosen, kept, tree, is_leaf=is_none)


def keep_extra(chosen: PyTree, extra: dict[str, Any], updates: Updates) -> dict[str, Any]:
    """`keep` for those of the extra arguments that are trees like `updates`."""
    structure: Any = jax.tree.structure(updates)
    return {
        name: keep(chosen, value) if jax.tree.structure(value) == structure else value
        for name, value in extra.items()
    }


@by_value
@combines(lambda call, state: {"": (call["inner"], state.inner_state)})
def masked(
    inner: GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """Transform the chosen updates, and hand the others through as they are.

    Args:
      inner: the transformation; ours, Optax's or any other.
      mask: which leaves it gets: a regular expression over paths, as in `"kernel$"`, which must
        match some; or, as in Optax, a tree of bools (or a prefix of one) or a function to such a
        tree, which is given the parameters by `init` and the *updates* by `update`.
      mask_compatible_extra_args: whether extra arguments of the updates' structure are masked too.

    Returns:
      A transformation that keeps state for the chosen leaves only.

    Raises:
      ValueError: (by `init`) if a rule matches no leaf, or a tree does not fit the parameters.

    Example:
      >>> chain(masked(clip(1.0), "embedding"), adam(1e-3))
    """
    inner_init, inner_update = with_extra_args_support(inner)

    def init(params: Params) -> MaskedState:
        return MaskedState(inner_init(keep(chosen_by(mask, params), params)))

    def update(
        updates: Updates, state: MaskedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MaskedState]:
        if params is not None:
            leaves_like(updates, params, "params")
        chosen = chosen_by(mask, updates)
        transformed, inner_state = inner_update(
            keep(chosen, updates),
            state.inner_state,
            None if params is None else keep(chosen, params),
            **(keep_extra(chosen, extra, updates) if mask_compatible_extra_args else extra),
        )
        return put_back(chosen, transformed, updates), MaskedState(inner_state)

    return GradientTransformation(init, update)
