"""The chain rule's local step for matrix products and convolutions, of which there are two each."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.gradients.rule import Rule
from jaxnets.types import Array


def _dot_general(
    x: Sequence[Array], y: Array, error: Array, /, *, dimension_numbers: Any, precision: Any,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """Of `y = a b`: `error bᵀ` and `aᵀ error`."""
    a, b = x
    contracted, batch = dimension_numbers
    n, free_a = len(batch[0]), a.ndim - len(batch[0]) - len(contracted[0])
    of_a = tuple(range(n, n + free_a))
    of_b = tuple(range(n + free_a, error.ndim))
    return [
        _by_one(a, b, error, contracted, batch, of_b, precision),
        _by_one(b, a, error, contracted[::-1], batch[::-1], of_a, precision),
    ]


def _by_one(
    a: Array, b: Array, error: Array, contracted: Any, batch: Any, of_b: tuple[int, ...],
    precision: Any,
) -> Array:  # fmt: skip
    """Error signal and b, multiplied over the axes `of_b` that the product has from b alone."""
    free_b = [i for i in range(b.ndim) if i not in (*contracted[1], *batch[1])]
    numbers = ((of_b, free_b), (tuple(range(len(batch[1]))), batch[1]))
    product = lax.dot_general(error, b, numbers, precision)
    # its axes are the batch's, then a's own, then those that had been contracted, as b has them
    free_a = [i for i in range(a.ndim) if i not in (*contracted[0], *batch[0])]
    partner = dict(zip(contracted[1], contracted[0], strict=True))
    axes = [*batch[0], *free_a, *(partner[i] for i in sorted(contracted[1]))]
    return product.transpose(np.argsort(axes)).astype(a.dtype)


def _conv(
    x: Sequence[Array], y: Array, error: Array, /, *, window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]], lhs_dilation: Sequence[int], rhs_dilation: Sequence[int],
    dimension_numbers: Any, feature_group_count: int, batch_group_count: int, precision: Any,
    **params: Any,
) -> list[Array | None]:  # fmt: skip
    """Of `y = image * kernel`: two convolutions more, of the error signal.

    By the image, with the kernel turned around, its ends in and out exchanged, and strides and
    gaps (`lhs_dilation`) exchanged; by the kernel, the image with the error signal as the kernel,
    the batch as the channels, and strides and the kernel's dilation exchanged.
    """
    if batch_group_count != 1:
        raise NotImplementedError("backprop: convolutions with batch_group_count have no rule")
    image_axes, kernel_axes, out_axes = dimension_numbers
    n, groups = x[0].ndim - 2, feature_group_count
    # to [batch, channels, *space] and [out, in / groups, *window]
    image, kernel = x[0].transpose(image_axes), x[1].transpose(kernel_axes)
    error = error.transpose(out_axes).astype(kernel.dtype)

    def span(size: int, step: int) -> int:
        return (size - 1) * step + 1

    sizes = list(zip(
        image.shape[2:], kernel.shape[2:], error.shape[2:], window_strides, lhs_dilation,
        rhs_dilation, padding, strict=True,
    ))  # fmt: skip
    to_image, to_kernel = [], []
    for i, k, o, stride, gap, dilation, (low, _) in sizes:
        before = span(k, dilation) - 1 - low
        whole = span(i, gap) + span(k, dilation) - 1
        to_image.append((before, whole - before - span(o, stride)))
        to_kernel.append((low, span(o, stride) + (k - 1) * dilation - span(i, gap) - low))
    turned = kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
    turned = jnp.flip(turned, tuple(range(3, n + 3))).reshape(image.shape[1], -1, *kernel.shape[2:])
    by_image = lax.conv_general_dilated(
        error, turned, lhs_dilation, to_image, lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation, feature_group_count=groups, precision=precision,
    )  # fmt: skip
    by_kernel = [
        lax.conv_general_dilated(
            one.swapaxes(0, 1), its_error.swapaxes(0, 1), rhs_dilation, to_kernel,
            lhs_dilation=lhs_dilation, rhs_dilation=window_strides, precision=precision,
        ).swapaxes(0, 1)
        for one, its_error in zip(
            jnp.split(image, groups, 1), jnp.split(error, groups, 1), strict=True
        )
    ]  # fmt: skip
    return [
        by_image.transpose(np.argsort(image_axes)),
        jnp.concatenate(by_kernel).transpose(np.argsort(kernel_axes)),
    ]


PRODUCTS: Mapping[str, Rule] = MappingProxyType(
    {
        "conv_general_dilated": _conv,
        "dot_general": _dot_general,
    }
)
"""By the operation's name in a traced program."""
