"""Schedules that rise and fall: interpolation between given values, one cycle, warm restarts."""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.hyper import NUMBER, POSITIVE, checked
from jaxnets.optim.schedules import join_schedules, warmup_cosine_decay_schedule
from jaxnets.types import Array, ArrayLike, Schedule


def _linear(start: Any, end: Any, fraction: Array) -> Array:
    return (end - start) * fraction + start  # type: ignore[no-any-return]


def _cosine(start: Any, end: Any, fraction: Array) -> Array:
    return end + (start - end) / 2 * (jnp.cos(jnp.pi * fraction) + 1)  # type: ignore[no-any-return]


_INTERPOLATIONS: dict[str, Callable[[Any, Any, Array], Array]] = {
    "linear": _linear,
    "cosine": _cosine,
}


@by_value
@checked(init_value=NUMBER)
def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: ArrayLike,
    boundaries_and_scales: Mapping[int, ArrayLike] | None = None,
) -> Schedule:
    """From value to value, along straight lines or half cosines.

    At each boundary, the value is that of the boundary before times this boundary's scale.

    Args:
      interpolate_type: "linear" or "cosine".
      init_value: the value at step 0.
      boundaries_and_scales: step -> factor, both at least 0.

    Raises:
      ValueError: for another type of interpolation, or a negative step or factor.

    Example:
      >>> piecewise_interpolate_schedule("linear", 1.0, {2: 0.5, 4: 0.0})(jnp.arange(6))
      Array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ], dtype=float32)
    """
    if interpolate_type not in _INTERPOLATIONS:
        raise ValueError(
            "piecewise_interpolate_schedule: interpolate_type must be 'linear' or 'cosine', "
            f"got {interpolate_type!r}"
        )
    interpolate = _INTERPOLATIONS[interpolate_type]
    scales = dict(sorted((boundaries_and_scales or {}).items()))
    for boundary, factor in scales.items():
        if boundary < 0 or (isinstance(factor, float | int) and not factor >= 0):
            raise ValueError(
                "piecewise_interpolate_schedule: boundaries and scales must be >= 0, "
                f"got {factor} at {boundary}"
            )
    values: list[Any] = list(accumulate(scales.values(), lambda x, y: x * y, initial=init_value))

    def schedule(step: ArrayLike) -> ArrayLike:
        step = jnp.asarray(step)
        value = jnp.broadcast_to(values[0], step.shape)
        for (left, right), (start, end) in zip(
            pairwise([0, *scales]), pairwise(values), strict=True
        ):
            fraction = jnp.clip((step - left) / max(right - left, 1), 0, 1)
            value = jnp.where(step < left, value, interpolate(start, end, fraction))
            value = jnp.where(step < right, value, end)
        return value

    return schedule


def _check_cycle(function: str, transition_steps: int, *fractions: float) -> None:
    if transition_steps <= 0:
        raise ValueError(f"{function}: transition_steps must be > 0, got {transition_steps}")
    if not all(low <= high for low, high in pairwise([0, *fractions, 1])):
        raise ValueError(
            f"{function}: the phases must end one after the other, at fractions in [0, 1], "
            f"got {', '.join(map(str, fractions))}"
        )


@by_value
@checked(peak_value=NUMBER, div_factor=POSITIVE, final_div_factor=POSITIVE)
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: ArrayLike,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Straight lines from `p / d` up to `p`, back to `p / d`, and on to `p / (d f)`.

    Args:
      transition_steps: `T > 0`, the length of the whole.
      peak_value: `p`.
      pct_start: the first line ends at this fraction of `T`, in [0, 1].
      pct_final: the second line ends at this fraction of `T`, in [pct_start, 1].
      div_factor: `d > 0`.
      final_div_factor: `f > 0`.

    Raises:
      ValueError: for a number outside its range.

    References:
      Smith and Topin, [Super-convergence: very fast training of neural networks using large
      learning rates](https://arxiv.org/abs/1708.07120), 2017.
    """
    _check_cycle("linear_onecycle_schedule", transition_steps, pct_start, pct_final)
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1 / div_factor,
        transition_steps: 1 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, scales)


@by_value
@checked(peak_value=NUMBER, div_factor=POSITIVE, final_div_factor=POSITIVE)
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: ArrayLike,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Half a cosine from `p / d` up to `p`, and another down to `p / (d f)`.

    Args:
      transition_steps: `T > 0`, the length of the whole.
      peak_value: `p`.
      pct_start: the rise ends at this fraction of `T`, in [0, 1].
      div_factor: `d > 0`.
      final_div_factor: `f > 0`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> cosine_onecycle_schedule(4, 1.0, pct_start=0.5, div_factor=10.0)(jnp.arange(5))
      Array([1.0e-01, 5.5e-01, 1.0e+00, 5.0e-01, 1.0e-05], dtype=float32)

    References:
      Smith and Topin, [Super-convergence: very fast training of neural networks using large
      learning rates](https://arxiv.org/abs/1708.07120), 2017.
    """
    _check_cycle("cosine_onecycle_schedule", transition_steps, pct_start)
    scales = {
        int(pct_start * transition_steps): div_factor,
        transition_steps: 1 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, scales)


@by_value
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Warm restarts: one `warmup_cosine_decay_schedule` after the other.

    Args:
      cosine_kwargs: the keyword arguments of each; `decay_steps` is its length.

    Raises:
      ValueError: if there is none.

    Example:
      >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 5, "decay_steps": 50}
      >>> schedule = sgdr_schedule([cycle, cycle | {"peak_value": 0.5, "decay_steps": 100}])

    References:
      Loshchilov and Hutter, [SGDR: stochastic gradient descent with warm
      restarts](https://arxiv.org/abs/1608.03983), 2016.
    """
    cycles = list(cosine_kwargs)
    if not cycles:
        raise ValueError("sgdr_schedule: needs the arguments of one cycle at least, got none")
    ends = list(accumulate(cycle["decay_steps"] for cycle in cycles))
    return join_schedules([warmup_cosine_decay_schedule(**c) for c in cycles], ends[:-1])
