"""Norms whose squares neither overflow nor vanish."""

from collections.abc import Callable, Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array


def example_norms(error: Array, depth: int = 0) -> Array:
    """`‖δᵢ‖ [turns …, B]` of `[turns …, B, …]`, with so many axes of turns."""
    flat = _real(error.reshape(*error.shape[: depth + 1], prod(error.shape[depth + 1 :])))
    return _norm(jnp.sum(jnp.square(flat), -1), lambda: _scaled(flat))


def site_norms(
    arrays: Sequence[Array | None], sliced: Sequence[tuple[bool, ...]], turns: tuple[int, ...]
) -> Array:
    """`‖x‖ [S, turns …]` of each array, of each slice along its first axes for loops that slice it.

    NaN for None.
    """

    def of_each(reduce: Callable[[Array], Array]) -> Array:
        found = []
        for x, own in zip(arrays, sliced, strict=True):
            if x is None:
                found.append(jnp.full(turns, jnp.nan))
                continue
            n = sum(own)
            reduced = reduce(_real(x.reshape(*x.shape[:n], prod(x.shape[n:]))))
            sizes = iter(reduced.shape)
            reduced = reduced.reshape([next(sizes) if along else 1 for along in own])
            found.append(jnp.broadcast_to(reduced, turns))
        return jnp.stack(found)

    def squares(x: Array) -> Array:
        # a product of vectors, which XLA must not take for squares that an optimizer needs too: it
        # would write them to memory
        return jnp.einsum("...i,...i->...", x, lax.optimization_barrier(x))

    return _norm(of_each(squares), lambda: of_each(_scaled))


def _real(x: Array) -> Array:
    """Of sizes, in float32 at least."""
    x = jnp.abs(x) if jnp.iscomplexobj(x) else jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _norm(squares: Array, scaled: Callable[[], Array]) -> Array:
    """Their square roots; or what is computed again, if any overflowed or lost digits."""
    limits = np.finfo(squares.dtype)
    lost = (squares < limits.tiny / limits.eps**2) | (squares == jnp.inf)
    norms: Array = lax.cond(jnp.any(lost), scaled, lambda: jnp.sqrt(squares))
    return norms


def _scaled(x: Array) -> Array:
    """`‖x‖` over the last axis, of what is divided by its largest element."""
    largest = jnp.max(jnp.abs(x), -1, initial=0)
    size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return size * jnp.sqrt(jnp.sum(jnp.square(x / size[..., None]), -1))
