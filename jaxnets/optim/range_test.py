"""The learning-rate range test: one short run whose rate grows, to see where learning begins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.optim.hyper import DECAY_RATE, POSITIVE, checked
from jaxnets.optim.schedules import exponential_decay
from jaxnets.optim.transform import GradientTransformation, apply_updates
from jaxnets.types import Array, Params, PyTree, Schedule

SPAN = 0.5
"""Decades of the rate over which a slope is measured."""


@checked(low=POSITIVE, high=POSITIVE, smoothing=DECAY_RATE)
def learning_rate_range(
    loss: Callable[[Params, Any], Array],
    optimizer: Callable[[Schedule], GradientTransformation],
    params: Params,
    batches: PyTree,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    smoothing: float = 0.9,
) -> tuple[Array, Array]:
    """Train for a while with a rate that grows from `low` to `high` by the same factor each step.

    One `lax.scan`; compile it, or `vmap` it over several starts, as any function.

    Args:
      loss: `loss(params, batch) -> scalar`.
      optimizer: makes the optimizer from a schedule: `adam`, `partial(sgd, momentum=0.9)`.
      params: where to begin; they are not changed.
      batches: a pytree with a leading axis, of 2 or more, for the steps.
      low: the first rate.
      high: the last rate, more than `low`.
      smoothing: `β` in [0, 1) of the moving average of the losses, corrected as in Adam; 0 for the
        losses as they are.

    Returns:
      The rates, and the loss before each step, smoothed. Once training diverges, the losses are
      large, infinite or NaN.

    Raises:
      ValueError: for a number out of its range, or batches without a common leading axis.

    Example:
      >>> rates, losses = learning_rate_range(loss, adam, params, batches)
      >>> optimizer = adam(suggest_rate(rates, losses))

    References:
      Smith, [Cyclical learning rates for training neural
      networks](https://arxiv.org/abs/1506.01186), 2017.
    """
    if not high > low:
        raise ValueError(
            f"learning_rate_range: high must be more than low, got high={high}, low={low}"
        )
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths <= {(), (0,), (1,)}:
        raise ValueError(
            "learning_rate_range: batches must have one leading axis of 2 steps or more, "
            f"got lengths {sorted(lengths)}"
        )
    ((n,),) = lengths
    schedule = exponential_decay(low, n - 1, high / low)
    tx = optimizer(schedule)

    def step(carry: Any, batch: PyTree) -> Any:
        params, state, average, t = carry
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(gradient, state, params)
        average = smoothing * average + (1 - smoothing) * value.astype(average.dtype)
        smoothed = average / (1 - smoothing ** (t + 1))
        return (apply_updates(params, updates), state, average, t + 1), smoothed

    zero = jnp.zeros((), jnp.promote_types(jnp.float32, jnp.result_type(float)))
    carry = (params, tx.init(params), zero, jnp.zeros((), jnp.int32))
    _, losses = jax.lax.scan(step, carry, batches)
    return jnp.asarray(schedule(jnp.arange(n))), losses


def suggest_rate(rates: Array, losses: Array, *, method: str = "steepest") -> Array:
    """A rate to train with, from the curve of a range test. It is a place to begin, not an optimum.

    Args:
      rates: rising, at least 3.
      losses: the smoothed losses. What follows the first that is not finite does not count.
      method: "steepest" for the rate at which the loss falls fastest per decade of the rate, before
        its minimum, measured over half a decade around each rate, since losses are of single
        batches; "minimum" for a tenth of the rate at the minimum.

    Raises:
      ValueError: for another method, or arrays that do not fit.

    References:
      Smith, [Cyclical learning rates for training neural
      networks](https://arxiv.org/abs/1506.01186), 2017.
    """
    if method not in ("steepest", "minimum"):
        raise ValueError(f"suggest_rate: method must be 'steepest' or 'minimum', got {method!r}")
    rates, losses = jnp.asarray(rates), jnp.asarray(losses)
    if rates.ndim != 1 or rates.shape != losses.shape or rates.size < 3:
        raise ValueError(
            "suggest_rate: rates and losses must be vectors of one length, 3 or more, "
            f"got shapes {rates.shape} and {losses.shape}"
        )
    finite = jnp.cumprod(jnp.isfinite(losses)).astype(bool)
    lowest = jnp.argmin(jnp.where(finite, losses, jnp.inf))
    if method == "minimum":
        return rates[lowest] / 10
    slopes = _slopes(jnp.log10(rates), jnp.where(finite, losses, 0))
    before = jnp.arange(rates.size) <= jnp.maximum(lowest - 1, 0)
    return rates[jnp.argmin(jnp.where(before, slopes, jnp.inf))]


def _slopes(decades: Array, losses: Array) -> Array:
    """The loss's rise per decade around each rate; at the ends, over the last `SPAN` there."""
    span = jnp.minimum(SPAN, decades[-1] - decades[0])
    left = jnp.clip(decades - span / 2, decades[0], decades[-1] - span)
    right = left + span
    rise = jnp.interp(right, decades, losses) - jnp.interp(left, decades, losses)
    return rise / (right - left)
