"""Each leaf's part of a gradient and the line along it, in float64 as far as that goes."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree
from jaxnets.gradients.slopes import Line
from jaxnets.gradients.widening import in_float64, narrowest
from jaxnets.types import Params

EPS = float(np.finfo(np.float64).eps)


class Leaf(NamedTuple):
    """What is to be compared, and how sharply."""

    path: str
    value: np.ndarray
    slope: np.ndarray
    """Its part of the gradient."""
    line: Callable[[np.ndarray], Line]
    steepest: float
    """The norm of the whole gradient."""
    written: float
    """The distance from 1 to the next number in the narrowest type that the leaf is led through."""
    computed: float
    """The same of the narrowest in which the loss or the gradient still computes with it."""

    @property
    def reach(self) -> float:
        """What steps along a direction of length 1 are relative to."""
        return 1 + float(np.linalg.norm(self.value))


def leaves_of(
    loss: Callable[[Params], Any], gradient: Callable[[Params], Params] | None, params: Params
) -> Iterator[Leaf]:
    """Of those that are not empty; without a gradient that of `jax.grad`.

    Raises:
      ValueError: if the gradient has other paths or shapes than params.
    """
    leaves = tree.flatten_with_paths(params)
    nowhere = [np.zeros(np.shape(leaf)) for leaf in leaves.values()]
    moved = _along(loss, params)
    analytic = _takes_complex(moved, 1j, nowhere)
    start = 1j if analytic else 0.0
    written = _narrowest_of_each(moved, start, nowhere)
    at: Callable[..., Any] = moved
    of_loss, of_gradient = written, EPS
    if max(written, default=EPS) > EPS:
        if wide := in_float64(moved, start, nowhere):
            at, of_loss = wide, _narrowest_of_each(wide, start, nowhere)
        found, of_gradient, differentiated = _raised(loss, gradient, params)
        written = _narrowest_of_each(_along(differentiated, params), 0.0, nowhere)
    else:
        found = (gradient or jax.grad(loss))(params)
    slopes = {path: np.asarray(g) for path, g in tree.flatten_with_paths(found).items()}
    _require_alike(leaves, slopes)
    finite = [g[np.isfinite(g)] for g in slopes.values()]
    steepest = float(np.sqrt(sum(np.sum(np.square(g)) for g in finite)))
    for i, (path, value) in enumerate(leaves.items()):

        def line(direction: np.ndarray, i: int = i) -> Line:
            directions = [*nowhere[:i], direction, *nowhere[i + 1 :]]

            def there(t: complex) -> complex:
                return complex(at(t if analytic else t.real, directions))

            return Line(there, of_loss[i])

        if value.size:
            computed = max(of_loss[i], min(of_gradient, written[i]))
            yield Leaf(
                path, np.asarray(value), slopes[path], line, steepest, written[i], computed
            )  # fmt: skip


def _raised(
    loss: Callable[[Params], Any], gradient: Callable[[Params], Params] | None, params: Params
) -> tuple[Params, float, Callable[[Params], Any]]:
    """The gradient, the distance from 1 to the next of the narrowest type that made it, its loss.

    That distance is infinite where the gradient could not be computed in float64.
    """
    wide = None
    if gradient is None:
        # what is differentiated in float64 has no numbers that JAX's own rules round
        by_rules = in_float64(loss, params, keep_rules=True)
        wide = by_rules and in_float64(jax.grad(by_rules), params)
        loss = by_rules if by_rules and wide else loss
        gradient = jax.grad(loss)
    wide = wide or in_float64(gradient, params)
    if wide is None:
        return gradient(params), float("inf"), loss
    program = jax.make_jaxpr(wide)(params).jaxpr
    return wide(params), narrowest(program, [True] * len(program.invars))[0], loss


def _along(loss: Callable[[Params], Any], params: Params) -> Callable[..., Any]:
    """`(t, a direction for each leaf) -> loss(params + t direction)`"""
    leaves, structure = jax.tree.flatten(params)

    @jax.jit
    def moved(t: Any, directions: list[Any]) -> Any:
        at = [p + t * d for p, d in zip(leaves, directions, strict=True)]
        return loss(jax.tree.unflatten(structure, at))

    return moved


def _narrowest_of_each(
    moved: Callable[..., Any], start: complex, nowhere: list[np.ndarray]
) -> list[float]:
    """For each leaf of the narrowest type, at least float64, the distance from 1 to the next."""
    program, count = jax.make_jaxpr(moved)(start, nowhere).jaxpr, len(nowhere)
    if narrowest(program, [False, *[True] * count])[0] <= EPS:
        return [EPS] * count
    each = [[False, *(i == j for j in range(count))] for i in range(count)]
    return [max(EPS, narrowest(program, reached)[0]) for reached in each]


def _takes_complex(function: Callable[..., Any], *args: Any) -> bool:
    """Whether it computes with complex numbers, and does not drop their imaginary part."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            value = jax.eval_shape(function, *args)
        except Exception:  # whatever it says of complex numbers, with real ones it works
            return False
    return bool(jnp.issubdtype(value.dtype, jnp.complexfloating))


def _require_alike(leaves: dict[str, Any], slopes: dict[str, np.ndarray]) -> None:
    want = {path: np.shape(leaf) for path, leaf in leaves.items()}
    got = {path: slope.shape for path, slope in slopes.items()}
    if want != got:
        different = sorted(set(want.items()) ^ set(got.items()))
        raise ValueError(
            f"check_gradients: the gradient must be like params, but differs in {different}"
        )
