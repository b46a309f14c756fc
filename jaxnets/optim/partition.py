"""Each group of parameters to a transformation of its own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxnets.optim.masking import MaskedNode, MaskedState
from jaxnets.optim.transform import GradientTransformation, State, Updates, by_value
from jaxnets.types import Params, PyTree


class PartitionState(NamedTuple):
    """Each label's `MaskedState`."""

    inner_states: Mapping[str, State]


@by_value
def partition(
    transforms: Mapping[str, GradientTransformation], param_labels: Callable[[Params], PyTree]
) -> GradientTransformation:
    """Give each parameter to one of several transformations.

    Args:
      transforms: label -> transformation.
      param_labels: from the parameters (by `init`) or the updates to a tree of labels.
    """

    def of_label(label: str, leaves: list[Any], labels: list[Any], structure: Any) -> PyTree:
        return structure.unflatten(
            [
                x if of in (label, None) else MaskedNode()
                for x, of in zip(leaves, labels, strict=True)
            ]
        )

    def flatten(tree: PyTree) -> tuple[list[Any], Any]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        return leaves, structure

    def init(params: Params) -> PartitionState:
        leaves, structure = flatten(params)
        labels = flatten(param_labels(params))[0]
        parts = {label: of_label(label, leaves, labels, structure) for label in transforms}
        return PartitionState(
            {label: MaskedState(tx.init(parts[label])) for label, tx in transforms.items()}
        )

    def update(
        updates: Updates, state: PartitionState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, PartitionState]:
        leaves, structure = flatten(updates)
        labels = flatten(param_labels(updates))[0]
        try:
            of_params = leaves if params is None else structure.flatten_up_to(params)
        except (ValueError, TypeError) as error:
            raise ValueError("updates and params must be trees of the same structure") from error
        merged, states = list(leaves), {}
        for label, tx in transforms.items():
            part, inner_state = tx.update(
                of_label(label, leaves, labels, structure),
                state.inner_states[label].inner_state,
                None if params is None else of_label(label, of_params, labels, structure),
                **extra,
            )
            states[label] = MaskedState(inner_state)
            for i, new in enumerate(structure.flatten_up_to(part)):
                merged[i] = new if labels[i] == label else merged[i]
        return structure.unflatten(merged), PartitionState(states)

    return GradientTransformation(init, update)
