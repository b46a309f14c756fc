"""The optimizers that `adaptive` compares on a net, each with its range of rates."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxnets import optim

Optimizer = Callable[[Any], optim.GradientTransformation]

OPTIMIZERS: dict[str, tuple[Optimizer, tuple[float, float]]] = {
    "SGD": (optim.sgd, (1e-2, 10.0)),
    "momentum": (partial(optim.sgd, momentum=0.9), (1e-3, 1.0)),
    "Adagrad": (optim.adagrad, (1e-3, 1.0)),
    "RMSprop": (optim.rmsprop, (1e-4, 0.1)),
    "Adam": (optim.adam, (1e-4, 0.1)),
}
"""With the rates between which each one's best on a net is looked for."""
