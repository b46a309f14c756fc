"""Kronecker factors of the Fisher matrix: what K-FAC knows of each layer.

A layer `y = x W + b` that an example meets at `T` positions has the gradient `Σ_t ā_t ⊗ g_t`, with
`ā = (x, 1)` and `g` the error signal. Its block of the Fisher matrix is taken to be

    F ≈ T · A ⊗ G,   A = E[ā āᵀ],   G = E[g gᵀ]

with means over examples and positions: those of a convolution, of a sequence, of the turns of a
loop. For one position this is K-FAC (Martens and Grosse, 2015), for a convolution KFC (Grosse and
Martens, 2016): independence of activations and error signals, errors uncorrelated between
positions. Parameters of anything else get the diagonal of their block, `E[g²]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.gradients.layout import Layout, bias_of, layout_of
from jaxnets.gradients.moments import second_moments
from jaxnets.gradients.outer import Outer
from jaxnets.gradients.plans import Used, outer_products, uses_by_parameter, wide
from jaxnets.gradients.program import Factors
from jaxnets.types import Array, Params

LARGEST = 4096
"""Rows of the largest factor that is kept and inverted; layers with larger ones are diagonal."""


@dataclass(frozen=True)
class Layer:
    """A kernel, and the bias that is added to its products."""

    kernel: str
    """Its path."""
    bias: str | None
    groups: int
    """`n` blocks of their own: groups of a convolution, layers of a stack."""
    n_in: int
    """`d`, with the bias's 1."""
    n_out: int
    """`k`"""
    positions: int
    """`T`"""
    layout: Layout
    """How the kernel is `[n, d, k]`; a bias is `[n, k]`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KroneckerBlock:
    """`F ≈ T · A ⊗ G`, for each of `n` groups."""

    inputs: Array
    """`A [n, d, d]`; with a bias, the last row and column are of the 1 that it is multiplied by."""
    signals: Array
    """`G [n, k, k]`"""
    layer: Layer = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagonalBlock:
    """`F ≈ diag(E[g²])`."""

    diagonal: Array
    """Shaped as the parameter."""
    path: str = field(metadata={"static": True})


Block: TypeAlias = KroneckerBlock | DiagonalBlock
Blocks: TypeAlias = list[Block]
"""A block for each layer, and for each parameter that is in none; a pytree."""


def kfac_factors(factors: Factors, *, largest: int = LARGEST) -> Blocks:
    """The Kronecker factors of every dense and convolutional layer, diagonals of the rest.

    Layers are recognized by what is computed, not by their names: a kernel that meets the example
    in a matrix product or a convolution, with its axes rearranged at most on the way, and a bias
    that is added to the result, one number for each output. A kernel with several uses, as in an
    unrolled recurrent net, is one layer of so many more positions.

    Args:
      factors: of a batch. For the Fisher matrix, the loss must have had targets drawn from the
        model, see `kfac_step`; with the data's own targets it is the empirical Fisher matrix.
      largest: kernels with a factor of more rows than this get a diagonal.

    Returns:
      Blocks, in float32 at least. `jax.eval_shape` of it costs nothing and says what is in which.

    Raises:
      ValueError: if `largest` is below 1.
      TypeError: if a parameter is complex.

    References:
      Martens and Grosse, [Optimizing neural networks with Kronecker-factored approximate
      curvature](https://arxiv.org/abs/1503.05671), 2015; Grosse and Martens, [A Kronecker-factored
      approximate Fisher matrix for convolution layers](https://arxiv.org/abs/1602.01407), 2016;
      Martens, Ba and Johnson, [Kronecker-factored curvature approximations for recurrent neural
      networks](https://openreview.net/forum?id=HyMTkQZAb), 2018.
    """
    if largest < 1:
        raise ValueError(f"kfac_factors: largest must be at least 1, got {largest}")
    paths = factors.program.paths
    for path, leaf in zip(paths, factors.params, strict=True):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"kfac_factors: params must be real, got {leaf.dtype} at {path!r}")
    used = uses_by_parameter(factors)
    # a stack of no layers has no matrices
    some = {i: found for i, found in used.items() if factors.params[i].size}
    kernels = {i: layout for i, found in some.items() if (layout := layout_of(found))}
    biases = _biases(used, kernels)
    blocks: dict[int, Block] = {}
    for kernel, layout in kernels.items():
        bias = next((b for b, k in biases.items() if k == kernel), None)
        block = _block(used[kernel], layout, paths[kernel], None if bias is None else paths[bias])
        if max(block.layer.n_in, block.layer.n_out) <= largest:
            blocks[kernel] = block
    inside = {b for b, kernel in biases.items() if kernel in blocks} | blocks.keys()
    rest = [i for i in used if i not in inside]
    for i, moment in zip(rest, second_moments(factors, rest), strict=True):
        blocks[i] = DiagonalBlock(moment, paths[i])
    return [blocks[i] for i in sorted(blocks)]


def _biases(used: Mapping[int, Sequence[Used]], kernels: Mapping[int, Layout]) -> dict[int, int]:
    """For each bias its kernel."""
    found: dict[int, int] = {}
    for i, uses in used.items():
        for kernel, layout in kernels.items():
            if kernel not in found.values() and bias_of(uses, used[kernel], layout):
                found[i] = kernel
                break
    return found


def layer_products(found: Sequence[Used], bias: bool) -> Outer:
    """`ā [B, n, t, d]` and `g [B, n, t, k]` of all uses of a kernel, in float32 at least."""
    products = [outer_products(used) for used in found]
    x = jnp.concatenate([wide(y.x) for y in products], 2)
    error = jnp.concatenate([wide(y.error) for y in products], 2)
    return Outer(jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1) if bias else x, error)


def _block(found: Sequence[Used], layout: Layout, kernel: str, bias: str | None) -> KroneckerBlock:
    x, error = layer_products(found, bias is not None)
    examples, groups, positions, n_in = x.shape
    # a layer that is met nowhere (in a scan of no turns) has factors of 0, whatever T is called
    positions = max(positions, 1)

    def second(y: Array) -> Array:
        return jnp.einsum("bntd,bnte->nde", y, y) / (examples * positions)

    layer = Layer(kernel, bias, groups, n_in, error.shape[3], positions, layout)
    return KroneckerBlock(second(x), second(error), layer)


def to_matrix(leaves: Mapping[str, Array], layer: Layer) -> Array:
    """A layer's leaves as `[n, d, k]`, the bias as the last row."""
    matrix = layer.layout.to_matrix(leaves[layer.kernel])
    if layer.bias is None:
        return matrix
    bias = leaves[layer.bias].reshape(layer.groups, 1, layer.n_out)
    return jnp.concatenate([matrix, bias], 1)


def from_matrix(matrix: Array, leaves: Mapping[str, Array], layer: Layer) -> dict[str, Array]:
    """The inverse of `to_matrix`; shapes are those of `leaves`."""
    kernel = matrix if layer.bias is None else matrix[:, :-1]
    found = {layer.kernel: layer.layout.from_matrix(kernel, leaves[layer.kernel].shape)}
    if layer.bias is not None:
        found[layer.bias] = matrix[:, -1].reshape(leaves[layer.bias].shape)
    return found


def by_layer(function: Any, blocks: Blocks, params: Params) -> Params:
    """`params` with each block's part replaced.

    Args:
      function: `(block, part) -> part`; of a layer the part is a matrix `[n, d, k]`.
      blocks: from `kfac_factors`, or the like.
      params: shaped as the parameters that the blocks are of.

    Raises:
      ValueError: if they are not.
    """
    leaves = tree.flatten_with_paths(params)
    known = [
        path
        for block in blocks
        for path in (
            (block.path,)
            if isinstance(block, DiagonalBlock)
            else (block.layer.kernel, block.layer.bias)
        )
        if path is not None
    ]
    if set(known) != set(leaves):
        missing, added = sorted(set(known) - set(leaves)), sorted(set(leaves) - set(known))
        raise ValueError(
            "the blocks are of other parameters: " + tree.missing_and_added(missing, added)
        )
    new: dict[str, Array] = {}
    for block in blocks:
        if isinstance(block, DiagonalBlock):
            new[block.path] = function(block, leaves[block.path])
        else:
            matrix = function(block, to_matrix(leaves, block.layer))
            new |= from_matrix(matrix, leaves, block.layer)
    return jax.tree.unflatten(jax.tree.structure(params), [new[path] for path in leaves])
