"""The natural gradient `F⁻¹ g`, with `F` by Kronecker factors and damped."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.gradients.kronecker import Block, Blocks, DiagonalBlock, by_layer
from jaxnets.types import Array, ArrayLike, Params


def _inverse(matrices: Array) -> Array:
    """Of symmetric positive definite matrices `[n, d, d]`."""
    roots = jnp.linalg.cholesky(matrices)
    eye = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)
    inverse: Array = jax.vmap(lambda c, b: jax.scipy.linalg.cho_solve((c, True), b))(roots, eye)
    return inverse


def _plus(matrices: Array, diagonal: Array) -> Array:
    eye = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    return matrices + diagonal[:, None, None] * eye[None]


def _mean_eigenvalue(matrices: Array) -> Array:
    return jnp.trace(matrices, axis1=1, axis2=2) / matrices.shape[-1]


def inverses(blocks: Blocks, damping: ArrayLike) -> Blocks:
    """The inverse of every block, damped by factored Tikhonov regularization.

    `T · A ⊗ G + λ I` is no Kronecker product. In its place stands

        T · (A + π √(λ/T) I) ⊗ (G + √(λ/T)/π I),   π² = (tr A / d) / (tr G / k)

    and for a diagonal block `E[g²] + λ`.

    Args:
      blocks: from `kfac_factors`, or averages of them.
      damping: `λ > 0`.

    Returns:
      Blocks of the inverses' factors, the `1/T` in that of the inputs; for `natural_gradient`.

    References:
      Martens and Grosse, 2015, section 6.3.
    """
    damping = jnp.asarray(damping)

    def inverse(block: Block) -> Block:
        if isinstance(block, DiagonalBlock):
            return replace(block, diagonal=1 / (block.diagonal + damping))
        a, g = block.inputs, block.signals
        # of factors that are 0 there is no ratio
        tiny = np.finfo(a.dtype).tiny
        pi = jnp.sqrt(
            jnp.maximum(_mean_eigenvalue(a), tiny) / jnp.maximum(_mean_eigenvalue(g), tiny)
        )
        pi = jnp.clip(pi, 1e-6, 1e6)
        root = jnp.sqrt(damping / block.layer.positions).astype(a.dtype)
        return replace(
            block,
            inputs=_inverse(_plus(a, pi * root)) / block.layer.positions,
            signals=_inverse(_plus(g, root / pi)),
        )

    return [inverse(block) for block in blocks]


def natural_gradient(inverse: Blocks, gradient: Params) -> Params:
    """`F⁻¹ g`: of each layer `A⁻¹ V G⁻¹`, with `V` its gradient as a matrix `[d, k]`.

    Args:
      inverse: from `inverses`.
      gradient: shaped as the parameters.

    Raises:
      ValueError: if the blocks are not of these parameters.
    """

    def solve(block: Block, part: Array) -> Array:
        if isinstance(block, DiagonalBlock):
            return jnp.asarray(block.diagonal * part, part.dtype)
        solved = jnp.einsum("nij,njk,nkl->nil", block.inputs, part, block.signals)
        return jnp.asarray(solved, part.dtype)

    return by_layer(solve, inverse, gradient)
