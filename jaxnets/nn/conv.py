"""Convolution over one to three spatial axes, channels last, and its transpose.

A derivative of a convolution is a convolution again, but the one that automatic transposition
writes has its axes in an order that XLA's CPU backend runs natively only outside loops: inside
`lax.scan` a training step is 10 to 30 times slower. The derivative below is the same sum with the
operands transposed beforehand, so that reverse mode meets convolutions in the canonical order
(images `[batch, *space, channels]`, kernels `[*window, in, out]`) wherever it stands.
"""

import math
from collections.abc import Sequence
from functools import partial
from operator import index
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import require_floating
from jaxnets.nn.dense import add_bias
from jaxnets.nn.initializers import lecun_normal, zeros
from jaxnets.types import Array, DTypeLike, Initializer, Key, Params

Padding = str | int | Sequence[int | tuple[int, int]]


def per_axis(function: str, name: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    """A positive integer for each of `n` spatial axes; one integer stands for all."""
    try:
        values = tuple(map(index, value if isinstance(value, Sequence) else (value,) * n))
    except TypeError:
        values = ()
    if len(values) != n or min(values) < 1:
        raise ValueError(
            f"{function}: {name} must be a positive integer or {n} of them, got {value!r}"
        )
    return values


def resolve_padding(
    function: str,
    padding: Padding,
    space: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """`(low, high)` for each spatial axis.

    `"VALID"` pads nothing; `"SAME"` as TensorFlow does, so that the output has `⌈size / stride⌉`
    positions; `"CAUSAL"` only below, so that position t sees no position after t.
    """
    reach = [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
    match padding:
        case "VALID":
            return ((0, 0),) * len(reach)
        case "CAUSAL":
            return tuple((r, 0) for r in reach)
        case "SAME":
            effective = [r + 1 for r in reach]
            return tuple(lax.padtype_to_pads(space, effective, stride, "SAME"))
        case int():
            return ((padding, padding),) * len(reach)
        case [*entries] if len(entries) == len(reach):
            pairs = [entry if isinstance(entry, Sequence) else (entry, entry) for entry in entries]
            if all(len(p) == 2 and all(isinstance(side, int) for side in p) for p in pairs):
                return tuple((low, high) for low, high in pairs)
    raise ValueError(
        f"{function}: padding must be 'SAME', 'VALID', 'CAUSAL', an integer, or one integer or "
        f"(low, high) pair for each of the {len(reach)} spatial axes, got {padding!r}"
    )


class _Geometry(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def _lax_conv(x: Array, kernel: Array, geometry: _Geometry, layout: Any) -> Array:
    stride, padding, dilation, groups = geometry
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=layout,
        feature_group_count=groups,
    )  # fmt: skip


def _canonical(n: int) -> lax.ConvDimensionNumbers:
    """Images `[batch, *space, channels]`, kernels `[*window, in, out]`."""
    image, kernel = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
    return lax.ConvDimensionNumbers(image, kernel, image)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    return _lax_conv(x, kernel, geometry, _canonical(x.ndim - 2))


@_conv.defjvp
def _conv_jvp(
    geometry: _Geometry, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _conv(x, kernel, geometry)
    if geometry.groups > 1:
        canonical = _canonical(x.ndim - 2)
        dy = _lax_conv(dx, kernel, geometry, canonical)
        return y, dy + _lax_conv(x, dkernel, geometry, canonical)
    return y, _along_x(dx, kernel, geometry) + _along_kernel(x, dkernel, geometry)


def _along_x(dx: Array, kernel: Array, geometry: _Geometry) -> Array:
    """`conv(dx, kernel)`, whose transpose is a canonical convolution of the error signal."""
    n = dx.ndim - 2
    image, _, _ = _canonical(n)
    in_out_swapped = (n, n + 1, *range(n))
    layout = lax.ConvDimensionNumbers(image, in_out_swapped, image)
    return _lax_conv(dx, kernel.swapaxes(-1, -2), geometry, layout)


def _along_kernel(x: Array, dkernel: Array, geometry: _Geometry) -> Array:
    """`conv(x, dkernel)`, whose transpose is a canonical convolution of x with the error signal.

    There the channels of x are the batch, the batch is what is summed over, the error signal is
    the kernel, and the window's positions are the output's.
    """
    n = x.ndim - 2
    space = tuple(range(1, n + 1))
    layout = lax.ConvDimensionNumbers(
        (n + 1, 0, *space),  # [channels, *space, batch]
        (n + 1, 0, *space),  # [in, *window, out]
        (n, n + 1, *range(n)),  # [*space, batch, out]
    )
    dy = _lax_conv(jnp.swapaxes(x, 0, -1), jnp.moveaxis(dkernel, -2, 0), geometry, layout)
    return jnp.moveaxis(dy, n, 0)


def init_conv(
    key: Key,
    window: Sequence[int],
    n_in: int,
    n_out: int,
    *,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"kernel": [*window, n_in / groups, n_out], "bias": [n_out]}`.

    Args:
      window: the size along each spatial axis, as `(3, 3)`; its length (1 to 3) is their number.
      groups: how many groups channels are split into; `groups=n_in` is a depthwise convolution.

    Raises:
      ValueError: if `window` is not 1 to 3 positive integers or `groups` does not divide both
        `n_in` and `n_out`.
    """
    if not isinstance(window, Sequence) or not 1 <= len(window) <= 3 or min(window) < 1:
        raise ValueError(f"init_conv: window must be 1 to 3 positive integers, got {window}")
    window = tuple(window)
    if groups < 1 or n_in % groups or n_out % groups:
        raise ValueError(
            f"init_conv: groups must divide n_in {n_in} and n_out {n_out}, got {groups}"
        )
    params = {"kernel": kernel_init(key, (*window, n_in // groups, n_out), dtype)}
    if bias:
        params["bias"] = bias_init(jax.random.fold_in(key, 1), (n_out,), dtype)
    return params


def _as_batch(function: str, x: Array, kernel: Array, channels: int) -> Array:
    """`x [..., *space, channels]` as `[batch, *space, channels]`."""
    require_floating(function, x=x)
    n = kernel.ndim - 2
    if x.ndim < n + 1 or x.shape[-1] != channels:
        space = ", ".join("space" for _ in range(n))
        raise ValueError(
            f"{function}: x must be [..., {space}, {channels}] to meet a kernel "
            f"{list(kernel.shape)}, got {list(x.shape)}"
        )
    lead = math.prod(x.shape[: -n - 1])
    return x.reshape(lead, *x.shape[-n - 1 :])


def conv(
    params: Params,
    x: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """`y[p, o] = Σ_{w, i} x[p · stride + w · dilation, i] W[w, i, o] + b[o]`.

    A cross-correlation, as everywhere in this field. Computed in x's dtype.

    Args:
      params: `kernel [*window, in / groups, out]` and, optionally, `bias [out]`.
      x: `[..., *space, in]`, as many spatial axes as the window has.
      stride: one integer, or one for each spatial axis.
      padding: `"SAME"`, `"VALID"`, `"CAUSAL"`, an integer, or an integer or `(low, high)` pair for
        each spatial axis; padded with zeros.
      dilation: the distance between the window's positions in x.
      groups: output group g sees only input group g.

    Returns:
      `[..., *space', out]`.

    Raises:
      ValueError: if a shape, padding, stride, dilation or group does not fit.
      TypeError: if x is not floating.
    """
    kernel = params["kernel"].astype(x.dtype)
    *window, n_in, n_out = kernel.shape
    if groups < 1 or n_out % groups:
        raise ValueError(f"conv: groups must divide the {n_out} output channels, got {groups}")
    n = len(window)
    batch = _as_batch("conv", x, kernel, n_in * groups)
    stride = per_axis("conv", "stride", stride, n)
    dilation = per_axis("conv", "dilation", dilation, n)
    padding = resolve_padding("conv", padding, batch.shape[1:-1], window, stride, dilation)
    y = _conv(batch, kernel, _Geometry(stride, padding, dilation, groups))
    return add_bias(params, y.reshape(*x.shape[: -n - 1], *y.shape[1:]))


def conv_transpose(
    params: Params,
    x: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Array:
    """Fractionally strided convolution: x with `stride - 1` zeros between positions, convolved.

    With `"SAME"` a spatial axis grows from `size` to `size · stride`. The kernel is not flipped, as
    in `flax.linen.ConvTranspose` and `jax.lax.conv_transpose`.

    Args:
      params: `kernel [*window, in, out]` and, optionally, `bias [out]` (from `init_conv`).
      x: `[..., *space, in]`.
      stride: the upsampling factor, one integer or one for each spatial axis.
      padding: `"SAME"`, `"VALID"`, or an integer or `(low, high)` pair for each spatial axis of
        the zero-filled x.
      dilation: the distance between the window's positions.

    Returns:
      `[..., *space', out]`.

    Raises:
      ValueError: if a shape, padding, stride or dilation does not fit.
      TypeError: if x is not floating.
    """
    kernel = params["kernel"].astype(x.dtype)
    *window, n_in, _ = kernel.shape
    n = len(window)
    batch = _as_batch("conv_transpose", x, kernel, n_in)
    stride = per_axis("conv_transpose", "stride", stride, n)
    dilation = per_axis("conv_transpose", "dilation", dilation, n)
    if padding not in ("SAME", "VALID"):
        if isinstance(padding, str):
            raise ValueError(
                "conv_transpose: padding must be 'SAME', 'VALID', an integer, or an integer or "
                f"(low, high) pair for each of the {n} spatial axes, got {padding!r}"
            )
        space = batch.shape[1:-1]
        padding = resolve_padding("conv_transpose", padding, space, window, stride, dilation)
    y = lax.conv_transpose(
        batch, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=_canonical(n)
    )
    return add_bias(params, y.reshape(*x.shape[: -n - 1], *y.shape[1:]))
