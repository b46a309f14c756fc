"""One matrix for each axis of a parameter: what Shampoo and SOAP are made of.

A gradient `G` of shape `[d₁, ..., d_k]` has, for each axis, the Gram matrix of its unfolding,
`G₍ᵢ₎ G₍ᵢ₎ᴴ` of shape `[dᵢ, dᵢ]`: for a matrix `G Gᴴ` and `Gᵀ G*`. Their Kronecker product stands in
for the full second moment of the gradient, which has `(d₁ ··· d_k)²` entries.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.optim.decay import Mask, mask_tree
from jaxnets.optim.leaves import require_inexact_leaves
from jaxnets.types import Array, Params, PyTree, Shape


def gram(g: Array, axis: int, precision: Any = None) -> Array:
    """`G₍ᵢ₎ G₍ᵢ₎ᴴ`, of shape `[dᵢ, dᵢ]`, where the rows of `G₍ᵢ₎` run along `axis`."""
    others = [i for i in range(g.ndim) if i != axis]
    return jnp.tensordot(g, g.conj(), (others, others), precision=precision)


def gram_diagonal(g: Array, axis: int) -> Array:
    """The diagonal of `gram(g, axis)`: the squared norm of each slice."""
    others = tuple(i for i in range(g.ndim) if i != axis)
    return jnp.sum((g * g.conj()).real, others)


def along_axes(g: Array, matrices: Sequence[Array | None], precision: Any = None) -> Array:
    """`Σᵢ M[i, j] G[..., i, ...]` along each axis; `M g` with `M` diagonal where it is a vector.

    For two matrices `A` and `B`, this is `Aᵀ G B`. None is the identity.
    """
    for matrix in matrices:
        # the first axis becomes the last, so that in the end all are in their places again
        if matrix is not None and matrix.ndim == 2:
            g = jnp.tensordot(g, matrix, ((0,), (0,)), precision=precision)
        else:
            g = jnp.moveaxis(g, 0, -1)
            if matrix is not None:
                g = g * matrix.reshape((1,) * (g.ndim - 1) + (-1,))
    return g


def merged(shape: Shape, largest: int) -> Shape:
    """`shape` with neighboring axes made one while their product is at most `largest`."""
    axes = [1]
    for size in shape:
        if axes[-1] * size <= largest:
            axes[-1] *= size
        elif axes[-1] > 1:
            axes.append(size)
        else:
            axes[-1:] = [size, 1]
    return tuple(axes[:-1] if axes[-1] == 1 and len(axes) > 1 else axes)


def stack_flags(stacked: Mask | None, tree: PyTree) -> PyTree:
    """For each leaf whether its first axis counts the layers of a stack."""
    return jax.tree.map(lambda _: False, tree) if stacked is None else mask_tree(stacked, tree)


def factors_like(params: Params, stacks: PyTree, shapes: Any) -> PyTree:
    """For each parameter the tuple of zeros of `shapes(shape)`, one shape (or None) for each axis.

    Args:
      params: a pytree of arrays.
      stacks: for each whether it is a stack; its factors are then stacks too.
      shapes: from the shape of a parameter, of one layer for a stack, to those of its factors.
    """
    require_inexact_leaves("parameters", params)

    def zeros(p: Any, stack: bool) -> tuple[Array | None, ...]:
        shape, dtype = jnp.shape(p), jnp.promote_types(jnp.result_type(p), jnp.float32)
        if stack and not shape:
            raise ValueError("stacked: a scalar is no stack of layers; leave it out of the mask")
        leading = shape[:1] if stack else ()
        return tuple(
            None if factor is None else jnp.zeros((*leading, *factor), dtype)
            for factor in shapes(shape[len(leading) :])
        )

    return jax.tree.map(zeros, params, stacks)
