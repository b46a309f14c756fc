"""Derivatives checked against the function itself, leaf by leaf.

Along a direction d the gradient g predicts the slope `g · d` of `t ↦ loss(θ + t d)`. It is measured
in float64 in one of two independent ways:

    complex step           Im loss(θ + i h d) / h, h = 1e-30: no subtraction, exact to rounding; of
                           functions that are analytic and take complex numbers
    finite differences     (loss(θ + h d) - loss(θ - h d)) / 2h at h and h / 2, extrapolated to
                           h = 0 (Richardson), at several h. Measured is where two agree best, its
                           uncertainty is how far they and slopes to both sides are apart

Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree
from jaxnets.equations import programs_inside
from jaxnets.types import Params, PyTree

Verdict = Literal["right", "wrong", "unsure"]
Way = Literal["complex step", "finite differences"]


class _Line(NamedTuple):
    """`t ↦ loss(θ + t d)`"""

    at: Callable[[complex], complex]
    """Of complex t its real part's value, where the loss takes no complex numbers."""
    eps: float
    """Of the narrowest type in which the loss computes with parameters."""
    steepest: float
    """The norm of the whole gradient."""


TINY = 1e-30
"""Of the complex step."""

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7)
"""Of finite differences, relative to `1 + ‖leaf‖` along a direction of length 1."""

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
    directions: int = 2,
    rtol: float = 1e-6,
    seed: int = 0,
    raises: bool = True,
) -> list[LeafCheck]:
    """Compare a gradient with slopes of the loss, one leaf at a time.

    Everything is computed in float64: floating params and args are cast, and `jax.enable_x64` is on
    while `loss` runs. A loss that casts to float32 itself is measured less sharply, and may end as
    `"unsure"`, as may one with a kink where it is looked at; that is a warning, and no proof of
    anything. What is meant to differ from the slope (`stop_gradient`, straight-through estimators)
    is wrong here.

    Args:
      loss: `loss(params, *args) -> scalar`, without randomness.
      params: a pytree of floating arrays.
      *args: whatever the loss takes.
      gradient: `gradient(params, *args) -> like params`, what is to be checked; `jax.grad(loss)`
        by default, which checks rules that someone wrote for parts of it.
      directions: random directions for each leaf.
      rtol: largest error that is right.
      seed: of the directions.
      raises: whether a wrong leaf is an error.

    Returns:
      one `LeafCheck` for each leaf that is not empty.

    Raises:
      AssertionError: if a leaf is wrong, naming each such leaf.
      ValueError: if the gradient has other paths or shapes than params, or `directions` is not
        positive.
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
        try:
            value = jax.eval_shape(lambda params: loss(params, *args), params)
        except TypeError as error:
            raise TypeError(
                "check_gradients: the loss fails with parameters and arguments in float64; "
                "arrays that it makes itself, such as a loop's first carry, must follow their "
                f"dtype: {error}"
            ) from error
        if not hasattr(value, "shape") or value.shape or not _is_floating(value):
            raise TypeError(f"check_gradients: loss must return one floating number, got {value}")
        leaves = tree.flatten_with_paths(params)
        found = (jax.grad(loss) if gradient is None else gradient)(params, *args)
        slopes = {path: np.asarray(g) for path, g in tree.flatten_with_paths(found).items()}
        _require_alike(leaves, slopes)
        structure = jax.tree.structure(params)

        @jax.jit
        def moved(t: Any, direction: Any) -> Any:
            at = jax.tree.map(lambda p, d: p + t * d, params, direction)
            return loss(at, *args)

        nowhere = jax.tree.map(jnp.zeros_like, params)
        analytic = _takes_complex(moved, 1j, nowhere)
        eps = _coarsest(jax.make_jaxpr(moved)(0.0, nowhere).jaxpr)
        finite = [g[np.isfinite(g)] for g in slopes.values()]
        steepest = float(np.sqrt(sum(np.sum(np.square(g)) for g in finite)))
        checks = []
        rng = np.random.default_rng(seed)
        for path in leaves:

            def line(direction: np.ndarray, path: str = path) -> _Line:
                whole = [
                    direction if other == path else np.zeros(np.shape(leaf))
                    for other, leaf in leaves.items()
                ]
                at = jax.tree.unflatten(structure, whole)

                def there(t: complex) -> complex:
                    return complex(moved(t if analytic else t.real, at))

                return _Line(there, eps, steepest)

            leaf, slope = np.asarray(leaves[path]), slopes[path]
            if leaf.size:
                checks.append(_check(path, leaf, slope, line, directions, rtol, rng))
    wrong = [check for check in checks if check.verdict == "wrong"]
    if raises and wrong:
        raise AssertionError("wrong gradient:\n" + "\n".join(map(_sentence, wrong)))
    if raises and (unsure := [check for check in checks if check.verdict == "unsure"]):
        warnings.warn("unsure:\n" + "\n".join(map(_sentence, unsure)), stacklevel=2)
    return checks


def _check(
    path: str, leaf: np.ndarray, slope: np.ndarray, line: Callable[[np.ndarray], _Line],
    directions: int, rtol: float, rng: np.random.Generator,
) -> LeafCheck:  # fmt: skip
    reach = 1 + float(np.linalg.norm(leaf))
    typical = float(np.linalg.norm(slope)) / np.sqrt(slope.size)
    checks = []
    for _ in range(directions):
        direction = rng.normal(size=leaf.shape)
        direction /= np.linalg.norm(direction)
        predicted = float(np.sum(slope * direction))
        checks.append(_compare(path, predicted, line(direction), reach, typical, rtol))
    order: list[Verdict] = ["right", "unsure", "wrong"]
    worst = max(checks, key=lambda check: (order.index(check.verdict), check.error))
    if worst.verdict == "wrong" and leaf.size <= SHOWN:
        return worst._replace(worst=_worst_element(leaf, slope, line, reach))
    return worst


def _compare(
    path: str, predicted: float, line: _Line, reach: float, typical: float, rtol: float
) -> LeafCheck:
    measured, uncertainty, way = _measure(line, reach)
    scale = max(abs(predicted), abs(measured), typical, np.finfo(float).tiny)
    gap = abs(predicted - measured)
    # what is 0 but for rounding has no error of its own size
    allowed = rtol * scale + 100 * line.eps * max(line.steepest, abs(line.at(0.0)) / reach)
    verdict: Verdict = "right"
    # what is not a number makes no comparison true
    if not gap <= allowed:
        broken = np.isfinite(measured) and not np.isfinite(predicted)
        verdict = "wrong" if broken or gap > allowed + 10 * uncertainty else "unsure"
    return LeafCheck(
        path, predicted, measured, uncertainty, gap / scale, way, verdict, None
    )  # fmt: skip


def _measure(line: _Line, reach: float) -> tuple[float, float, Way]:
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


def _finite_differences(line: _Line, reach: float) -> tuple[float, float]:
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


def _takes_complex(function: Callable[..., Any], *args: Any) -> bool:
    """Whether it computes with complex numbers, and does not drop their imaginary part."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            value = jax.eval_shape(function, *args)
        except Exception:  # whatever it says of complex numbers, with real ones it works
            return False
    return bool(jnp.issubdtype(value.dtype, jnp.complexfloating))


def _coarsest(jaxpr: Any) -> float:
    """The largest distance from 1 to the next number, among types made of what goes in."""
    finfo: Any = jnp.finfo
    known, largest = {*map(id, jaxpr.invars)}, 0.0
    for equation in jaxpr.eqns:
        if known.isdisjoint(map(id, equation.invars)):
            continue
        known.update(map(id, equation.outvars))
        types: list[Any] = [getattr(v.aval, "dtype", jnp.int32) for v in equation.outvars]
        here = [float(finfo(t).eps) for t in types if jnp.issubdtype(t, jnp.floating)]
        largest = max([largest, *here, *map(_coarsest, programs_inside(equation))])
    return largest


def _worst_element(
    leaf: np.ndarray, slope: np.ndarray, line: Callable[[np.ndarray], _Line], reach: float
) -> tuple[tuple[int, ...], float, float]:
    def each() -> Iterator[tuple[tuple[int, ...], float, float]]:
        for index in np.ndindex(leaf.shape):
            unit = np.zeros(leaf.shape)
            unit[index] = 1
            yield index, float(slope[index]), _measure(line(unit), reach)[0]

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


def _require_alike(leaves: dict[str, Any], slopes: dict[str, np.ndarray]) -> None:
    want = {path: np.shape(leaf) for path, leaf in leaves.items()}
    got = {path: slope.shape for path, slope in slopes.items()}
    if want != got:
        different = sorted(set(want.items()) ^ set(got.items()))
        raise ValueError(
            f"check_gradients: the gradient must be like params, but differs in {different}"
        )
