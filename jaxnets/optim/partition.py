"""Each group of parameters to a transformation of its own."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax

from jaxnets import tree
from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.decay import broadcast, is_function
from jaxnets.optim.leaves import is_none, leaves_like
from jaxnets.optim.masking import MaskedState, keep, keep_extra, put_back, without_none
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Params, PyTree

Labels: TypeAlias = PyTree | Callable[[Params], PyTree]
"""A tree of labels like the parameters or a prefix of it, or a function from parameters to one."""


class PartitionState(NamedTuple):
    """Each label's `MaskedState`."""

    inner_states: Mapping[Hashable, State]


@by_value
def label_by_path(rules: Mapping[str, Hashable]) -> Callable[[Params], PyTree]:
    """The function that labels each parameter by the first rule found in its path.

    Args:
      rules: regular expression -> label, in order of precedence; `{".*": label}` last for the rest.
        They must cover every leaf, and each must decide some.

    Example:
      >>> labels = label_by_path({"^head/|embedding": "adam", "kernel$": "muon", ".*": "adam"})
      >>> optimizer = partition({"adam": adamw(1e-3), "muon": muon(0.02)}, labels)
    """

    def labels(params: Params) -> PyTree:
        known = without_none(params)
        return tree.apply_rules(rules, known) if jax.tree.leaves(known) else params

    return labels


def _labels_of(labels: Labels, updates: Updates, transforms: Mapping[Hashable, Any]) -> PyTree:
    """The tree of labels, or the prefix of one; None where that is unknown, see `chosen_by`."""
    if not jax.tree.leaves(updates):
        return updates
    prefix = labels(updates) if is_function(labels) else labels
    full = broadcast(prefix, without_none(updates), "partition: param_labels")
    for path, label in tree.flatten_with_paths(full).items():
        if label not in transforms:
            raise ValueError(
                f"partition: no transformation has the label {label!r} of leaf {path!r}; "
                f"the labels are {list(transforms)}"
            )
    return prefix


@by_value
@combines(
    lambda call, state: {
        label: (transformation, state.inner_states[label].inner_state)
        for label, transformation in call["transforms"].items()
    }
)
def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: Labels | None = None,
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformation:
    """Give each parameter to one of several transformations.

    Args:
      transforms: label -> transformation. Without `param_labels` the labels are path rules:
        regular expressions, in order of precedence, that must cover every leaf.
      param_labels: a tree of labels like the parameters, or a prefix of one, or a function to such
        a tree, which is given the parameters by `init` and the *updates* by `update`. See
        `label_by_path`.
      mask_compatible_extra_args: whether extra arguments of the updates' structure are split too.

    Returns:
      A transformation whose state is a `PartitionState`: each inner one's, for its leaves only.

    Raises:
      ValueError: (by `init`) if a leaf has no transformation, a rule decides no leaf, or the labels
        do not fit the parameters.

    Example:
      >>> partition({"kernel$": adamw(1e-3), ".*": adam(1e-3)})
    """
    rules = {rule: rule for rule in transforms}
    labels = label_by_path(rules) if param_labels is None else param_labels  # type: ignore[arg-type]
    inner = {label: with_extra_args_support(each) for label, each in transforms.items()}

    def chosen_for(label: Hashable, given: PyTree) -> PyTree:
        return jax.tree.map(lambda of: None if of is None else of == label, given, is_leaf=is_none)

    def init(params: Params) -> PartitionState:
        given = _labels_of(labels, params, transforms)
        parts = {label: keep(chosen_for(label, given), params) for label in inner}
        return PartitionState(
            {label: MaskedState(begin(parts[label])) for label, (begin, _) in inner.items()}
        )

    def update(
        updates: Updates, state: PartitionState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, PartitionState]:
        if params is not None:
            leaves_like(updates, params, "params")
        given = _labels_of(labels, updates, transforms)
        merged, states = updates, {}
        for label, (_, step) in inner.items():
            chosen = chosen_for(label, given)
            transformed, inner_state = step(
                keep(chosen, updates),
                state.inner_states[label].inner_state,
                None if params is None else keep(chosen, params),
                **(keep_extra(chosen, extra, updates) if mask_compatible_extra_args else extra),
            )
            merged = put_back(chosen, transformed, merged)
            states[label] = MaskedState(inner_state)
        return merged, PartitionState(states)

    return GradientTransformation(init, update)


multi_transform = partition
"""Optax's former name."""
MultiTransformState = PartitionState
