"""What every loss asks of its inputs, said once: dtypes, shapes, masks and ranges."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.checks import concrete, require_real, require_same_shape
from jaxnets.types import Array, ArrayLike, DTypeLike, Shape


def widen(*arrays: Array) -> list[Array]:
    """The arrays in one dtype: float32, or the widest floating dtype among them if wider."""
    floating = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = jnp.result_type(jnp.float32, *floating)
    return [x.astype(dtype) for x in arrays]


def require_not_empty(function: str, /, **arrays: Array) -> None:
    """Raise `ValueError` on a size of 0: the mean of no losses is NaN, far from its cause."""
    for name, x in arrays.items():
        if x.size == 0:
            raise ValueError(f"{function}: {name} is empty, its shape is {list(x.shape)}")


def matched(function: str, /, **arrays: ArrayLike) -> list[Array]:
    """The arguments, of one shape exactly, as float32 or wider.

    The first must be floating; the others (targets) may be of any real dtype.
    """
    named = {name: jnp.asarray(x) for name, x in arrays.items()}
    first = next(iter(named))
    require_real(function, **{first: named[first]})
    for name, x in named.items():
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{function}: {name} must be real, got {x.dtype}{list(x.shape)}")
    require_same_shape(function, **named)
    require_not_empty(function, **named)
    return widen(*named.values())


def mask(function: str, where: ArrayLike | None, /, **shapes: Shape) -> Array | None:
    """`where` as booleans, of one of the shapes exactly."""
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"{function}: where must be boolean, got {where.dtype}{list(where.shape)}")
    if where.shape not in shapes.values():
        wants = " or ".join(f"of {name}, {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: where must have the shape {wants}; got {where.shape}")
    return where


def fill(where: Array | None, value: float, *arrays: Array) -> list[Array]:
    """The arrays with `value` where they are masked out.

    Before the arithmetic, so that neither a loss nor a gradient sees what a mask hides: masking the
    result would still give the gradient 0 · NaN.
    """
    if where is None:
        return list(arrays)
    return [jnp.where(where, x, jnp.asarray(value, x.dtype)) for x in arrays]


def require_scalar_in(function: str, low: float, high: float, /, **scalars: ArrayLike) -> None:
    """Raise `ValueError` unless every hyper-parameter with a value now is in `[low, high]`."""
    for name, x in scalars.items():
        if jnp.shape(x) != ():
            raise ValueError(f"{function}: {name} must be a scalar, got shape {list(jnp.shape(x))}")
        value = concrete(x)
        if value is not None and not low <= value <= high:
            bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"at least {low:g}"
            raise ValueError(f"{function}: {name} must be {bounds}, got {value:g}")


def check_labels(
    function: str,
    valid: Array,
    wants: str,
    where: Array | None = None,
    *,
    dtype: DTypeLike,
    **named: Array,
) -> Array:
    """A factor for the loss: 1 for a valid label, NaN for one out of range, 0 where masked out.

    Out of range is a `ValueError` if the labels have values now. What `where` masks out is never
    out of range.
    """
    ((name, labels),) = named.items()
    if where is not None:
        valid = valid | ~where
    ok = concrete(valid)
    if ok is not None and not ok.all():
        index = tuple(int(i) for i in np.argwhere(~ok)[0])
        place = f" at index {index}" if index else ""
        raise ValueError(
            f"{function}: {name} must be {wants}, got {np.asarray(labels)[index]}{place} "
            f"({np.sum(~ok)} of {ok.size} are not)"
        )
    # not checkify.debug_check: its effect keeps a jitted function off JAX's fast dispatch, 0.1 ms a
    # call; checkify's NaN checks and jax_debug_nans see what becomes of the NaN
    factor = jnp.where(valid, 1.0, jnp.nan)
    (factor,) = fill(where, 0.0, factor.astype(dtype))
    return factor


def integer_labels(
    function: str, labels: ArrayLike, where: Array | None, **scores: Array
) -> tuple[Array, Array]:
    """The labels `[...]`, in a dtype that holds the number of classes, and `check_labels`' factor.

    The scores are `[..., C]`. A label that is masked out becomes 0.
    """
    ((name, score),) = scores.items()
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{function}: labels must be of an integer dtype, got {labels.dtype}"
            f"{list(labels.shape)}"
        )
    if labels.shape != score.shape[:-1]:
        raise ValueError(
            f"{function}: labels must have the shape of {name} without the classes, "
            f"{score.shape[:-1]}, got {labels.shape}"
        )
    n_classes = score.shape[-1]
    wide = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    valid = (wide >= 0) & (wide < n_classes)
    wants = f"in [0, {n_classes})"
    factor = check_labels(function, valid, wants, where, dtype=score.dtype, labels=labels)
    (wide,) = fill(where, 0, wide)
    return wide, factor


def is_label(labels: Array, like: Array) -> Array:
    """Which class is the label: boolean `[..., C]`, the shape of `like`."""
    # a comparison, not a gather: its gradient is no scatter, and it fuses into what it selects
    return jax.lax.broadcasted_iota(labels.dtype, like.shape, like.ndim - 1) == labels[..., None]


def absolute(x: Array) -> Array:
    """`|x|` with gradient `sign(x)`, which is 0 at 0: JAX's own is 1 there."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def product(weight: Array, x: Array) -> Array:
    """`weight · x` with 0 · ±∞ = 0, in value and in gradient.

    An outcome of probability 0 (log-probability -∞) costs nothing if the target never asks for it.
    """
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0.0, x)
