"""Squared norms of each parameter's per-example gradients, from factors, by the plan for each."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxnets.gradients.outer import Outer
from jaxnets.gradients.plans import Plan, Used, broadcast, outer_products, own_gradients
from jaxnets.types import Array


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _wide_products(used: Used) -> Outer:
    return Outer(
        *(_wide(y) if jnp.issubdtype(y.dtype, jnp.inexact) else y for y in outer_products(used))
    )


def sum_of_squares(x: Array) -> Array:
    """`[B]`, of `[B, ...]`."""
    flat = _wide(x).reshape(x.shape[0], -1)
    return jnp.sum(jnp.square(jnp.abs(flat)), axis=1)


def _inner(x: Array) -> Array:
    return jnp.einsum("bntd,bnsd->bnts", x, x)


def _rank_one(found: Sequence[Used]) -> Array:
    x, error = _wide_products(found[0])
    squares = [jnp.sum(jnp.square(y), (2, 3)) for y in (x, error)]
    return jnp.sum(squares[0] * squares[1], 1)


def _gram(found: Sequence[Used]) -> Array:
    x, error = _wide_products(found[0])
    # rounding may leave a sum of squares below 0
    return jnp.maximum(jnp.einsum("bnts,bnts->b", _inner(x), _inner(error)), 0)


def _folded(found: Sequence[Used]) -> Array:
    x, error = outer_products(found[0])
    wide = jnp.promote_types(error.dtype, jnp.float32)
    products = jnp.einsum("bntd,bntk->bndk", x, error, preferred_element_type=wide)
    return sum_of_squares(products)


def _rows(found: Sequence[Used]) -> Array:
    rows, error = _wide_products(found[0])
    same = rows[..., :, None] == rows[..., None, :]
    return jnp.maximum(jnp.sum(jnp.where(same, _inner(error), 0), (1, 2, 3)), 0)


def _oriented(used: Used) -> Outer:
    """The factors along the matrix's own two axes."""
    assert used.seen is not None
    assert used.seen.axes is not None
    x, error = _wide_products(used)
    contracted, _ = used.use.site.inner.params["dimension_numbers"]
    (axis,) = contracted[used.use.site.operand]
    return Outer(x, error) if used.seen.axes[axis] == 0 else Outer(error, x)


def _tied(found: Sequence[Used]) -> Array:
    products = [_oriented(used) for used in found if used.use.site.kind == "dot"]
    left = jnp.concatenate([x for x, _ in products], 2)
    right = jnp.concatenate([error for _, error in products], 2)
    total = jnp.einsum("bnts,bnts->b", _inner(left), _inner(right))
    for used in found:
        if used.use.site.kind == "gather":
            rows, error = _wide_products(used)
            met = jnp.take_along_axis(left[:, 0], rows[:, 0, None, :], axis=2)
            total += _rows([used])
            total += 2 * jnp.einsum(
                "bts,bts->b", met, jnp.einsum("btd,bsd->bts", right[:, 0], error[:, 0])
            )
    return jnp.maximum(total, 0)


OWN = ("direct", "local", "sum")
"""The ways that make each example's own gradient."""

_WAYS = {"rank one": _rank_one, "gram": _gram, "folded": _folded, "rows": _rows, "tied": _tied}


def squares(
    plan: Plan, found: Sequence[Used], key: int, values: Mapping[Hashable, Any], examples: int
) -> Array:
    """`[B]`: `‖gᵢ‖²` of one parameter."""
    if plan.way == "unused":
        return jnp.zeros(examples, jnp.promote_types(jnp.real(values[key]).dtype, jnp.float32))
    if plan.way in OWN:
        own, scale = own_gradients(found, key, values), found[0].scale
        return sum_of_squares(own if scale is None else own * broadcast(scale, own))
    return _WAYS[plan.way](found)
