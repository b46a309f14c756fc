"""The outer products at a site: what the operand of the example and the error signal are made of.

For one example, the gradient with respect to the operand that holds the parameter is
`Σ_t x[n, t] ⊗ δ[n, t]`, one matrix `[d, k]` for each `n` (groups, or axes that the product shares),
with its axes in an order of its own.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.site_record import Site
from jaxnets.types import Array


class Outer(NamedTuple):
    """Factors of one example."""

    x: Array
    """`[n, t, d]`, or for a gather the rows' numbers `[n, t]`."""
    error: Array
    """`[n, t, k]`"""


def _dot_axes(site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
    """Of the example's operand: contracted and shared axes; of the parameter's: the same."""
    contracted, shared = site.inner.params["dimension_numbers"]
    mine, other = site.operand, 1 - site.operand
    return list(contracted[other]), list(shared[other]), list(contracted[mine]), list(shared[mine])


def _shape(site: Site) -> tuple[int, ...]:
    """Of the operand that holds the parameter."""
    shape: tuple[int, ...] = site.inner.invars[site.operand].aval.shape
    return shape


def _floating(x: Array, error: Array) -> Array:
    """An operand of integers as numbers of which products do not overflow."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(wide_dtype(error))


def wide_dtype(x: Array) -> Any:
    """Float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _dot(site: Site, x: Array, error: Array) -> Outer:
    x = _floating(x, error)
    contracted, shared, summed, batch = _dot_axes(site)
    free = [i for i in range(x.ndim) if i not in contracted and i not in shared]
    n, t, d = (math.prod(x.shape[i] for i in axes) for axes in (shared, free, contracted))
    factor = x.transpose(*shared, *free, *contracted).reshape(n, t, d)
    k = math.prod(s for i, s in enumerate(_shape(site)) if i not in summed and i not in batch)
    # results have the shared axes, then the free ones of the left operand, then of the right one
    if site.operand == 1:
        return Outer(factor, error.reshape(n, t, k))
    return Outer(factor, error.reshape(n, k, t).swapaxes(1, 2))


def _dot_gradient(site: Site, products: Array) -> Array:
    """Matrices `[n, d, k]` as the parameter's operand."""
    _, _, contracted, shared = _dot_axes(site)
    shape = _shape(site)
    free = [i for i in range(len(shape)) if i not in contracted and i not in shared]
    order = [*shared, *contracted, *free]
    apart = products.reshape([shape[i] for i in order])
    return apart.transpose([order.index(i) for i in range(len(shape))])


class _Conv(NamedTuple):
    """A convolution with its axes as `[batch, *space, groups, in]` and so on."""

    windows: list[Array]
    """For each position in the window what of x meets it: `[batch * positions, groups, in]`."""
    error: Array
    """`[batch * positions, groups, out]`"""


def _window_positions(site: Site) -> tuple[int, ...]:
    kernel = site.inner.params["dimension_numbers"].rhs_spec
    shape = site.inner.invars[1].aval.shape
    return tuple(shape[i] for i in kernel[2:])


def _shifted(site: Site, x: Array) -> Iterator[Array]:
    """Of `x [batch, *space, channels]`, padded, what each position of the window meets."""
    params = site.inner.params
    gaps = [d - 1 for d in params["lhs_dilation"]]
    low_high = [(low, high, gap) for (low, high), gap in zip(params["padding"], gaps, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *low_high, (0, 0, 0)])
    layout = params["dimension_numbers"].out_spec
    out = [site.inner.outvars[0].aval.shape[i] for i in layout[2:]]
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    if 0 in out:
        # the window fits nowhere, so that no slice is in bounds
        empty = jnp.zeros((x.shape[0], *out, x.shape[-1]), x.dtype)
        yield from [empty] * math.prod(_window_positions(site))
        return
    for position in itertools.product(*map(range, _window_positions(site))):
        start = [p * d for p, d in zip(position, dilation, strict=True)]
        stop = [s + (o - 1) * stride + 1 for s, o, stride in zip(start, out, strides, strict=True)]
        yield lax.slice(x, [0, *start, 0], [x.shape[0], *stop, x.shape[-1]], [1, *strides, 1])


def _conv(site: Site, x: Array, error: Array) -> _Conv:
    x = _floating(x, error)
    layout = site.inner.params["dimension_numbers"]
    groups = site.inner.params["feature_group_count"]

    def channels_last(y: Array, spec: Sequence[int]) -> Array:
        return y.transpose(spec[0], *spec[2:], spec[1])

    def grouped(y: Array) -> Array:
        return y.reshape(math.prod(y.shape[:-1]), groups, y.shape[-1] // groups)

    windows = [grouped(y) for y in _shifted(site, channels_last(x, layout.lhs_spec))]
    return _Conv(windows, grouped(channels_last(error, layout.out_spec)))


def _conv_gradient(site: Site, products: Array) -> Array:
    """Matrices `[groups, window * in, out]` as the kernel."""
    spec = site.inner.params["dimension_numbers"].rhs_spec
    shape = site.inner.invars[1].aval.shape
    window = [shape[i] for i in spec[2:]]
    n, _, k = products.shape
    apart = products.reshape(n, *window, shape[spec[1]], k)
    # groups are the slow part of the kernel's outputs
    kernel = jnp.moveaxis(apart, 0, -2).reshape(*window, shape[spec[1]], n * k)
    order = [*spec[2:], spec[1], spec[0]]
    return kernel.transpose([order.index(i) for i in range(len(shape))])


def outer(site: Site, saved: Sequence[Array], error: Array) -> Outer:
    """The factors of one example at a site of kind `dot`, `conv` or `gather`."""
    (x,) = saved
    if site.kind == "dot":
        return _dot(site, x, error)
    if site.kind == "conv":
        windows, errors = _conv(site, x, error)
        patches = jnp.stack(windows, -2)
        patches = patches.reshape(*patches.shape[:-2], math.prod(patches.shape[-2:]))
        return Outer(patches.swapaxes(0, 1), errors.swapaxes(0, 1))
    # in the dtype of bytes the number of rows may wrap around
    numbers = x[..., 0]
    numbers = numbers.astype(jnp.int32) if numbers.dtype.itemsize < 4 else numbers
    rows = numbers.reshape(1, -1)
    height, width = site.inner.invars[0].aval.shape
    errors = error.reshape(1, -1, width)
    # what is out of bounds has no gradient, except where it was clamped
    inside = (rows >= 0) & (rows < height)
    clamps = site.inner.params["mode"] == lax.GatherScatterMode.CLIP
    rows = jnp.clip(rows, 0, height - 1)
    return Outer(rows, errors if clamps else jnp.where(inside[..., None], errors, 0))


def signals_of(site: Site, error: Any) -> Any:
    """A site's error signal as in `Outer`, `[n, t, k]`; of NumPy's arrays or JAX's."""
    if site.kind == "conv":
        layout = site.inner.params["dimension_numbers"].out_spec
        groups = site.inner.params["feature_group_count"]
        shape = site.inner.outvars[0].aval.shape
        last = error.reshape(shape).transpose(layout[0], *layout[2:], layout[1])
        return last.reshape(-1, groups, shape[layout[1]] // groups).swapaxes(0, 1)
    _, shared, summed, batch = _dot_axes(site)
    n = math.prod(site.inner.invars[1 - site.operand].aval.shape[i] for i in shared)
    k = math.prod(s for i, s in enumerate(_shape(site)) if i not in summed and i not in batch)
    if site.operand == 1:
        return error.reshape(n, -1, k)
    return error.reshape(n, k, -1).swapaxes(1, 2)


def matrices_of(site: Site, operand: Any) -> Any:
    """A site's parameter as the matrices `[n, d, k]` of its products; NumPy's arrays or JAX's."""
    shape = _shape(site)
    if site.kind == "conv":
        spec = site.inner.params["dimension_numbers"].rhs_spec
        groups = site.inner.params["feature_group_count"]
        last = operand.transpose(*spec[2:], spec[1], spec[0])
        return last.reshape(-1, groups, shape[spec[0]] // groups).swapaxes(0, 1)
    _, _, contracted, shared = _dot_axes(site)
    free = [i for i in range(len(shape)) if i not in contracted and i not in shared]
    n, d, k = (math.prod(shape[i] for i in axes) for axes in (shared, contracted, free))
    return operand.transpose(*shared, *contracted, *free).reshape(n, d, k)


def gradient(site: Site, saved: Sequence[Array], error: Array) -> Array:
    """The gradient of one example with respect to the parameter's operand, in float32 at least."""
    wide = wide_dtype(error)
    if site.kind == "conv":
        (x,) = saved
        windows, errors = _conv(site, x, error)
        # one product for each position, so that no patches are stored
        products = [
            jnp.einsum("tgd,tgk->gdk", w, errors, preferred_element_type=wide) for w in windows
        ]
        together = jnp.stack(products, 1)
        return _conv_gradient(site, together.reshape(together.shape[0], -1, together.shape[-1]))
    factors = outer(site, saved, error)
    if site.kind == "gather":
        height, width = site.inner.invars[0].aval.shape
        (rows,), (errors,) = factors
        return jnp.zeros((height, width), wide).at[rows].add(errors)
    matrices = jnp.einsum("ntd,ntk->ndk", *factors, preferred_element_type=wide)
    return _dot_gradient(site, matrices)


def batch_gradient(site: Site, saved: Sequence[Array], error: Array) -> Array:
    """`gradient`, summed over a batch, the first axis of both, without one for each example."""
    wide = wide_dtype(error)
    if site.kind == "conv":
        (x,) = saved
        windows, errors = jax.vmap(lambda x, e: _conv(site, x, e))(x, error)
        products = [
            jnp.einsum("btgd,btgk->gdk", w, errors, preferred_element_type=wide) for w in windows
        ]
        together = jnp.stack(products, 1)
        return _conv_gradient(site, together.reshape(together.shape[0], -1, together.shape[-1]))
    x, errors = jax.vmap(lambda s, e: outer(site, s, e))(saved, error)
    if site.kind == "gather":
        shape = site.inner.invars[0].aval.shape
        return jnp.zeros(shape, wide).at[x.ravel()].add(errors.reshape(-1, shape[1]))
    matrices = jnp.einsum("bntd,bntk->ndk", x, errors, preferred_element_type=wide)
    return _dot_gradient(site, matrices)
