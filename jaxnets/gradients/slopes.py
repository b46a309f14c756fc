"""Slopes of a function along a line, measured in one of two independent ways.

    complex step           Im loss(θ + i h d) / h, h = 1e-30: no subtraction, exact to rounding; of
                           functions that are analytic and take complex numbers
    finite differences     (loss(θ + h d) - loss(θ - h d)) / 2h at h and h / 2, extrapolated to
                           h = 0 (Richardson), at several h. Measured is where two agree best, its
                           uncertainty is how far they and slopes to both sides are apart

Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Way = Literal["complex step", "finite differences"]

TINY = 1e-30
"""Of the complex step."""

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7)
"""Of finite differences, relative to `1 + ‖leaf‖` along a direction of length 1."""


class Line(NamedTuple):
    """`t ↦ loss(θ + t d)`"""

    at: Callable[[complex], complex]
    """Of complex t its real part's value, where the loss takes no complex numbers."""
    eps: float
    """Of the narrowest type in which it is computed."""


def measure(line: Line, reach: float) -> tuple[float, float, Way]:
    """The slope at 0, how far off it may be, and how it was measured."""
    measured, uncertainty = _finite_differences(line, reach)
    exact = line.at(1j * TINY)
    slope = exact.imag / TINY
    # of a function that is not analytic, or of a kink, it is another number
    close = 1e-3 * min(abs(slope), abs(measured))
    settled = uncertainty <= close and abs(slope - measured) <= 10 * uncertainty
    if exact.imag and settled:
        return slope, 1e-12 * abs(slope), "complex step"
    return measured, uncertainty, "finite differences"


def _finite_differences(line: Line, reach: float) -> tuple[float, float]:
    """The slope, and how far off it may be: what all finer estimates leave open, and a kink."""
    here = line.at(0.0).real
    largest = abs(here)

    def slopes(h: float) -> tuple[float, float]:
        """Of both sides: that to the right and that to the left."""
        nonlocal largest
        ahead, behind = line.at(h).real, line.at(-h).real
        largest = max(largest, abs(ahead), abs(behind))
        return (ahead - here) / h, (here - behind) / h

    steps = [reach * step for step in STEPS]
    estimates, kinks = [], []
    for h in steps:
        (right, left), (right_half, left_half) = slopes(h), slopes(h / 2)
        estimates.append((2 * (right_half + left_half) - (right + left) / 2) / 3)
        kinks.append(abs((2 * right_half - right) - (2 * left_half - left)))
    rounding = [10 * line.eps * largest / h for h in steps]
    open_to = [
        kinks[i] + rounding[i] + max(
            max(0.0, abs(estimates[j] - estimates[i]) - rounding[j])
            for j in range(i + 1, len(steps))
        )
        for i in range(len(steps) - 1)
    ]  # fmt: skip
    if not np.isfinite(open_to).any():
        return float("nan"), float("inf")
    best = int(np.nanargmin(open_to))
    return float(estimates[best]), float(open_to[best])
