"""Activation functions, elementwise unless said otherwise.

Where `jax.nn` has the function it is that function: numerics, derivatives and names are its own.
"""

import jax
import jax.numpy as jnp
from jax.nn import (
    celu,
    elu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    squareplus,
    swish,
    tanh,
)

from jaxnets.types import Array


def identity(x: Array) -> Array:
    """`x`: a linear layer's activation."""
    return x


def gelu(x: Array) -> Array:
    """`x Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel, 2016).

    `jax.nn.gelu` is the tanh approximation by default; here each has its own name.
    """
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """`x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: gelu as GPT-2 and BERT's code compute it."""
    return jax.nn.gelu(x, approximate=True)


def relu_squared(x: Array) -> Array:
    """`max(x, 0)²` (So et al., "Primer", 2021)."""
    return jnp.square(relu(x))


__all__ = [
    "celu",
    "elu",
    "gelu",
    "gelu_tanh",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "relu_squared",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "squareplus",
    "swish",
    "tanh",
]
