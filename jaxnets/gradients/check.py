"""Derivatives checked against the function itself, leaf by leaf.

Along a direction d the gradient g predicts the slope `g · d` of `t ↦ loss(θ + t d)`, which is
measured (see `slopes`). Both are computed in float64, as if narrower types were exact (see
`widening`). With s the larger of both and of g's slope along a random direction, and S that of the
whole gradient's norm and `|loss| / (1 + ‖leaf‖)`, for a leaf of n elements

    right      |g · d - slope| ≤ rtol s + 100 ε S, ε = 2⁻⁵²
    wrong      |g · d - slope| > that or ε' (4 s + S / √n) + 10 ε'' S, if larger, + 10 uncertainty
    unsure     whatever is between

ε' is of the narrowest type through which the loss leads that leaf, to which numbers written into
it and into its derivative are rounded, ε'' of the narrowest in which one had to be computed.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree
from jaxnets.gradients.checked_leaves import EPS, Leaf, leaves_of
from jaxnets.gradients.slopes import Way, measure
from jaxnets.types import Params, PyTree

Verdict = Literal["right", "wrong", "unsure"]

SHOWN = 256
"""Largest leaf whose elements are measured one by one to find the worst."""


class LeafCheck(NamedTuple):
    """What was found of one leaf, along the direction with the largest error."""

    path: str
    predicted: float
    """`g · d`"""
    measured: float
    uncertainty: float
    """Of the measurement."""
    error: float
    """`|predicted - measured|`, relative to the larger of both and of the slope along a random
    direction that has the gradient's length."""
    way: Way
    verdict: Verdict
    worst: tuple[tuple[int, ...], float, float] | None
    """Of a wrong leaf that is not large: index, gradient and measured derivative of the element
    that is furthest off."""


def check_gradients(
    loss: Callable[..., Any],
    params: Params,
    *args: PyTree,
    gradient: Callable[..., Params] | None = None,
    has_aux: bool = False,
    directions: int = 2,
    rtol: float = 1e-6,
    seed: int = 0,
    raises: bool = True,
) -> list[LeafCheck]:
    """Compare a gradient with slopes of the loss, one leaf at a time.

    Everything is computed in float64: floating params and args are cast, `jax.enable_x64` is on
    while `loss` runs, and where loss and gradient go through narrower types themselves, these are
    taken as exact: it is formulas that are checked, not how they round or overflow.

    `"unsure"` is a warning, and no proof of anything. So may end a loss with a kink where it is
    looked at, and of what goes through narrower types what cannot be raised to float64 (callbacks,
    kernels), a given gradient that JAX cannot trace, and one with numbers rounded to such a type
    (as the derivative of `erf` has); a larger `rtol` may then be the right one. What is meant to
    differ from the slope (`stop_gradient`, straight-through estimators) is wrong here.

    Args:
      loss: `loss(params, *args) -> scalar`, or `(scalar, aux)` with `has_aux`, without randomness.
      params: a pytree of floating arrays.
      *args: whatever the loss takes.
      gradient: `gradient(params, *args) -> like params`, what is to be checked; that of
        `jax.grad` by default, which checks rules that someone wrote for parts of the loss.
      has_aux: whether the loss returns something beside its value.
      directions: random directions for each leaf.
      rtol: largest error that is right.
      seed: of the directions.
      raises: whether a wrong leaf is an error.

    Returns:
      one `LeafCheck` for each leaf that is not empty.

    Raises:
      AssertionError: if a leaf is wrong, naming each such leaf.
      ValueError: if the gradient has other paths or shapes than params, `directions` is not
        positive, or the loss returns no pair with `has_aux`.
      TypeError: if a parameter is not floating, or the loss is not one floating number, or cannot
        be computed in float64.

    Example:
      >>> check_gradients(loss, params, batch)
      >>> check_gradients(loss, params, batch, gradient=lambda p, b: backprop(loss)(p, b)[1])
    """
    if directions < 1:
        raise ValueError(f"check_gradients: directions must be positive, got {directions}")
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: _wide(jnp.asarray(leaf)), params)
        args = jax.tree.map(_wide, args)
        _require_floating(params)

        def value_of(params: Params) -> Any:
            value = loss(params, *args)
            if not has_aux:
                return value
            if not isinstance(value, tuple) or len(value) != 2:
                raise ValueError(f"check_gradients: with has_aux loss must return a pair: {value}")
            return value[0]

        try:
            value = jax.eval_shape(value_of, params)
        except TypeError as error:
            raise TypeError(
                "check_gradients: the loss fails with parameters and arguments in float64; "
                "arrays that it makes itself, such as a loop's first carry, must follow their "
                f"dtype: {error}"
            ) from error
        if not hasattr(value, "shape") or value.shape or not _is_floating(value):
            raise TypeError(f"check_gradients: loss must return one floating number, got {value}")
        slope_of = gradient and (lambda params: gradient(params, *args))
        rng = np.random.default_rng(seed)
        checks = [
            _check(leaf, directions, rtol, rng) for leaf in leaves_of(value_of, slope_of, params)
        ]
    wrong = [check for check in checks if check.verdict == "wrong"]
    if raises and wrong:
        raise AssertionError("wrong gradient:\n" + "\n".join(map(_sentence, wrong)))
    if raises and (unsure := [check for check in checks if check.verdict == "unsure"]):
        warnings.warn("unsure:\n" + "\n".join(map(_sentence, unsure)), stacklevel=2)
    return checks


def _check(leaf: Leaf, directions: int, rtol: float, rng: np.random.Generator) -> LeafCheck:
    checks = []
    for _ in range(directions):
        direction = rng.normal(size=leaf.value.shape)
        checks.append(_compare(leaf, direction / np.linalg.norm(direction), rtol))
    order: list[Verdict] = ["right", "unsure", "wrong"]
    worst = max(checks, key=lambda check: (order.index(check.verdict), check.error))
    if worst.verdict == "wrong" and leaf.value.size <= SHOWN:
        return worst._replace(worst=_worst_element(leaf))
    return worst


def _compare(leaf: Leaf, direction: np.ndarray, rtol: float) -> LeafCheck:
    line, reach = leaf.line(direction), leaf.reach
    predicted = float(np.sum(leaf.slope * direction))
    measured, uncertainty, way = measure(line, reach)
    typical = float(np.linalg.norm(leaf.slope)) / np.sqrt(leaf.slope.size)
    scale = max(abs(predicted), abs(measured), typical, np.finfo(float).tiny)
    gap = abs(predicted - measured)
    # what is 0 but for rounding has no error of its own size
    whole = max(leaf.steepest, abs(line.at(0.0)) / reach)
    allowed = rtol * scale + 100 * EPS * whole
    written = leaf.written * (4 * scale + whole / np.sqrt(leaf.slope.size))
    doubtful = max(allowed, written + 10 * leaf.computed * whole)
    verdict: Verdict = "right"
    # what is not a number makes no comparison true
    if not gap <= allowed:
        broken = np.isfinite(measured) and not np.isfinite(predicted)
        verdict = "wrong" if broken or gap > doubtful + 10 * uncertainty else "unsure"
    return LeafCheck(
        leaf.path, predicted, measured, uncertainty, gap / scale, way, verdict, None
    )  # fmt: skip


def _worst_element(leaf: Leaf) -> tuple[tuple[int, ...], float, float]:
    def each() -> Iterator[tuple[tuple[int, ...], float, float]]:
        for index in np.ndindex(leaf.value.shape):
            unit = np.zeros(leaf.value.shape)
            unit[index] = 1
            yield index, float(leaf.slope[index]), measure(leaf.line(unit), leaf.reach)[0]

    return max(each(), key=lambda found: abs(found[1] - found[2]))


def _sentence(check: LeafCheck) -> str:
    where = f"{check.path!r}" if check.path else "the parameter"
    text = (
        f"{where}: along a direction the gradient predicts {check.predicted:.6g}, measured is "
        f"{check.measured:.6g} ± {check.uncertainty:.1g} by {check.way}"
    )
    if check.worst is None:
        return text
    index, predicted, measured = check.worst
    return f"{text}; furthest off at {list(index)}: {predicted:.6g} instead of {measured:.6g}"


def _is_floating(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def _wide(x: Any) -> Any:
    if not isinstance(x, jax.Array | np.ndarray | np.generic):
        return x
    return jnp.asarray(x, jnp.float64) if _is_floating(x) else jnp.asarray(x)


def _require_floating(params: Params) -> None:
    for path, leaf in tree.flatten_with_paths(params).items():
        if not _is_floating(leaf):
            raise TypeError(
                f"check_gradients: parameters must be floating, got {leaf.dtype} at {path!r}"
            )
