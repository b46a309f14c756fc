"""Numbers that neither overflow nor have a derivative of NaN."""

import jax.numpy as jnp

from jaxnets import tree
from jaxnets.optim.hyper import increment
from jaxnets.optim.leaves import rms
from jaxnets.optim.transform import Updates
from jaxnets.types import Array, ArrayLike


def global_norm(updates: Updates) -> Array:
    """`√Σ|g|²` over all leaves: see `jaxnets.tree.global_norm`."""
    return tree.global_norm(updates)


def safe_increment(count: ArrayLike) -> Array:
    """`count + 1`, staying at the largest number of its dtype instead of wrapping around.

    Args:
      count: integers or floating-point numbers.

    Raises:
      ValueError: for another dtype.
    """
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        return increment(count)
    if jnp.issubdtype(count.dtype, jnp.floating):
        largest = jnp.finfo(count.dtype).max  # type: ignore[no-untyped-call]
        return jnp.minimum(count + 1, largest)
    raise ValueError(f"safe_increment: count must be integer or floating, got {count.dtype}")


def safe_norm(
    x: ArrayLike,
    min_norm: ArrayLike,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Array:
    """`max(‖x‖, c)`, whose derivative is 0 where `‖x‖ ≤ c`, also at 0.

    Args:
      x: an array.
      min_norm: `c ≥ 0`.
      ord, axis, keepdims: which norm, as in `jnp.linalg.norm`.
    """
    x = jnp.asarray(x)

    def norm(x: Array, keepdims: bool) -> Array:
        norms: Array = jnp.linalg.norm(x, ord=ord, axis=axis, keepdims=keepdims)
        return norms

    # the branch not taken must have a finite derivative too
    some = jnp.where(norm(x, True) <= min_norm, jnp.ones_like(x), x)
    return jnp.where(norm(x, keepdims) <= min_norm, min_norm, norm(some, keepdims))


def safe_root_mean_squares(x: ArrayLike, min_rms: ArrayLike) -> Array:
    """`max(√mean |x|², c)`, whose derivative is 0 where the root mean square is `c` at most.

    It neither overflows nor underflows while the root mean square itself does not.

    Args:
      x: an array.
      min_rms: `c ≥ 0`.
    """
    root = rms(jnp.asarray(x))
    larger: Array = jnp.where(root <= min_rms, min_rms, root)
    return larger
