"""Squared norms of each parameter's per-example gradients, from factors, by the plan for each."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.gradients.graph import Key
from jaxnets.gradients.outer import Outer
from jaxnets.gradients.plans import (
    Plan,
    Used,
    broadcast,
    choose,
    outer_products,
    own_gradients,
    wide,
)
from jaxnets.types import Array


def _wide_products(used: Used) -> Outer:
    return Outer(
        *(wide(y) if jnp.issubdtype(y.dtype, jnp.inexact) else y for y in outer_products(used))
    )


def sum_of_squares(x: Array) -> Array:
    """`[B]`, of `[B, ...]`."""
    # no -1: of what has no elements, such as a scan of no turns, it is not known
    flat = wide(x).reshape(x.shape[0], math.prod(x.shape[1:]))
    return jnp.sum(jnp.square(jnp.abs(flat)), axis=1)


def _inner(x: Array) -> Array:
    return jnp.einsum("bntd,bnsd->bnts", x, x, precision=EXACT)


EXACT = jax.lax.Precision.HIGHEST
"""Norms are not computed in the short formats of accelerators: the bound below is of float32."""

TOLERANCE = 1e-5
"""By how much of itself a squared norm may come out too small, at most."""


def _lengths(inner: Array) -> Array:
    """`‖x_t‖ ‖x_s‖` from the `⟨x_t, x_s⟩`."""
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(inner, axis1=-2, axis2=-1), 0))
    return lengths[..., :, None] * lengths[..., None, :]


def _sum_of_pairs(inputs: Array, signals: Array) -> Array:
    """`Σ_ts ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩ [B]`, or more, where that is a difference of much larger numbers.

    Rounding errs by some units in the last place of `‖x_t‖ ‖x_s‖ ⟨δ_t, δ_s⟩` and
    `⟨x_t, x_s⟩ ‖δ_t‖ ‖δ_s‖`. Where these might make the sum too small by more than `TOLERANCE`,
    they are added to it: norms that bound what one example can do must not be under-estimated.
    """
    axes = tuple(range(1, inputs.ndim))
    total = jnp.sum(inputs * signals, axes)
    worst = _lengths(inputs) * jnp.abs(signals) + jnp.abs(inputs) * _lengths(signals)
    error = 4 * np.finfo(total.dtype).eps * jnp.sum(worst, axes)
    return jnp.where(error > TOLERANCE * total, jnp.maximum(total, 0) + error, total)


def _rank_one(found: Sequence[Used]) -> Array:
    x, error = _wide_products(found[0])
    b, n, t, _ = x.shape
    # in two axes: XLA's CPU backend stores the squares of more before it sums them
    rows = [sum_of_squares(y.reshape(b * n * t, y.shape[-1])) for y in (x, error)]
    return jnp.sum((rows[0] * rows[1]).reshape(b, -1), 1)


def _gram(found: Sequence[Used]) -> Array:
    x, error = _wide_products(found[0])
    return _sum_of_pairs(_inner(x), _inner(error))


def _folded(found: Sequence[Used]) -> Array:
    x, error = outer_products(found[0])
    dtype = jnp.promote_types(error.dtype, jnp.float32)
    products = jnp.einsum(
        "bntd,bntk->bndk", x, error, preferred_element_type=dtype, precision=EXACT
    )
    return sum_of_squares(products)


def _same_rows(rows: Array, others: Array) -> Array:
    return (rows[..., :, None] == others[..., None, :]).astype(jnp.float32)


def _rows(found: Sequence[Used]) -> Array:
    rows, error = _wide_products(found[0])
    return _sum_of_pairs(_same_rows(rows, rows).astype(error.dtype), _inner(error))


def _oriented(used: Used) -> Outer:
    """The factors along the matrix's own two axes."""
    assert used.seen is not None
    assert used.seen.axes is not None
    x, error = _wide_products(used)
    contracted, _ = used.use.site.inner.params["dimension_numbers"]
    (axis,) = contracted[used.use.site.operand]
    return Outer(x, error) if used.seen.axes[axis] == 0 else Outer(error, x)


def _tied(found: Sequence[Used]) -> Array:
    """Over the pairs of all uses; a row of an embedding is the product with a unit vector."""
    products = [_oriented(used) for used in found if used.use.site.kind == "dot"]
    lookups = [_wide_products(used) for used in found if used.use.site.kind == "gather"]
    right = _inner(jnp.concatenate([error for _, error in (*products, *lookups)], 2))
    if not lookups:
        return _sum_of_pairs(_inner(jnp.concatenate([x for x, _ in products], 2)), right)
    rows = jnp.concatenate([rows for rows, _ in lookups], 2)
    same = _same_rows(rows, rows).astype(right.dtype)
    if not products:
        return _sum_of_pairs(same, right)
    left = jnp.concatenate([x for x, _ in products], 2)
    met = jnp.take_along_axis(left, rows[:, :, None, :], axis=3)
    above = jnp.concatenate([_inner(left), met], 3)
    below = jnp.concatenate([met.swapaxes(2, 3), same], 3)
    return _sum_of_pairs(jnp.concatenate([above, below], 2), right)


OWN = ("direct", "local", "sum")
"""The ways that make each example's own gradient."""

_WAYS = {"rank one": _rank_one, "gram": _gram, "folded": _folded, "rows": _rows, "tied": _tied}


def squares(
    plan: Plan, found: Sequence[Used], key: Key, values: Mapping[Hashable, Any], examples: int
) -> Array:
    """`[B]`: `‖gᵢ‖²` of one parameter."""
    if plan.way == "unused":
        return jnp.zeros(examples, jnp.promote_types(jnp.real(values[key]).dtype, jnp.float32))
    if plan.way in OWN:
        own, scale = own_gradients(found, key, values), found[0].scale
        return sum_of_squares(own if scale is None else wide(own) * broadcast(scale, wide(own)))
    if plan.way == "parts":
        parts = ([used] for used in found)
        each = [squares(choose(p, values[key]), p, key, values, examples) for p in parts]
        total: Array = sum(each[1:], each[0])
        return total
    return _WAYS[plan.way](found)
