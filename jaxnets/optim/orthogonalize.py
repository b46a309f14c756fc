"""The nearest orthogonal matrix, nearly, by matrix products alone."""

from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.lax import rsqrt

from jaxnets.optim.dimensions import MuonDimensionNumbers, as_matrices
from jaxnets.types import Array

Preconditioning: TypeAlias = Literal["frobenius", "spectral", "aol", "schatten"]
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")

STANDARD = (3.4445, -4.7750, 2.0315)
PRESETS: dict[str, Any] = {
    "standard": STANDARD,
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


def require_coefficients(function: str, ns_coeffs: Any, ns_steps: int | None = None) -> None:
    """Raise `ValueError` unless there are three of them, or three for each of few enough steps."""
    shape = np.shape(ns_coeffs)
    if len(shape) not in (1, 2) or shape[-1] != 3:
        raise ValueError(f"{function}: ns_coeffs must have shape (3,) or (n, 3), got {shape}")
    if ns_steps is not None and len(shape) == 2 and shape[0] > ns_steps:
        raise ValueError(
            f"{function}: ns_coeffs has {shape[0]} rows, each for a step, but ns_steps={ns_steps}"
        )


def require_preconditioning(function: str, preconditioning: str) -> None:
    """Raise `ValueError` for a name that is none."""
    if preconditioning not in PRECONDITIONINGS:
        raise ValueError(
            f"{function}: preconditioning must be one of {PRECONDITIONINGS}, "
            f"got {preconditioning!r}"
        )


def _conj_transpose(x: Array) -> Array:
    return x.mT.conj()


def _start(x: Array, preconditioning: str, eps: Any) -> tuple[Array, Array]:
    """`X` made small enough for the iteration to converge, and `X Xᴴ`."""
    if preconditioning in ("frobenius", "spectral"):
        order: Any = "fro" if preconditioning == "frobenius" else 2
        x = x / (jnp.linalg.norm(x, order, (-2, -1), keepdims=True) + eps)
        return x, x @ _conj_transpose(x)
    gram = x @ _conj_transpose(x)
    if preconditioning == "aol":
        scale = rsqrt(jnp.maximum(jnp.abs(gram).sum(-1, keepdims=True), 1e-8))
        return x * scale, gram * scale * scale.mT
    scale = rsqrt(jnp.maximum(jnp.linalg.norm(gram, "fro", (-2, -1), keepdims=True), 1e-8))
    return x * scale, gram * scale**2


def orthogonalize_via_newton_schulz(
    x: Array,
    ns_coeffs: Any,
    ns_steps: int = 5,
    preconditioning: Preconditioning = "frobenius",
    eps: Any = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> Array:
    """`U Vᴴ` of the singular value decomposition `X = U S Vᴴ`, roughly.

        X ← c₀ X + c₁ (X Xᴴ) X + c₂ (X Xᴴ)² X

    With the usual coefficients this does not converge but takes all singular values, except the
    smallest, to between 0.7 and 1.2 in five steps. For complex matrices Optax's `"schatten"` leaves
    out a conjugation in the norm.

    Args:
      x: a matrix, or an array that `dimension_numbers` says how to see as matrices.
      ns_coeffs: `(c₀, c₁, c₂)`, or such a row for each step.
      ns_steps: the number of steps, where `ns_coeffs` is one row.
      preconditioning: what `X` is divided by first: `"frobenius"`, its Frobenius norm;
        `"spectral"`, its largest singular value, exact and slow; `"schatten"`, its Schatten-4
        norm; `"aol"`, a scale for each row, from the absolute row sums of `X Xᴴ`.
      eps: added to the first two of these norms.
      dimension_numbers: which axes are rows and columns.

    Raises:
      ValueError: for an array of other than two axes without `dimension_numbers`, coefficients of
        another shape or an unknown preconditioning.

    References:
      Jordan et al., [Muon](https://kellerjordan.github.io/posts/muon/), 2024; Boissin et al.,
      [Turbo-Muon](https://arxiv.org/abs/2512.04632), 2025 (aol); Grishina et al., [Accelerating
      Newton-Schulz iteration](https://arxiv.org/abs/2506.10935), 2025 (schatten).
    """
    if x.ndim == 2:
        dimension_numbers = MuonDimensionNumbers()
    if dimension_numbers is None:
        raise ValueError(
            "orthogonalize_via_newton_schulz: x must be a matrix where there are no "
            f"dimension_numbers, got shape {x.shape}"
        )
    require_preconditioning("orthogonalize_via_newton_schulz", preconditioning)
    require_coefficients("orthogonalize_via_newton_schulz", ns_coeffs)
    if x.size == 0:
        return x
    coefficients = jnp.asarray(ns_coeffs).astype(x.dtype)
    rows = [coefficients] * ns_steps if coefficients.ndim == 1 else list(coefficients)

    matrices, back = as_matrices(x, dimension_numbers)
    # the same of the transposed matrix; the products are smaller where it is wide
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    y = matrices.mT if is_tall else matrices
    y, gram = _start(y, preconditioning, eps)
    for i, (c0, c1, c2) in enumerate(rows):
        gram = y @ _conj_transpose(y) if i else gram
        y = c0 * y + (c1 * gram + c2 * gram @ gram) @ y
    return back(y.mT if is_tall else y)
