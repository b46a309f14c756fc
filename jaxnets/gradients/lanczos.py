"""Extreme eigenvalues and the spectrum of a symmetric matrix, from its products alone.

Lanczos's process makes an orthonormal basis `Q` of the Krylov space `b, M b, M² b, …` in which `M`
is tridiagonal: `Qᵀ M Q = T`. The eigenvalues of `T` approach those of `M`, the extreme ones first.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnets import tree
from jaxnets.gradients.products import Product, like, widened
from jaxnets.types import Array, ArrayLike, Key, Params, PyTree


class Tridiagonal(NamedTuple):
    """`T` and `Q` after `m` steps, from a matrix of `n` rows."""

    diagonal: Array
    """`[m]`"""
    off_diagonal: Array
    """`[m]`; the last is the length of what the basis leaves out of `M Q`."""
    basis: Array
    """`Q`, as rows: `[m, n]`"""


class Eigenpairs(NamedTuple):
    """Eigenvalues, the largest first, and their vectors."""

    values: Array
    """`[k]`"""
    vectors: PyTree
    """Of length 1, `[k, ...]` in each parameter's place, in float32 at least."""
    residuals: Array
    """`‖M u - λ u‖`, `[k]`: some eigenvalue of `M` is no further than this from `λ`."""


def _tridiagonalize(
    product: Callable[[Array], Array], start: Array, key: Key, m: int
) -> Tridiagonal:
    n, tiny = start.size, float(np.finfo(start.dtype).eps)

    def without(basis: Array, v: Array) -> Array:
        # twice is enough: what the first pass leaves by rounding, the second removes
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v

    def step(
        carry: tuple[Array, Array, Array], i: Array
    ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        basis, q, scale = carry
        basis = basis.at[i].set(q)
        v = product(q)
        diagonal = q @ v
        scale = jnp.maximum(scale, jnp.linalg.norm(v))
        v = without(basis, v)
        length = jnp.linalg.norm(v)
        # the Krylov space is used up: go on in what is orthogonal to it
        used_up = length <= 10 * tiny * jnp.sqrt(1.0 * n) * scale
        other = without(basis, jax.random.normal(jax.random.fold_in(key, i), (n,), start.dtype))
        v = without(
            basis,
            jnp.where(used_up, other / jnp.linalg.norm(other), v / jnp.where(used_up, 1, length)),
        )
        return (basis, v / jnp.linalg.norm(v), scale), (diagonal, jnp.where(used_up, 0, length))

    carry = (
        jnp.zeros((m, n), start.dtype),
        start / jnp.linalg.norm(start),
        jnp.zeros((), start.dtype),
    )
    (basis, _, _), (diagonal, off) = jax.lax.scan(step, carry, jnp.arange(m))
    return Tridiagonal(diagonal, off, basis)


def lanczos(
    product: Product, params: Params, key: Key, steps: int, *, start: Params | None = None
) -> Tridiagonal:
    """Lanczos's process with full reorthogonalization; use it inside `jit`.

    In float32 at least; only what `product` is given has the dtypes of narrower parameters. Memory
    is `steps` vectors, and the work beside the products `4 steps² n` operations.

    Args:
      product: `v -> M v`, `M` symmetric.
      params: what `v` is shaped as; `n` values in all.
      key: of the first vector, and of those with which the process goes on where the Krylov space
        is used up.
      steps: `m ≥ 1`; more than `n` are as many as `n`.
      start: the first vector, of any length but 0, shaped as `params`.

    Raises:
      ValueError: if `steps` is below 1 or `start` not shaped as `params`.
    """
    if steps < 1:
        raise ValueError(f"lanczos: steps must be at least 1, got {steps}")
    wide = widened(params)
    flat, unravel = ravel_pytree(wide)
    first = jax.random.normal(key, flat.shape, flat.dtype)
    if start is not None:
        given, _ = ravel_pytree(like(start, wide, "lanczos: start"))
        # of a vector of zeros there is no direction
        first = jnp.where(jnp.any(given != 0), given, first)

    def flat_product(v: Array) -> Array:
        narrow = jax.tree.map(lambda x, p: x.astype(jnp.result_type(p)), unravel(v), params)
        return ravel_pytree(widened(product(narrow)))[0].astype(v.dtype)

    return _tridiagonalize(flat_product, first, key, min(steps, flat.size))


def _matrix(found: Tridiagonal) -> Array:
    off = found.off_diagonal[:-1]
    return jnp.diag(found.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)


def top_eigenvalues(
    product: Product,
    params: Params,
    key: Key,
    k: int = 1,
    *,
    steps: int = 32,
    start: Params | None = None,
) -> Eigenpairs:
    """The `k` largest eigenvalues of a symmetric matrix and their vectors, by Lanczos's process.

    Largest, not largest in magnitude: those of `-M` are the smallest of `M`, negated.

    Args:
      product: `v -> M v`, as from `hvp(loss)(params, *batch)`.
      params: what `v` is shaped as.
      key: of the first vector.
      k: how many, from 1 to `steps` and the number of values in `params`.
      steps: products with `M`. The residuals say whether they were enough.
      start: a first vector from which fewer are, as the eigenvector of a training step before.

    Raises:
      ValueError: if `k` is out of its range, or `start` not shaped as `params`.

    References:
      Golub and Van Loan, *Matrix Computations*, 4th edition, chapter 10.
    """
    limit = min(steps, tree.size(params))
    if not 1 <= k <= limit:
        raise ValueError(f"top_eigenvalues: k must be from 1 to {limit} (the steps), got {k}")
    found = lanczos(product, params, key, steps, start=start)
    values, rotations = jnp.linalg.eigh(_matrix(found))
    values, rotations = values[::-1][:k], rotations[:, ::-1][:, :k]
    vectors = rotations.T @ found.basis
    vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    residuals = jnp.abs(found.off_diagonal[-1] * rotations[-1])
    _, unravel = ravel_pytree(widened(params))
    return Eigenpairs(values, jax.vmap(unravel)(vectors), residuals)


class Spectrum(NamedTuple):
    """Where the eigenvalues of a matrix lie: a sum of weights at places, for each probe."""

    nodes: Array
    """`[probes, m]`"""
    weights: Array
    """`[probes, m]`; those of a probe sum to 1."""


def density(found: Spectrum, x: ArrayLike, width: ArrayLike) -> Array:
    """The share of eigenvalues per unit at each `x [...]`, smoothed by a normal of `width`."""
    x, width = jnp.asarray(x), jnp.asarray(width)
    apart = (jnp.reshape(x, (-1, 1, 1)) - found.nodes[None]) / width
    bumps = jnp.exp(-0.5 * apart**2) / (width * jnp.sqrt(2 * jnp.pi))
    return jnp.mean(jnp.sum(bumps * found.weights[None], -1), -1).reshape(jnp.shape(x))


def spectrum(
    product: Product, params: Params, key: Key, *, probes: int = 8, steps: int = 64
) -> Spectrum:
    """The density of a symmetric matrix's eigenvalues, by stochastic Lanczos quadrature.

    For a random vector `b` of length 1, `bᵀ f(M) b ≈ Σ_i w_i f(θ_i)`, with `θ` the eigenvalues of
    Lanczos's `T` and `w_i` the squared first entries of its eigenvectors: exact for polynomials of
    degree below `2 steps`. Its mean over `b` is the mean of `f` over the eigenvalues of `M`.

    Args:
      product: `v -> M v`, `M` symmetric.
      params: what `v` is shaped as.
      key: of the vectors.
      probes: how many of them, one after the other.
      steps: products for each.

    Raises:
      ValueError: if `probes` or `steps` is below 1.

    References:
      Ghorbani, Krishnan and Xiao, [An investigation into neural net optimization via Hessian
      eigenvalue density](https://arxiv.org/abs/1901.10159), 2019.
    """
    if probes < 1:
        raise ValueError(f"spectrum: probes must be at least 1, got {probes}")

    def one(key: Key) -> tuple[Array, Array]:
        values, rotations = jnp.linalg.eigh(_matrix(lanczos(product, params, key, steps)))
        return values, rotations[0] ** 2

    return Spectrum(*jax.lax.map(one, jax.random.split(key, probes)))
