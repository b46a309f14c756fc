"""The slowly turning eigenbases of SOAP."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.optim.kronecker import along_axes
from jaxnets.types import Array

Matrices: TypeAlias = tuple[Array | None, ...]
"""One for each axis; None for those that are not turned."""


def rotate(x: Array, bases: Matrices, precision: Any) -> Array:
    """From the original space into the eigenbases."""
    return along_axes(x, [None if q is None else q.conj() for q in bases], precision)


def rotate_back(x: Array, bases: Matrices, precision: Any) -> Array:
    """From the eigenbases into the original space."""
    return along_axes(x, [None if q is None else q.T for q in bases], precision)


def _first_bases(factors: Matrices) -> Matrices:
    """The eigenvectors, those of the largest eigenvalues first."""
    return tuple(None if s is None else jnp.linalg.eigh(s)[1][:, ::-1] for s in factors)


def _next_bases(
    m: Array, v: Array, factors: Matrices, bases: Matrices, precision: Any
) -> tuple[Array, Array, Matrices]:
    """One round of power iteration, `qr(S Q)` for each axis, and the moments in the new bases."""
    new: list[Array | None] = list(bases)
    for axis, (factor, basis) in enumerate(zip(factors, bases, strict=True)):
        if factor is not None and basis is not None:
            moved = jnp.matmul(factor, basis, precision=precision)
            eigenvalues = jnp.sum(basis.conj() * moved, 0).real
            order = jnp.argsort(-eigenvalues)
            v = jnp.take(v, order, axis)
            new[axis] = jnp.linalg.qr(moved[:, order])[0]
    turned_m = rotate(rotate_back(m, bases, precision), tuple(new), precision)
    return turned_m.astype(m.dtype), v, tuple(new)


# compiled once for each shape, also where the caller runs op by op
@functools.partial(jax.jit, static_argnames="precision")
def turned(
    case: Array,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    factors: Matrices,
    bases: Matrices,
    precision: Any,
) -> tuple[Array, Array, Matrices]:
    """The moments and bases after the first step (0), an ordinary one (1) or one that turns (2)."""
    m, v, new_bases = jax.lax.switch(
        case,
        [
            lambda: (*before, _first_bases(factors)),
            lambda: (*after, bases),
            lambda: _next_bases(*after, factors, bases, precision),
        ],
    )
    return m, v, new_bases
