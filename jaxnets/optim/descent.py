"""Gradient descent, plain and with momentum."""

from typing import Any, NamedTuple

from jaxnets.optim.hyper import FRACTION, NON_NEGATIVE, Hyper, checked, transformation
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain, identity
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class TraceState(NamedTuple):
    """The decaying sum of past gradients."""

    trace: Params


@transformation(decay=FRACTION)
def trace(
    decay: Hyper,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Momentum: `v ← g + μ v`; the update is `v`, or `g + μ v` once more for Nesterov's.

    Args:
      decay: the momentum coefficient `μ`, in [0, 1].
      nesterov: whether to look ahead along the new `v`.
      accumulator_dtype: dtype of `v`; by default the parameters', at least float32.
    """

    def init(params: Params) -> TraceState:
        return TraceState(moments_like(params, dtype=accumulator_dtype))

    def update(
        updates: Updates, state: TraceState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, TraceState]:
        def step(g: Array, v: Array) -> tuple[Array, Array]:
            v = g + decay * v
            return (g + decay * v if nesterov else v), v

        updates, velocity = map_moments(step, updates, state.trace, params=params)
        return updates, TraceState(velocity)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, momentum=FRACTION)
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """(Stochastic) gradient descent, with classical or Nesterov momentum.

        v ← μ v + g
        θ ← θ - η v              classical
        θ ← θ - η (g + μ v)      Nesterov

    Without momentum, `θ ← θ - η g`. The rate multiplies `v`, as in PyTorch, and does not enter it.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      momentum: `μ` in [0, 1]; None (not 0) keeps no state.
      nesterov: whether to use Nesterov's form.
      accumulator_dtype: dtype of `v`; by default the parameters', at least float32.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = sgd(0.1, momentum=0.9)
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(gradients, state, params)
      >>> params = apply_updates(params, updates)

    References:
      Sutskever et al., [On the importance of initialization and momentum in deep
      learning](https://proceedings.mlr.press/v28/sutskever13.html), 2013.
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )
