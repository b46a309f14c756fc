"""Pooling: the maximum or mean of each window.

A window is a few strided views of its axis, so pooling is elementwise arithmetic on views, one
spatial axis after the other. XLA fuses that both ways; its own window reduction has a derivative
(select-and-scatter) that is tens of times slower on the CPU.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.checks import require_floating, require_real
from jaxnets.nn.conv import Padding, per_axis, resolve_padding
from jaxnets.types import Array


@jax.custom_jvp
def _first_maximum(a: Array, b: Array) -> Array:
    """`max(a, b)`, with the derivative of `a` where they tie (`jnp.maximum` gives half to each)."""
    return jnp.maximum(a, b)


@_first_maximum.defjvp
def _first_maximum_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _first_maximum(a, b), jnp.where(a >= b, da, db)


def _pool_axis(
    combine: Callable[[Array, Array], Array], x: Array, axis: int, window: int, stride: int
) -> Array:
    """`y[p] = combine_w x[p · stride + w]` along one axis."""
    last = x.shape[axis] - window
    views = (lax.slice_in_dim(x, start, start + last + 1, stride, axis) for start in range(window))
    return reduce(combine, views)


def _pool(
    function: str,
    combine: Callable[[Array, Array], Array],
    padding_value: float,
    x: Array,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    spatial: int,
) -> Array:
    n = spatial if isinstance(window, int) else len(window)
    if x.ndim < n + 1:
        raise ValueError(
            f"{function}: x must be [..., {'space, ' * n}channels] for {n} spatial axes, "
            f"got {list(x.shape)}"
        )
    window = per_axis(function, "window", window, n)
    stride = per_axis(function, "stride", stride, n)
    space = x.shape[-n - 1 : -1]
    pads = resolve_padding(function, padding, space, window, stride, (1,) * n)
    if any(not 0 <= side < w for pair, w in zip(pads, window, strict=True) for side in pair):
        raise ValueError(
            f"{function}: padding must not be negative, nor as large as the window {window}, "
            f"got {padding!r}"
        )
    if any(s + low + high < w for s, w, (low, high) in zip(space, window, pads, strict=True)):
        raise ValueError(f"{function}: window {window} is larger than x's space {space}")
    if any(low or high for low, high in pads):
        full = [(0, 0)] * (x.ndim - n - 1) + list(pads) + [(0, 0)]
        x = jnp.pad(x, full, constant_values=padding_value)
    # the last axis first: ties then fall to the first in row-major order
    for axis in reversed(range(n)):
        x = _pool_axis(combine, x, x.ndim - n - 1 + axis, window[axis], stride[axis])
    return x


def _lowest(x: Array) -> float | int:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        require_real("max_pool", x=x)
    return -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else int(np.iinfo(x.dtype).min)


def max_pool(
    x: Array,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding = "VALID",
    *,
    spatial: int = 2,
) -> Array:
    """`y[p] = max_w x[p · stride + w]`; at ties the gradient goes to the first in row-major order.

    Args:
      x: `[..., *space, channels]`.
      window: the size along each spatial axis, or one integer for all.
      stride: likewise. It has no default: Flax's and Equinox's is 1, PyTorch's is the window.
      padding: as for `conv`; what is padded is never the maximum.
      spatial: the number of spatial axes, where `window` is one integer.

    Returns:
      `[..., *space', channels]`.

    Raises:
      ValueError: if a shape, window, stride or padding does not fit.
    """
    lowest = _lowest(x)
    return _pool("max_pool", _first_maximum, lowest, x, window, stride, padding, spatial)


def avg_pool(
    x: Array,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding = "VALID",
    *,
    count_include_pad: bool = True,
    spatial: int = 2,
) -> Array:
    """`y[p] = mean_w x[p · stride + w]`.

    Args:
      x: `[..., *space, channels]`, floating.
      window, stride, padding, spatial: as for `max_pool`.
      count_include_pad: whether padded zeros count in the mean, as in Flax and PyTorch.

    Returns:
      `[..., *space', channels]`, summed in float32 and returned in x's dtype.

    Raises:
      ValueError: if a shape, window, stride or padding does not fit.
    """
    require_floating("avg_pool", x=x)

    def total(values: Array) -> Array:
        return _pool("avg_pool", jnp.add, 0, values, window, stride, padding, spatial)

    n = spatial if isinstance(window, int) else len(window)
    y = total(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    if count_include_pad:
        return (y / math.prod(per_axis("avg_pool", "window", window, n))).astype(x.dtype)
    counts = total(jnp.ones((*x.shape[-n - 1 : -1], 1), y.dtype))
    return (y / jnp.broadcast_to(counts, y.shape)).astype(x.dtype)


def global_max_pool(x: Array, *, spatial: int = 2) -> Array:
    """The maximum over the spatial axes: `[..., *space, channels] -> [..., channels]`.

    Where values tie, the gradient is shared between them.
    """
    return x.max(_spatial_axes("global_max_pool", x, spatial))


def global_avg_pool(x: Array, *, spatial: int = 2) -> Array:
    """The mean over the spatial axes, in float32: `[..., *space, channels] -> [..., channels]`."""
    require_floating("global_avg_pool", x=x)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return x.mean(_spatial_axes("global_avg_pool", x, spatial), dtype=wide).astype(x.dtype)


def _spatial_axes(function: str, x: Array, spatial: int) -> tuple[int, ...]:
    if x.ndim < spatial + 1:
        raise ValueError(
            f"{function}: x must be [..., {'space, ' * spatial}channels] for spatial={spatial}, "
            f"got {list(x.shape)}"
        )
    return tuple(range(-spatial - 1, -1))
