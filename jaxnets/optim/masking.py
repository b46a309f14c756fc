"""A transformation for some of the parameters, chosen by path or by mask.

What is not chosen is a `MaskedNode` to the inner transformation: a node of the tree without leaves,
for which it keeps no state.
"""

from typing import Any, NamedTuple

import jax

from jaxnets.optim.decay import Mask, is_function, mask_tree
from jaxnets.optim.leaves import is_none, leaves_like
from jaxnets.optim.transform import (
    GradientTransformation,
    State,
    Updates,
    by_value,
    combines,
    with_extra_args_support,
)
from jaxnets.types import Params, PyTree


class MaskedNode(NamedTuple):
    """Stands where a leaf has been taken out of a tree."""


class MaskedState(NamedTuple):
    """The state of the masked transformation, for the chosen leaves only."""

    inner_state: State


def without_none(updates: Updates) -> Updates:
    """`updates` with 0 where there is no gradient, so that rules still find these leaves."""
    return jax.tree.map(lambda g: 0 if g is None else g, updates, is_leaf=is_none)


def chosen_leaves(mask: Mask, updates: Updates) -> list[bool | None]:
    """Whether `mask` chooses each leaf of `updates`; None where that is unknown.

    A function from updates to a mask says nothing of those that are None.
    """
    if jax.tree.leaves(updates) and not is_function(mask):
        updates = without_none(updates)
    return jax.tree.leaves(mask_tree(mask, updates), is_leaf=is_none)


def keep(chosen: list[bool | None], leaves: list[Any], structure: Any) -> PyTree:
    """The tree of the leaves that are chosen, with a `MaskedNode` for each other one."""
    return structure.unflatten(
        [MaskedNode() if choice is False else x for choice, x in zip(chosen, leaves, strict=True)]
    )


def keep_extra(
    chosen: list[bool | None], extra: dict[str, Any], updates: Updates
) -> dict[str, Any]:
    """The extra arguments, with the same leaves taken out of those that are like `updates`."""
    structure: Any = jax.tree.structure(updates)

    def kept(value: Any) -> Any:
        if jax.tree.structure(value) != structure:
            return value
        leaves, value_structure = jax.tree.flatten(value, is_leaf=is_none)
        return keep(chosen, leaves, value_structure)

    return {name: kept(value) for name, value in extra.items()}


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
        leaves, structure = jax.tree.flatten(params, is_leaf=is_none)
        return MaskedState(inner_init(keep(chosen_leaves(mask, params), leaves, structure)))

    def update(
        updates: Updates, state: MaskedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MaskedState]:
        reference = updates if params is None else params
        leaves, of_params, structure = leaves_like(updates, reference, "params")
        chosen = chosen_leaves(mask, updates)
        if mask_compatible_extra_args:
            extra = keep_extra(chosen, extra, updates)
        transformed, inner_state = inner_update(
            keep(chosen, leaves, structure),
            state.inner_state,
            None if params is None else keep(chosen, of_params, structure),
            **extra,
        )
        mixed = [
            old if choice is False else new
            for choice, old, new in zip(
                chosen, leaves, structure.flatten_up_to(transformed), strict=True
            )
        ]
        return structure.unflatten(mixed), MaskedState(inner_state)

    return GradientTransformation(init, update)
