"""The linear map `y = x W + b`, and embedding: the linear map of a one-hot vector."""

import math

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete, is_split, require_floating
from jaxnets.equations import keeps_leading_axes
from jaxnets.nn.initializers import lecun_normal, variance_scaling, zeros
from jaxnets.types import Array, DTypeLike, Initializer, Key, Params


def add_bias(params: Params, y: Array) -> Array:
    """`y + bias` along the last axis; `y` itself where `params` has no bias."""
    if "bias" not in params:
        return y
    return y + jnp.broadcast_to(params["bias"].astype(y.dtype), y.shape)


@keeps_leading_axes
def _rows_times(x: Array, kernel: Array) -> Array:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return (rows @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def matmul(x: Array, kernel: Array) -> Array:
    """`x W`, `[..., n_out]` in x's dtype; on CPUs as the product of one matrix of all rows.

    Of the gradient `Σ x ⊗ dy` over several axes XLA makes there a transposed copy of `dy`, into
    which it fuses all that led to `dy`: in a residual net, the whole backward pass so far.
    """
    kernel = kernel.astype(x.dtype)
    if x.ndim <= 2 or jax.default_backend() != "cpu" or is_split(x, slice(1, -1)):
        return x @ kernel
    return _rows_times(x, kernel)


def init_dense(
    key: Key,
    n_in: int,
    n_out: int,
    *,
    bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"kernel": [n_in, n_out], "bias": [n_out]}`."""
    params = {"kernel": kernel_init(key, (n_in, n_out), dtype)}
    if bias:
        params["bias"] = bias_init(jax.random.fold_in(key, 1), (n_out,), dtype)
    return params


def dense(params: Params, x: Array) -> Array:
    """`y = x W + b`, computed in x's dtype.

    Args:
      params: `kernel [n_in, n_out]` and, optionally, `bias [n_out]`.
      x: `[..., n_in]`.

    Returns:
      `[..., n_out]`.

    Raises:
      ValueError: if x's last axis is not `n_in`.
      TypeError: if x is not floating.
    """
    x = jnp.asarray(x)
    require_floating("dense", x=x)
    kernel = params["kernel"]
    if x.ndim < 1 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"dense: x must be [..., {kernel.shape[0]}] to meet a kernel {list(kernel.shape)}, "
            f"got {list(x.shape)}"
        )
    return add_bias(params, matmul(x, kernel))


def init_embedding(
    key: Key,
    n: int,
    features: int,
    *,
    embedding_init: Initializer = variance_scaling(1.0, "fan_out", "normal"),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"embedding": [n, features]}`: a vector for each of `n` ids."""
    return {"embedding": embedding_init(key, (n, features), dtype)}


def embedding(params: Params, ids: Array) -> Array:
    """`E[ids]`: the rows of the table that `ids` name.

    Args:
      params: `embedding [n, features]`.
      ids: integers `[...]` in `[0, n)`.

    Returns:
      `[..., features]` in the table's dtype. Under `jit` an id outside `[0, n)` gives NaN.

    Raises:
      TypeError: if `ids` are not integers.
      ValueError: if `ids` are concrete and one is outside `[0, n)`.
    """
    values = concrete(ids)
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"embedding: ids must be integers, got {ids.dtype}{list(ids.shape)}")
    table = params["embedding"]
    n = table.shape[0]
    if values is not None and values.size and (values.min() < 0 or values.max() >= n):
        raise ValueError(
            f"embedding: ids must be in [0, {n}), got {values.min()} to {values.max()}"
        )
    # a negative id would wrap around: send it out of range with the others
    return jnp.take(table, jnp.where(ids < 0, n, ids), axis=0, mode="fill", fill_value=jnp.nan)


def attend(params: Params, x: Array) -> Array:
    """`x Eᵀ`: logits over the ids from features, by the embedding's own table (tied weights).

    Args:
      params: `embedding [n, features]`.
      x: `[..., features]`.

    Returns:
      `[..., n]`.
    """
    return dense({"kernel": params["embedding"].T}, x)
