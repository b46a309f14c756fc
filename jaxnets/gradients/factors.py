"""What is known of a batch's per-example gradients, and the functions that read it.

Callers treat `Factors` as opaque: here it holds the gradients themselves, `[B, ...]` for each
parameter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.types import Array, Params


class Factors(NamedTuple):
    """The per-example gradients of one batch (opaque; a pytree)."""

    gradients: Params


def _matrices(factors: Factors) -> list[Array]:
    """Each leaf as `[B, parameters]`, in float32 or wider."""
    leaves = jax.tree.leaves(factors.gradients)
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    return [leaf.reshape(leaf.shape[0], -1) for leaf in wide]


def materialize(factors: Factors) -> Params:
    """The per-example gradients: `[B, ...]` for each parameter, equal to `vmap(grad(loss))`."""
    return factors.gradients


def sq_norms(factors: Factors) -> Array:
    """`‖gᵢ‖²` over all parameters: `[B]`, accumulated in float32, where 1e20² is infinite."""
    return sum((jnp.sum(jnp.square(jnp.abs(m)), axis=1) for m in _matrices(factors)), _zero())


def norms(factors: Factors) -> Array:
    """`‖gᵢ‖` over all parameters: `[B]`, as long as the norm itself is representable."""
    return jax.vmap(tree.global_norm)(factors.gradients)


def weighted_sum(factors: Factors, weights: Array) -> Params:
    """`Σᵢ wᵢ gᵢ`, shaped and typed as the parameters.

    An example of weight 0 contributes 0 even if its gradient is not finite.

    Args:
      factors: of a batch of B.
      weights: `[B]`.

    Raises:
      ValueError: if `weights` is not `[B]`.
    """

    def total(leaf: Array) -> Array:
        if weights.shape != leaf.shape[:1]:
            raise ValueError(
                f"weighted_sum: weights must be [{leaf.shape[0]}], got {weights.shape}"
            )
        w = weights.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(
            jnp.promote_types(leaf.dtype, jnp.float32)
        )
        w = jnp.broadcast_to(w, leaf.shape)
        return jnp.sum(jnp.where(w == 0, 0, w * leaf), axis=0).astype(leaf.dtype)

    return jax.tree.map(total, factors.gradients)


def gram(factors: Factors, other: Factors | None = None) -> Array:
    """`⟨gᵢ, hⱼ⟩` over all parameters: `[B, B']`; `other=None` pairs the batch with itself."""
    rows = _matrices(factors)
    columns = rows if other is None else _matrices(other)
    return sum((g @ h.conj().T for g, h in zip(rows, columns, strict=True)), _zero())


def dot(factors: Factors, tangent: Params) -> Array:
    """`⟨gᵢ, v⟩`: `[B]`, each example's directional derivative along `tangent`.

    Raises:
      ValueError: if `tangent` has not the structure and shapes of the parameters.
    """
    gradients = tree.flatten_with_paths(factors.gradients)
    vectors = tree.flatten_with_paths(tangent)
    for path in sorted(gradients.keys() | vectors.keys()):
        want = gradients[path].shape[1:] if path in gradients else "nothing"
        got = jnp.shape(vectors[path]) if path in vectors else "nothing"
        if want != got:
            raise ValueError(f"dot: tangent must be shaped as params; {path!r}: {want}, got {got}")
    flat = [jnp.ravel(vectors[path]) for path in gradients]
    # of complex parameters, `grad` gives the conjugate of the direction of ascent
    return sum((jnp.real(m @ v) for m, v in zip(_matrices(factors), flat, strict=True)), _zero())


def second_moment(factors: Factors) -> Params:
    """`1/B Σᵢ |gᵢ|²` elementwise, in float32: shaped as the parameters.

    The diagonal of the empirical Fisher matrix.
    """

    def moment(leaf: Array) -> Array:
        magnitude = jnp.abs(leaf)
        wide = jnp.promote_types(magnitude.dtype, jnp.float32)
        return jnp.mean(jnp.square(magnitude.astype(wide)), axis=0)

    return jax.tree.map(moment, factors.gradients)


def _zero() -> Array:
    return jnp.zeros(())
