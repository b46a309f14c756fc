"""Steps as long, relative to the parameters, in every layer: LARS, LAMB, Fromage."""

from typing import Any

import jax.numpy as jnp

from jaxnets.optim.adam import scale_by_adam
from jaxnets.optim.calls import by_value
from jaxnets.optim.decay import Mask, add_decayed_weights, mask_tree
from jaxnets.optim.descent import trace
from jaxnets.optim.hyper import (
    DECAY_RATE,
    FRACTION,
    NON_NEGATIVE,
    Hyper,
    checked,
    transformation,
)
from jaxnets.optim.leaves import map_with_params, norm, require_params
from jaxnets.optim.scale import downhill, scale_by_learning_rate
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    State,
    Updates,
    chain,
    empty_state,
)
from jaxnets.types import Array, ArrayLike, Params, ScalarOrSchedule, Schedule


@transformation(min_norm=NON_NEGATIVE, trust_coefficient=NON_NEGATIVE, eps=NON_NEGATIVE)
def scale_by_trust_ratio(
    min_norm: Hyper = 0.0,
    trust_coefficient: Hyper = 1.0,
    eps: Hyper = 0.0,
    *,
    mask: Mask | None = None,
) -> GradientTransformation:
    """`u = g τ ‖θ‖ / (‖g‖ + ε)`, leaf by leaf; `u = g` where either norm is 0.

    The norms do not overflow, and their derivatives at 0 are finite.

    Args:
      min_norm: the least that either norm counts as, at least 0.
      trust_coefficient: `τ ≥ 0`.
      eps: `ε ≥ 0`.
      mask: which parameters' updates are scaled, by default all; see `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.
    """

    def init(params: Params) -> EmptyState:
        if mask is not None:
            mask_tree(mask, params)
        return EmptyState()

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("scale_by_trust_ratio", params)

        def step(g: Array, p: Array, scales: bool = True) -> Array:
            if not scales:
                return g
            param_norm = jnp.maximum(norm(p), min_norm)
            update_norm = jnp.maximum(norm(g), min_norm)
            unscaled = (param_norm == 0) | (update_norm == 0)
            # the branch not taken must have a finite derivative too
            divisor = jnp.where(unscaled, 1, update_norm + eps)
            return g * jnp.where(unscaled, 1, trust_coefficient * param_norm / divisor)

        masks = () if mask is None else (mask_tree(mask, params),)
        return map_with_params(step, updates, params, *masks), state

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    trust_coefficient=NON_NEGATIVE,
    eps=NON_NEGATIVE,
    momentum=FRACTION,
)
def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = True,
    trust_coefficient: ScalarOrSchedule = 0.001,
    eps: ScalarOrSchedule = 0.0,
    trust_ratio_mask: Mask | None = True,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
) -> GradientTransformation:
    """LARS: gradient descent with a rate for each layer, in proportion to its parameters' norm.

        d = g + λ θ
        u = -η τ d ‖θ‖ / (‖d‖ + ε)        in each leaf
        v ← u + μ v;  θ ← θ + v

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; applied before the momentum.
      weight_decay: `λ ≥ 0`.
      weight_decay_mask: which parameters decay; a path rule such as `"kernel$"`, or Optax's masks,
        see `add_decayed_weights`.
      trust_coefficient: `τ ≥ 0`.
      eps: `ε ≥ 0`.
      trust_ratio_mask: which parameters' updates are scaled; the others' are `-η d`.
      momentum: `μ` in [0, 1].
      nesterov: whether to use Nesterov's form of momentum.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> kernels = "kernel$"
      >>> optimizer = lars(1.0, 1e-4, weight_decay_mask=kernels, trust_ratio_mask=kernels)

    References:
      You et al., [Large batch training of convolutional
      networks](https://arxiv.org/abs/1708.03888), 2017.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def lamb(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-6,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """LAMB: Adam's direction, with a step for each layer in proportion to its parameters' norm.

        d = m̂ / (√(v̂ + ε̄) + ε) + λ θ
        θ ← θ - η d ‖θ‖ / ‖d‖             in each leaf

    Where either norm is 0, `θ ← θ - η d`. See `adam` for `m̂` and `v̂`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay; a path rule such as `"kernel$"`, or Optax's masks, see
        `add_decayed_weights`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = lamb(1e-3, weight_decay=1e-2, mask="kernel$")

    References:
      You et al., [Large batch optimization for deep learning: training BERT in 76
      minutes](https://arxiv.org/abs/1904.00962), 2019.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


def _hypotenuse(learning_rate: ArrayLike) -> ArrayLike:
    return (1 + learning_rate**2) ** 0.5


@by_value
def _over_hypotenuse(learning_rate: Schedule) -> Schedule:
    return lambda step: learning_rate(step) / _hypotenuse(learning_rate(step))


@transformation(learning_rate=NON_NEGATIVE)
def _shrink(learning_rate: Hyper) -> GradientTransformation:
    """`u = g + (1 / √(1 + η²) - 1) θ`."""

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("fromage", params)
        root = _hypotenuse(learning_rate)
        # 1 / root - 1 without its cancellation at small rates
        factor = -(learning_rate**2) / (root * (1 + root))
        return map_with_params(lambda g, p: g + factor * p, updates, params), state

    return GradientTransformation(empty_state, update)


@checked(learning_rate=NON_NEGATIVE, min_norm=NON_NEGATIVE)
def fromage(
    learning_rate: ScalarOrSchedule, min_norm: ScalarOrSchedule = 1e-6
) -> GradientTransformation:
    """Fromage: steps of relative length `η` in each layer, then shrunk so that norms do not grow.

        θ ← (θ - η g ‖θ‖ / ‖g‖) / √(1 + η²)      in each leaf

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      min_norm: the least that either norm counts as, at least 0.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Bernstein et al., [On the distance between two neural networks and the stability of
      learning](https://arxiv.org/abs/2002.03432), 2020.
    """
    if callable(learning_rate):
        shortened: ScalarOrSchedule = _over_hypotenuse(learning_rate)
    else:
        shortened = learning_rate / _hypotenuse(learning_rate)
    return chain(
        scale_by_trust_ratio(min_norm),
        downhill(shortened),
        _shrink(learning_rate),
    )
