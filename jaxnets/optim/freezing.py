"""Frozen parameters."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnets.optim.calls import by_value
from jaxnets.optim.decay import Mask
from jaxnets.optim.leaves import is_none
from jaxnets.optim.masking import chosen_by, masked
from jaxnets.optim.partition import partition
from jaxnets.optim.stateless import set_to_zero
from jaxnets.optim.transform import GradientTransformation
from jaxnets.types import Params, PyTree


@by_value
def _labels(freeze_mask: Mask) -> Callable[[Params], PyTree]:
    def label(frozen: Any) -> str | None:
        return None if frozen is None else "freeze" if frozen else "train"

    def labels(params: Params) -> PyTree:
        return jax.tree.map(label, chosen_by(freeze_mask, params), is_leaf=is_none)

    return labels


def selective_transform(
    optimizer: GradientTransformation, *, freeze_mask: Mask
) -> GradientTransformation:
    """Give `optimizer` all parameters but the frozen ones, whose updates are 0.

    It keeps no state for those. Where update and gradient are compiled together, XLA leaves out
    what only they would have needed of the backward pass.

    Args:
      optimizer: trains the rest.
      freeze_mask: which parameters are frozen; a path rule such as `"^encoder/"`, or Optax's masks,
        see `masked`.

    Raises:
      ValueError: (by `init`) if the rule matches no leaf, or the mask does not fit the parameters.

    Example:
      >>> optimizer = selective_transform(adam(1e-3), freeze_mask="^encoder/")
    """
    return partition({"train": optimizer, "freeze": set_to_zero()}, _labels(freeze_mask))


def freeze(mask: Mask, optimizer: GradientTransformation | None = None) -> GradientTransformation:
    """Keep the chosen parameters as they are.

    Args:
      mask: which parameters are frozen, see `selective_transform`.
      optimizer: trains the rest, and keeps no state for the frozen ones. Without it, the result is
        for the end of a chain, as in Optax: it sets updates to 0, while what comes before it has
        state for all parameters.

    Example:
      >>> optimizer = freeze("^encoder/", adam(1e-3))
    """
    if optimizer is not None:
        return selective_transform(optimizer, freeze_mask=mask)
    return masked(set_to_zero(), mask)
