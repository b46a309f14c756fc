"""Norms of error signals, and of parameters and their gradients."""

from collections.abc import Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array


def example_norms(error: Array, examples: int, depth: int = 0, ahead: int = 1) -> Array:
    """`‖δᵢ‖ [turns …, B]`, with so many axes of turns; the others are taken as `[ahead, B, rest]`.

    Squares that vanish or overflow are computed again, scaled.
    """
    turns, rest = error.shape[:depth], prod(error.shape[depth:]) // (ahead * examples)
    # an axis of length 1 would cost 5 % of a small net's step
    shape, axes = ((ahead, examples, rest), (-3, -1)) if ahead > 1 else ((examples, rest), (-1,))
    flat = _real(error.reshape(*turns, *shape))
    squares = jnp.sum(jnp.square(flat), axes)
    limits = np.finfo(squares.dtype)
    lost = (squares < limits.tiny / limits.eps**2) | (squares == jnp.inf)

    def scaled() -> Array:
        largest = jnp.max(jnp.abs(flat), axes, keepdims=True, initial=0)
        size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        sums = jnp.sum(jnp.square(flat / size), axes)
        return size.reshape(sums.shape) * jnp.sqrt(sums)

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
