"""Convolution whose derivatives are as fast inside loops as outside.

A derivative of a convolution is a convolution again, but the one that automatic transposition
writes has its axes in an order that XLA's CPU backend runs natively only outside loops: inside
`lax.scan` a training step is 10 to 30 times slower. The derivative below is the same sum with the
operands transposed beforehand, so that reverse mode meets convolutions in the canonical order
(images `[batch, *space, channels]`, kernels `[*window, in, out]`) wherever it stands.

A depthwise convolution, of one channel each, has too few products in a window for that backend: it
takes 10 to 100 times as long as the same sum over the window of shifted images.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.equations import enterable
from jaxnets.types import Array


class Geometry(NamedTuple):
    """How a window moves over an image."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int


def _lax_conv(x: Array, kernel: Array, geometry: Geometry, layout: Any) -> Array:
    stride, padding, dilation, groups = geometry
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=layout,
        feature_group_count=groups,
    )  # fmt: skip


def canonical(n: int) -> lax.ConvDimensionNumbers:
    """Images `[batch, *space, channels]`, kernels `[*window, in, out]`."""
    image, kernel = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
    return lax.ConvDimensionNumbers(image, kernel, image)


def _filled(x: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    around = ((0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0))
    # once, and not anew for each place in the window
    filled: Array = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), around))
    return filled


def _shifted(x: Array, start: Any, span: Any, step: tuple[int, ...]) -> Array:
    """From `start` on, so many positions of each image, of which every `step`th."""
    part = lax.dynamic_slice(x, (0, *start, 0), (len(x), *span, x.shape[-1]))
    return lax.slice(part, (0,) * x.ndim, part.shape, (1, *step, 1))


def _span(filled: Array, window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How many positions of an image each place in the window meets, with those between."""
    reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    return [n - r for n, r in zip(filled.shape[1:-1], reach, strict=True)]


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _depthwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """`y[p, c] = Σ_w x[p · stride + w · dilation, c] W[w, 0, c]`, summed in float32 at least."""
    stride, padding, dilation, _ = geometry
    *window, _, channels = kernel.shape
    filled = _filled(x, padding)
    span = _span(filled, window, dilation)
    total: Any = 0
    for place in product(*map(range, window)):
        start = [i * d for i, d in zip(place, dilation, strict=True)]
        weight = kernel[place].reshape((1,) * (x.ndim - 1) + (channels,))
        total = total + _wide(_shifted(filled, start, span, stride)) * _wide(weight)
    y: Array = total.astype(x.dtype)
    return y


def _depthwise_along_x(dx: Array, kernel: Array, geometry: Geometry) -> Array:
    """The same, whose transpose is a depthwise convolution of the error signal.

    `∂L/∂x[i] = Σ_w δ[(i + low - w · dilation) / stride] W[w]`, with zeros between δ's positions.
    """
    stride, padding, dilation, _ = geometry
    space = range(len(stride))
    y = jax.eval_shape(partial(_depthwise, geometry=geometry), dx, kernel)
    flipped = jnp.flip(kernel, space)
    around = []
    for size, out, k, s, (low, _), d in zip(
        dx.shape[1:-1], y.shape[1:-1], kernel.shape, stride, padding, dilation, strict=False
    ):
        around.append(((k - 1) * d - low, size - (out - 1) * s - 1 + low))
    back = Geometry((1,) * len(stride), tuple(around), dilation, geometry.groups)

    def by_x(error: Array) -> Array:
        between = [(0, 0, 0), *((0, 0, s - 1) for s in stride), (0, 0, 0)]
        return _depthwise(lax.pad(error, jnp.zeros((), error.dtype), between), flipped, back)

    (dy,) = jax.linear_transpose(by_x, y)(dx)
    return dy  # type: ignore[no-any-return]


def _depthwise_along_kernel(x: Array, dkernel: Array, geometry: Geometry) -> Array:
    """The same, whose transpose is `∂L/∂W[w] = Σ_p x[p · stride + w · dilation] δ[p]`."""
    stride, padding, dilation, _ = geometry
    window = dkernel.shape[:-2]
    y = jax.eval_shape(partial(_depthwise, geometry=geometry), x, dkernel)
    filled = _filled(x, padding)
    places = np.array(list(product(*map(range, window)))) * np.array([dilation])

    def by_kernel(error: Array) -> Array:
        def of(start: Array) -> Array:
            seen = _shifted(filled, start, _span(filled, window, dilation), stride)
            return jnp.sum(_wide(seen) * _wide(error), tuple(range(x.ndim - 1)))

        # one shifted image at a time, and none kept: written out, all would be in memory at once
        found: Array = lax.map(jax.checkpoint(of, prevent_cse=False), jnp.asarray(places))
        return found.reshape(dkernel.shape).astype(dkernel.dtype)

    (dy,) = jax.linear_transpose(by_kernel, y)(dkernel)
    return dy  # type: ignore[no-any-return]


def _by_platform(on_cpu: Any, x: Array, kernel: Array, geometry: Geometry) -> Array:
    y: Array = lax.platform_dependent(
        x, kernel,
        cpu=partial(on_cpu, geometry=geometry),
        default=partial(_lax_conv, geometry=geometry, layout=canonical(x.ndim - 2)),
    )  # fmt: skip
    return y


_MOST_PLACES = 64
"""In a window, that are written out."""


def _is_depthwise(x: Array, kernel: Array, geometry: Geometry) -> bool:
    *window, n_in, n_out = kernel.shape
    one_each = geometry.groups == n_out == x.shape[-1] > 1 and n_in == 1
    fits = all(
        size + sum(p) > (k - 1) * d
        for size, p, k, d in zip(
            x.shape[1:-1], geometry.padding, window, geometry.dilation, strict=True
        )
    )
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    return bool(floats and one_each and fits and 0 < math.prod(window) <= _MOST_PLACES)


@partial(enterable, static_argnums=(2,))
def _canonical_conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    return _lax_conv(x, kernel, geometry, canonical(x.ndim - 2))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """`x [batch, *space, in]` with `kernel [*window, in / groups, out]`: `[batch, *space, out]`."""
    if _is_depthwise(x, kernel, geometry):
        return _by_platform(_depthwise, x, kernel, geometry)
    return _canonical_conv(x, kernel, geometry)


@convolve.defjvp
def _convolve_jvp(
    geometry: Geometry, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = convolve(x, kernel, geometry)
    if _is_depthwise(x, kernel, geometry):
        # so that x is kept for the way back, and not its shifted images
        along_x, along_kernel = (
            jax.checkpoint(partial(_by_platform, way, geometry=geometry), prevent_cse=False)
            for way in (_depthwise_along_x, _depthwise_along_kernel)
        )
        return y, along_x(dx, kernel) + along_kernel(x, dkernel)
    if geometry.groups > 1:
        layout = canonical(x.ndim - 2)
        dy = _lax_conv(dx, kernel, geometry, layout)
        return y, dy + _lax_conv(x, dkernel, geometry, layout)
    return y, _along_x(dx, kernel, geometry) + _along_kernel(x, dkernel, geometry)


def _along_x(dx: Array, kernel: Array, geometry: Geometry) -> Array:
    """`conv(dx, kernel)`, whose transpose is a canonical convolution of the error signal."""
    n = dx.ndim - 2
    image, _, _ = canonical(n)
    in_out_swapped = (n, n + 1, *range(n))
    layout = lax.ConvDimensionNumbers(image, in_out_swapped, image)
    return _lax_conv(dx, kernel.swapaxes(-1, -2), geometry, layout)


def _along_kernel(x: Array, dkernel: Array, geometry: Geometry) -> Array:
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


def geometry_of(equation: Any) -> Geometry | None:
    """Of a traced convolution, if `convolve` computes the same; else None."""
    if equation.primitive.name != "conv_general_dilated":
        return None
    x, kernel = (v.aval for v in equation.invars)
    p, n = equation.params, x.ndim - 2
    plain = (
        1 <= n <= 3
        and x.dtype == kernel.dtype == equation.outvars[0].aval.dtype
        and p["batch_group_count"] == 1
        and p["precision"] is None
        and set(p["lhs_dilation"]) == {1}
        and tuple(map(tuple, p["dimension_numbers"])) == tuple(map(tuple, canonical(n)))
    )
    if not plain:
        return None
    return Geometry(
        tuple(p["window_strides"]),
        tuple(map(tuple, p["padding"])),
        tuple(p["rhs_dilation"]),
        p["feature_group_count"],
    )
