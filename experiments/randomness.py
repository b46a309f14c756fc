"""Random keys of a run, one for each use."""

from typing import NamedTuple

import jax

from jaxnets.types import Array, Key


class Keys(NamedTuple):
    """None of them is taken for anything else."""

    init: Key
    """Of initial parameters."""
    run: Key
    """Of training."""
    sample: Key
    """Of what is drawn from the trained net."""


def keys_of(seed: int | Array) -> Keys:
    """All that is random in a run comes from these."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))
