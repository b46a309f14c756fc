"""Checks of arguments: at trace time by shape and dtype, eagerly by value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.types import Array, ArrayLike


def concrete(x: Any) -> np.ndarray | None:
    """The value of `x`, to check it; `None` where there is none: in `jit`, `vmap`, `grad`.

    As a NumPy array, since `jnp` operations on a concrete array are traced too inside `jit`.
    """
    if isinstance(x, jax.core.Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return None
    return np.asarray(x)


def is_split(x: Array, axes: slice = slice(None)) -> bool:
    """Whether x is known to be split over devices along one of the axes: an explicit sharding."""
    return any(name is not None for name in jax.typeof(x).sharding.spec[axes])


def require_floating(function: str, /, **arrays: Array) -> None:
    """Raise `TypeError` unless every array is of a floating (or complex) dtype."""
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"{function}: {name} must be of a floating dtype, got {x.dtype}{list(x.shape)}; "
                f"convert it first, as in {name}.astype(jnp.float32)"
            )


def require_real(function: str, /, **arrays: Array) -> None:
    """Raise `TypeError` unless every array is of a real floating dtype."""
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{function}: {name} must be of a real floating dtype, got {x.dtype}"
                f"{list(x.shape)}; convert it first, as in {name}.astype(jnp.float32)"
            )


def require_same_shape(function: str, /, **arrays: Array) -> None:
    """Raise `ValueError` unless all shapes are exactly equal: nothing broadcasts silently."""
    if len({x.shape for x in arrays.values()}) > 1:
        got = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{function}: shapes must match exactly, got {got}")


def scalar(function: str, name: str, x: ArrayLike) -> np.ndarray | None:
    """The value of `x`, if it is known; raise `ValueError` if it is no scalar."""
    if jnp.shape(x) != ():
        raise ValueError(f"{function}: {name} must be a scalar, got shape {jnp.shape(x)}")
    return concrete(x)


def require_positive(function: str, name: str, x: ArrayLike, *, finite: bool = False) -> None:
    """Raise `ValueError` unless `x` is a positive number, as far as it is known."""
    value = scalar(function, name, x)
    if value is not None and not (value > 0 and (value < np.inf or not finite)):
        wanted = "positive and finite" if finite else "positive"
        raise ValueError(f"{function}: {name} must be {wanted}, got {value}")
