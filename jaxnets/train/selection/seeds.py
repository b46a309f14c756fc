"""A configuration's score over its seeds: what is chosen is a configuration, never a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def by_configuration(
    members: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Configurations without their seeds, in the order they come first; and each one's members."""
    found: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for number, row in enumerate(members):
        config = tuple((name, value) for name, value in row.items() if name != "seed")
        found.setdefault(config, []).append(number)
    return [dict(config) for config in found], list(found.values())


def over_seeds(
    members: Sequence[Mapping[str, Any]], scores: ArrayLike
) -> tuple[list[dict[str, Any]], NDArray[Any]]:
    """Configurations and their mean scores, of members that differ in their seeds too.

    The best of many seeds is the luckiest: ranked as if seeds were configurations, one of them is
    chosen for what the next run will not repeat.

    Args:
      members: `train.table` of the population.
      scores: `[members]` or `[members, folds]`.

    Returns:
      The configurations, without `"seed"`, in the order they come first; and the means over each
      one's seeds, `[configurations]` or `[configurations, folds]`. Both are for `rank`.

    Raises:
      ValueError: if there is not a score for each member.

    Example:
      >>> rows = rank(*over_seeds(train.table(grid), scores))
    """
    values = np.asarray(scores, np.float64)
    if values.ndim not in (1, 2) or len(values) != len(members):
        raise ValueError(
            f"over_seeds: scores must be [{len(members)}] or [{len(members)}, folds], "
            f"got shape {values.shape}"
        )
    configs, numbers = by_configuration(members)
    return configs, np.array([values[each].mean(0) for each in numbers])
