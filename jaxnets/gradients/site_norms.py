"""Norms of error signals, and of parameters and their gradients."""

from collections.abc import Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array


def example_norms(error: Array, depth: int = 0) -> Array:
    """`‖δᵢ‖ [turns …, B]` of `[turns …, B, …]`, with so many axes of turns.

    Squares that vanish or overflow are computed again, scaled.
    """
    flat = _real(error.reshape(*error.shape[: depth + 1], prod(error.shape[depth + 1 :])))
    squares = jnp.sum(jnp.square(flat), -1)
    limits = np.finfo(squares.dtype)
    lost = (squares < limits.tiny / limits.eps**2) | (squares == jnp.inf)

    def scaled() -> Array:
        largest = jnp.max(jnp.abs(flat), -1, initial=0)
        size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return size * jnp.sqrt(jnp.sum(jnp.square(flat / size[..., None]), -1))

    norms: Array = lax.cond(jnp.any(lost), scaled, lambda: jnp.sqrt(squares))
    return norms


def site_norms(
    arrays: Sequence[Array | None], sliced: Sequence[tuple[bool, ...]], turns: tuple[int, ...]
) -> Array:
    """`‖x‖ [S, turns …]` of each array, of each slice along its first axes for loops that slice it.

    NaN for None. From 1e-19 to 1e19 in float32: beyond, squares vanish or overflow, and to compute
    them again where they do would cost 2 % of a step.
    """

    found = []
    for x, own in zip(arrays, sliced, strict=True):
        if x is None:
            found.append(jnp.full(turns, jnp.nan))
            continue
        n = sum(own)
        flat = _real(x.reshape(*x.shape[:n], prod(x.shape[n:])))
        # a product of vectors, which XLA must not take for squares that an optimizer needs too: it
        # would write them to memory
        squares = jnp.einsum("...i,...i->...", flat, lax.optimization_barrier(flat))
        sizes = iter(squares.shape)
        squares = squares.reshape([next(sizes) if along else 1 for along in own])
        found.append(jnp.broadcast_to(squares, turns))
    return jnp.sqrt(jnp.stack(found))


def _real(x: Array) -> Array:
    """Of sizes, in float32 at least."""
    x = jnp.abs(x) if jnp.iscomplexobj(x) else jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
