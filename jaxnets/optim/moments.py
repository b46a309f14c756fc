"""The steps that optimizers are written with, as functions on whole trees.

They are for optimizers of your own: those here state their equations leaf by leaf.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import Hyper
from jaxnets.optim.leaves import abs_sq, map_moments, widened
from jaxnets.optim.transform import Updates
from jaxnets.types import Array, ArrayLike, PyTree


def _averaged(new: Callable[[Array, Array], Array], updates: Updates, moments: PyTree) -> PyTree:
    _, moments = map_moments(lambda g, m: (g, new(g, m)), updates, moments)
    return moments


def update_moment(updates: Updates, moments: PyTree, decay: Hyper, order: float) -> PyTree:
    """`m ← γ m + (1 - γ) gᵏ`.

    Here and in the next two functions, moments keep their dtypes, the arithmetic is float32 at
    least, and the moment of a gradient of None stays as it is. (Optax's becomes None.)

    Args:
      updates: `g`.
      moments: `m`.
      decay: `γ`.
      order: `k`.

    Raises:
      ValueError: if the trees, or the shapes of two leaves, do not match.
    """
    return _averaged(lambda g, m: (1 - decay) * g**order + decay * m, updates, moments)


def update_moment_per_elem_norm(
    updates: Updates, moments: PyTree, decay: Hyper, order: float
) -> PyTree:
    """`m ← γ m + (1 - γ) |g|ᵏ` for complex `g`, and `gᵏ` for real ones: see `update_moment`."""

    def power(g: Array) -> Array:
        if jnp.isrealobj(g):
            return g**order
        # a whole power of |g|² has a derivative at 0
        return abs_sq(g) ** (order // 2 if order % 2 == 0 else order / 2)

    return _averaged(lambda g, m: (1 - decay) * power(g) + decay * m, updates, moments)


def update_infinity_moment(
    updates: Updates, moments: PyTree, decay: Hyper, eps: ArrayLike
) -> PyTree:
    """`m ← max(|g| + ε, γ m)`: see `update_moment`."""
    return _averaged(lambda g, m: jnp.maximum(jnp.abs(g) + eps, decay * m), updates, moments)


def bias_correction(moment: PyTree, decay: Hyper, count: Array) -> PyTree:
    """`m̂ = m / (1 - γᵗ)`: a moving average corrected for its start at 0.

    Args:
      moment: `m`.
      decay: `γ`.
      count: `t`, the number of steps, at least 1.
    """
    correction = 1 - decay**count
    return jax.tree.map(lambda m: (widened(m) / correction).astype(m.dtype), moment)
