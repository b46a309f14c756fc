"""Dropout: each value is zeroed with probability `rate`, the rest scaled by `1 / (1 - rate)`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete, require_floating
from jaxnets.types import Array, ArrayLike, Key


def dropout(
    x: Array, rate: ArrayLike, *, key: Key | None = None, shared_axes: Sequence[int] = ()
) -> Array:
    """`y = x · mask / (1 - rate)`, `mask ~ Bernoulli(1 - rate)`: the mean stays (Srivastava, 2014).

    Args:
      x: any shape, floating.
      rate: in `[0, 1]`; may be traced (outside `[0, 1]` a traced rate is clipped into it).
      key: the randomness; `None` is evaluation: x comes back as it is.
      shared_axes: axes along which all positions share one mask.

    Raises:
      ValueError: for a concrete rate outside `[0, 1]`, or an axis that x has not.
      TypeError: if x is not floating.
    """
    require_floating("dropout", x=x)
    known = concrete(rate)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"dropout: rate must be in [0, 1], got {known}")
    if not all(-x.ndim <= axis < x.ndim for axis in shared_axes):
        raise ValueError(f"dropout: shared_axes must be axes of x {x.shape}, got {shared_axes}")
    if key is None or (known is not None and known == 0):
        return x
    shared = {axis % x.ndim for axis in shared_axes}
    shape = [1 if axis in shared else size for axis, size in enumerate(x.shape)]
    keep = jnp.clip(1 - jnp.asarray(rate, jnp.float32), 0, 1)
    mask = jax.random.bernoulli(key, keep, shape)
    # at rate 1 nothing is kept, and 1 / keep must not reach the gradient as 0 · inf
    scale = jnp.where(keep > 0, 1 / jnp.where(keep > 0, keep, 1), 0)
    return jnp.where(jnp.broadcast_to(mask, x.shape), x * scale.astype(x.dtype), 0)


def spatial_dropout(
    x: Array, rate: ArrayLike, *, key: Key | None = None, spatial: int = 2
) -> Array:
    """Dropout of whole channels of `[..., *space, channels]` (Tompson et al., 2015).

    Neighbouring positions are alike, so zeroing some of them takes away little; zeroing a channel
    everywhere does. Arguments and errors as for `dropout`; `spatial` is the number of spatial axes.
    """
    if x.ndim < spatial + 1:
        raise ValueError(
            f"spatial_dropout: x must be [..., {'space, ' * spatial}channels] for "
            f"spatial={spatial}, got {list(x.shape)}"
        )
    return dropout(x, rate, key=key, shared_axes=range(x.ndim - 1 - spatial, x.ndim - 1))
