"""What a row of the optimizers' table says."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxnets import optim
from tests.optim.trajectories import make_params

# what rounding may make of 300 steps in float32
FLOAT32 = 2e-6


def no_extra(params: Any, updates: Any) -> dict[str, Any]:
    return {}


class OptimizerCase(NamedTuple):
    """An optimizer or a transformation, beside the same of Optax."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None
    """None where Optax has none; another oracle is then in a test of its own."""
    rtol64: float = 1e-12
    """In float64 over 300 steps; 1e-9 where a root or power iteration is involved."""
    rtol32: float = FLOAT32
    """In float32; where it is more, the rows say why, and ours must be as near to float64."""
    extra: Callable[[Any, Any], dict[str, Any]] = no_extra
    """`extra(params, gradients)`: the keyword arguments that `update` needs besides."""
    params: Callable[..., Any] = make_params
    """`params(dtype)`, for optimizers of matrices only."""
    same_updates: bool = True
    """Whether updates are as exact as Optax's; not where those are differences of parameters."""
    same_state: bool = True
    """Whether the states have the same leaves in the same order as Optax's."""
    moves_at_zero: bool = False
    """Whether a gradient of 0 moves its parameter: as with decay, whose rows say so by name."""
    by_path: bool = False
    """Whether it has rules for the paths of `params`, and refuses others."""


def same_call(name: str, build: Callable[[Any], Any], **keywords: Any) -> OptimizerCase:
    """The same call in both libraries: `build(optim)` and `build(optax)`."""
    return OptimizerCase(name, lambda: build(optim), lambda: build(optax), **keywords)
