"""Convolution over one to three spatial axes, channels last, and its transpose."""

import math
from collections.abc import Sequence
from operator import index

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import require_floating
from jaxnets.convolution import Geometry, canonical, convolve
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
    y = convolve(batch, kernel, Geometry(stride, padding, dilation, groups))
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
        batch, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=canonical(n)
    )
    return add_bias(params, y.reshape(*x.shape[: -n - 1], *y.shape[1:]))
