"""The ways to draw a deep net's first weights that `initialization` compares, and its settings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.deep_nets import he, xavier

ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}

ByWay = dict[str, np.ndarray]
"""Each way's values, `[seeds]`."""

ByDepth = dict[int, ByWay]


@dataclass(frozen=True)
class Config:
    """Nets of so many hidden layers, initialized in several ways."""

    depths: tuple[int, ...] = (2, 5, 10, 20, 50, 100)
    """Of which error signals are taken."""
    trained_depths: tuple[int, ...] = (2, 5, 20, 50, 100)
    deep: int = 5
    """From so many layers on a net is deep, and its layers are many; of fewer it is shallow."""
    width: int = 64
    small: float = 0.01
    """The deviation of a naive initialization."""
    large: float = 1.0
    """That of another one."""
    examples: int = 512
    """Of which error signals are taken."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Of plain SGD; that with the least training loss of the other seeds counts."""
    steps: int = 500
    batch_size: int = 64


def ways(config: Config) -> dict[str, float]:
    """Each one's deviation of hidden weights."""
    small, large = naive(config)
    return {
        "Xavier": xavier(config.width),
        "He": he(config.width),
        small: config.small,
        large: config.large,
    }


def naive(config: Config) -> tuple[str, str]:
    """The names of those that do not ask how wide a layer is."""
    return f"N(0, {config.small:g}²)", f"N(0, {config.large:g}²)"
