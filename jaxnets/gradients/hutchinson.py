"""Hutchinson's estimates of a matrix's diagonal and trace, from its products with random signs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.gradients.products import Product, widened
from jaxnets.types import Array, Key, Params, PyTree


class Estimate(NamedTuple):
    """A mean over independent probes, and how far off it is likely to be."""

    mean: PyTree
    standard_error: PyTree
    """`√(sample variance / probes)`, elementwise; NaN of a single probe."""


def signs_like(key: Key, params: Params) -> Params:
    """±1 for each value of `params`, in their dtypes."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    signs = [
        jax.random.rademacher(k, jnp.shape(p), jnp.result_type(p))
        for k, p in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, signs)


def hutchinson_diagonal(product: Product, params: Params, key: Key, probes: int = 32) -> Estimate:
    """`diag M ≈ mean of s ⊙ M s` over random signs `s`: unbiased.

    The variance of entry i is `Σ_{j≠i} M_ij²` over the number of probes, so that of a diagonal
    matrix one probe is exact.

    Args:
      product: `v -> M v`, as from `hvp(loss)(params, *batch)`.
      params: what `v` is shaped as.
      key: of the signs.
      probes: how many, at least 1; one after the other.

    Returns:
      Mean and standard error, shaped as `params`, in float32 at least.

    Raises:
      ValueError: if `probes` is below 1.

    References:
      Bekas, Kokiopoulou and Saad, [An estimator for the diagonal of a matrix](
      https://doi.org/10.1016/j.apnum.2007.01.003), 2007.
    """

    def one(signs: Params) -> PyTree:
        return widened(jax.tree.map(jnp.multiply, signs, product(signs)))

    return _estimate("hutchinson_diagonal", one, params, key, probes)


def hutchinson_trace(product: Product, params: Params, key: Key, probes: int = 32) -> Estimate:
    """`tr M ≈ mean of sᵀ M s` over random signs `s`: unbiased, and exact for a diagonal matrix.

    Arguments and errors as for `hutchinson_diagonal`; scalars.

    References:
      Hutchinson, [A stochastic estimator of the trace of the influence matrix](
      https://doi.org/10.1080/03610918908812806), 1989.
    """

    def one(signs: Params) -> Array:
        products = jax.tree.map(lambda s, m: jnp.sum(widened(s * m)), signs, product(signs))
        total: Array = sum(jax.tree.leaves(products))  # type: ignore[assignment]
        return total

    return _estimate("hutchinson_trace", one, params, key, probes)


def _estimate(
    function: str, one: Callable[[Params], PyTree], params: Params, key: Key, probes: int
) -> Estimate:
    if probes < 1:
        raise ValueError(f"{function}: probes must be at least 1, got {probes}")
    keys = jax.random.split(key, probes)
    first = one(signs_like(keys[0], params))

    def add(so_far: Any, key: Key) -> tuple[Any, None]:
        # Welford's sums: no difference of large numbers
        count, mean, squares = so_far
        x = one(signs_like(key, params))
        delta = jax.tree.map(jnp.subtract, x, mean)
        mean = jax.tree.map(lambda m, d: m + d / (count + 1), mean, delta)
        squares = jax.tree.map(lambda s, d, x, m: s + d * (x - m), squares, delta, x, mean)
        return (count + 1, mean, squares), None

    start = jnp.ones((), jnp.int32), first, jax.tree.map(jnp.zeros_like, first)
    (_, mean, squares), _ = jax.lax.scan(add, start, keys[1:])
    freedom = probes * (probes - 1)
    error = jax.tree.map(lambda s: jnp.sqrt(s / freedom) if freedom else s * jnp.nan, squares)
    return Estimate(mean, error)
