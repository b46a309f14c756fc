"""A batch with padding, and a batch in parts that fit in memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.types import Array, Params, PyTree


def in_parts(
    of_part: Callable[[tuple[PyTree, ...], Array | None], tuple[Params, PyTree]], params: Params,
    batch: tuple[PyTree, ...], mask: Array | None, examples: int, size: int,
) -> tuple[Params, PyTree]:  # fmt: skip
    """The sum over parts of a batch, one after the other, and what was seen of each example.

    Args:
      of_part: `(batch, mask) -> (sum, seen)`: a sum like `params`, and arrays `[size, ...]`.
      params: a pytree of arrays.
      batch: of `examples`, padded to whole parts.
      mask: False for padding.
      examples: how many there are.
      size: of a part.

    Returns:
      The sum, added up in float32 at least, and what was seen, `[examples, ...]`.
    """
    parts = -(-examples // size)
    padding = parts * size - examples
    if padding:
        mask = jnp.pad(jnp.ones(examples, bool) if mask is None else mask, (0, padding))
        indices = jnp.pad(jnp.arange(examples), (0, padding))
        batch = jax.tree.map(lambda x: jnp.asarray(x)[indices], batch)
    cut = jax.tree.map(lambda x: jnp.reshape(x, (parts, size, *x.shape[1:])), (batch, mask))

    def step(total: Params, part: Any) -> Any:
        now, seen = of_part(*part)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, now), seen

    zeros = jax.tree.map(
        lambda p: jnp.zeros(jnp.shape(p), jnp.promote_types(jnp.result_type(p), jnp.float32)),
        params,
    )
    total, seen = jax.lax.scan(step, zeros, cut)
    total = jax.tree.map(lambda t, p: t.astype(jnp.result_type(p)), total, params)
    return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:examples], seen)


def checked_mask(function: str, mask: Array, examples: int) -> Array:
    """`mask` as an array; raises unless it is boolean, and as long as the batch."""
    mask = jnp.asarray(mask)
    if mask.shape != (examples,):
        raise ValueError(f"{function}: mask must be [{examples}], got {mask.shape}")
    if mask.dtype != bool:
        raise TypeError(f"{function}: mask must be boolean, got {mask.dtype}")
    return mask


def without_padding(batch: PyTree, mask: Array) -> PyTree:
    """With an example that `mask` keeps in the place of each that it does not.

    Their weights are 0 all the same; but if what they hold overflowed, norms would be computed
    another way, and those of the others be rounded otherwise.
    """

    def filled(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        kept = mask.reshape(-1, *(1,) * (leaf.ndim - 1))
        first = jnp.broadcast_to(leaf[jnp.argmax(mask)], leaf.shape)
        return jnp.where(kept, leaf, first)

    return jax.tree.map(filled, batch)
