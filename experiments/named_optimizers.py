"""Optimizers by name: `jaxnets:adam` or `optax:adam`, so that one word swaps the library."""

import importlib
from collections.abc import Callable
from typing import Any

from experiments.errors import UsageError, did_you_mean
from jaxnets import optim
from jaxnets.types import ArrayLike

NAMES = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
LIBRARIES = ("jaxnets", "optax")

CHOICES = tuple(f"{library}:{name}" for library in LIBRARIES for name in NAMES)


def require_known(choice: str) -> None:
    """Raise `UsageError` unless `choice` is one of `CHOICES`."""
    if choice not in CHOICES:
        hint = did_you_mean(choice, CHOICES)
        raise UsageError(f"unknown optimizer {choice!r}{hint}; there are {', '.join(CHOICES)}")


def counterpart(choice: str) -> str:
    """The same optimizer from the other library."""
    library, name = choice.split(":")
    return f"{'optax' if library == 'jaxnets' else 'jaxnets'}:{name}"


def make(
    choice: str, learning_rate: ArrayLike | Callable[[Any], Any], l2: float = 0.0
) -> optim.GradientTransformation:
    """The optimizer called `choice`, with its library's own defaults.

    `momentum` is `sgd` with momentum 0.9. Where `l2` is not 0, the gradient is that of the loss
    and of `l2 ‖kernels‖² / 2`.
    """
    require_known(choice)
    library, name = choice.split(":")
    aliases: Any = optim if library == "jaxnets" else importlib.import_module("optax")
    made: optim.GradientTransformation = (
        aliases.sgd(learning_rate, momentum=0.9)
        if name == "momentum"
        else getattr(aliases, name)(learning_rate)
    )
    return optim.chain(optim.add_decayed_weights(l2, mask="kernel$"), made) if l2 else made
