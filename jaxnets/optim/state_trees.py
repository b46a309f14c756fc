"""States as trees: what in them is of the parameters' shapes, and what is not."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnets.optim.transform import GradientTransformation, Init, State
from jaxnets.types import PyTree


@jax.tree_util.register_static
class _Params:
    """Stands for the parameters: a tree without leaves, that `init` copies as it is."""


def tree_map_params(
    initable: GradientTransformation | Init,
    f: Callable[..., Any],
    state: State,
    /,
    *rest: PyTree,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> State:
    """`f(leaf, *rest_leaves)` for each leaf of a state that belongs to a parameter.

    So a tree of shardings of the parameters becomes one of shardings of the state.

    Args:
      initable: the optimizer whose state it is, or its `init`; ours, Optax's or any other whose
        `init` does nothing to parameters but `jax.tree.map`.
      f: gets a leaf of the state, and those of `rest` of the same parameter.
      state: the state.
      rest: trees like the parameters.
      transform_non_params: for all other leaves, such as counts; by default they stay.
      is_leaf: as of `jax.tree.map`; for `masked` and `partition`
        `lambda x: isinstance(x, MaskedNode)`.

    Example:
      >>> tree_map_params(
      ...     optimizer, lambda _, sharding: sharding, state, shardings,
      ...     transform_non_params=lambda _: replicated,
      ... )
    """
    init: Init = getattr(initable, "init", initable)  # type: ignore[arg-type]

    def is_params(x: Any) -> bool:
        return isinstance(x, _Params)

    def mapped(x: Any, part: PyTree) -> PyTree:
        if is_params(x):
            return jax.tree.map(f, part, *rest, is_leaf=is_leaf)
        return part if transform_non_params is None else transform_non_params(part)

    return jax.tree.map(mapped, init(_Params()), state, is_leaf=is_params)
