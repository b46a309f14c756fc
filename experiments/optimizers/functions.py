"""The functions: each with its minimum at the value 0, a start, and a window to be drawn."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnets.types import Array


class Function(NamedTuple):
    """A loss of one array."""

    name: str
    equation: str
    loss: Callable[[Array], Array]
    start: tuple[float, ...] | np.ndarray
    minima: tuple[tuple[float, float], ...] = ()
    window: tuple[float, float, float, float] = (-2, 2, -2, 2)
    """Left, right, bottom, top."""
    noise: float = 0.0
    """Standard deviation of what is added to each entry of the gradient at every step."""


CONDITION = 1e3
"""The largest curvature by the smallest, of both ill-conditioned quadratics."""

CENTRE = np.array([1.0, 0.5])
"""Where the minimum is, that at 0 would suit trust ratios: their steps end where parameters do."""

_TURN = np.deg2rad(30)
_ROTATION = np.array([[np.cos(_TURN), np.sin(_TURN)], [-np.sin(_TURN), np.cos(_TURN)]])


def rosenbrock(x: Array) -> Array:
    """`(1 - x)² + 100 (y - x²)²`: a curved valley."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def beale(x: Array) -> Array:
    """`(1.5 - x + x y)² + (2.25 - x + x y²)² + (2.625 - x + x y³)²`: steep corners, flat floor."""
    a, b = x[0], x[1]
    residuals = (1.5 - a + a * b, 2.25 - a + a * b**2, 2.625 - a + a * b**3)
    return sum((r**2 for r in residuals), jnp.zeros(()))


def ill_conditioned(x: Array) -> Array:
    """`½ (u² + 1000 v²)`, with `(u, v)` turned by 30°: no axis is an eigenvector."""
    turned = _ROTATION @ (x - CENTRE)
    return 0.5 * jnp.sum(jnp.array([1, CONDITION]) * turned**2)


def saddle(x: Array) -> Array:
    """`x² + ¼ (y² - 2)²`: a saddle at 0 between two minima."""
    return x[0] ** 2 + 0.25 * (x[1] ** 2 - 2) ** 2


def plateau(x: Array) -> Array:
    """`1 - exp(-½ (u² + 4 v²))`: flat, but for one hole."""
    return -jnp.expm1(-0.5 * jnp.sum(jnp.array([1, 4]) * (x - CENTRE) ** 2))


def quadratic(x: Array) -> Array:
    """`½ (u² + 10 v²)`."""
    return 0.5 * jnp.sum(jnp.array([1, 10]) * (x - CENTRE) ** 2)


PLANE = (
    Function(
        "Rosenbrock",
        "(1 - x)² + 100 (y - x²)²",
        rosenbrock,
        (-1.2, 1.0),
        ((1, 1),),
        (-1.8, 1.6, -0.6, 2.2),
    ),
    Function(
        "Beale",
        "Σᵢ (cᵢ - x + x yⁱ)², c = 1.5, 2.25, 2.625",
        beale,
        (1.0, 1.0),
        ((3, 0.5),),
        (-0.2, 4.2, -1.2, 1.6),
    ),
    Function(
        "ill-conditioned",
        "½ (u² + 1000 v²), turned by 30°",
        ill_conditioned,
        (-0.6, 0.1),
        ((1, 0.5),),
        (-1.0, 1.8, -0.9, 1.5),
    ),
    Function(
        "saddle",
        "x² + ¼ (y² - 2)²",
        saddle,
        (-1.2, 1e-3),
        ((0, np.sqrt(2)), (0, -np.sqrt(2))),
        (-1.6, 1.2, -1.8, 2.0),
    ),
    Function(
        "plateau",
        "1 - exp(-½ (u² + 4 v²))",
        plateau,
        (-2.0, 1.5),
        ((1, 0.5),),
        (-2.5, 2.8, -0.9, 2.1),
    ),
    Function(
        "noisy",
        "½ (u² + 10 v²), gradient + N(0, 1)",
        quadratic,
        (-0.6, 1.5),
        ((1, 0.5),),
        (-1.0, 2.0, -0.7, 1.9),
        noise=1.0,
    ),
)


def _spread(seed: int) -> np.ndarray:
    """A symmetric 8×8 matrix whose eigenvalues go from 1 to `CONDITION^¼`."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))
    values = np.geomspace(1, CONDITION**0.25, 8)
    return np.asarray(basis * values @ basis.T)


_LEFT, _RIGHT = _spread(1), _spread(2)
_TARGET = np.random.default_rng(0).normal(size=(8, 8))


def matrix_quadratic(w: Array) -> Array:
    """`½ ‖A (W - T) B‖²`: its curvatures are the products of A's and B's squared eigenvalues."""
    return 0.5 * jnp.sum(jnp.square(_LEFT @ (w - _TARGET) @ _RIGHT))


MATRIX = (
    Function(
        "matrix",
        "½ ‖A (W - T) B‖², W of 8×8",
        matrix_quadratic,
        np.zeros((8, 8)),
    ),
)

ARENAS = {"plane": PLANE, "matrix": MATRIX}
