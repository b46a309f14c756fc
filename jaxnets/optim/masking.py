"""What stands in a tree for leaves that are taken out of it."""

from typing import NamedTuple

from jaxnets.optim.transform import State


class MaskedNode(NamedTuple):
    """Stands where a leaf has been taken out of a tree."""


class MaskedState(NamedTuple):
    """The state of the masked transformation, for the chosen leaves only."""

    inner_state: State
