"""Steps scaled by the root of the mean or summed squared gradient: Adagrad, RMSProp."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.lax import rsqrt

from jaxnets.optim.descent import trace
from jaxnets.optim.hyper import (
    DECAY_RATE,
    FRACTION,
    NON_NEGATIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain, identity
from jaxnets.types import Array, Params, ScalarOrSchedule


class ScaleByRssState(NamedTuple):
    """The sum of squared gradients so far."""

    sum_of_squares: Params


def _inverse_root(v: Array, eps: Any, eps_in_sqrt: bool) -> Array:
    return rsqrt(v + eps) if eps_in_sqrt else 1 / (jnp.sqrt(v) + eps)


@transformation(initial_accumulator_value=NON_NEGATIVE, eps=NON_NEGATIVE)
def scale_by_rss(
    initial_accumulator_value: Hyper = 0.1, eps: Hyper = 1e-7, *, eps_in_sqrt: bool = True
) -> GradientTransformation:
    """`s ← s + g²`; `u = g / √(s + ε)`, and 0 where `s` is 0. See `adagrad`."""

    def init(params: Params) -> ScaleByRssState:
        return ScaleByRssState(moments_like(params, initial_accumulator_value, real=True))

    def update(
        updates: Updates, state: ScaleByRssState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByRssState]:
        def step(g: Array, s: Array) -> tuple[Array, Array]:
            s = abs_sq(g) + s
            return jnp.where(s > 0, _inverse_root(s, eps, eps_in_sqrt), 0.0) * g, s

        updates, sums = map_moments(step, updates, state.sum_of_squares, params=params)
        return updates, ScaleByRssState(sums)

    return GradientTransformation(init, update)


class ScaleByRmsState(NamedTuple):
    """The moving average of squared gradients."""

    nu: Params


class ScaleByRmsWithCountState(NamedTuple):
    """The same, with the number of steps for the bias correction."""

    count: Array  # type: ignore[assignment]
    nu: Params


@transformation(decay=DECAY_RATE, eps=NON_NEGATIVE, initial_scale=NON_NEGATIVE)
def scale_by_rms(
    decay: Hyper = 0.9,
    eps: Hyper = 1e-8,
    initial_scale: Hyper = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """`v ← γ v + (1 - γ) g²`; `u = g / √(v + ε)`. See `rmsprop`."""

    def init(params: Params) -> ScaleByRmsState | ScaleByRmsWithCountState:
        nu = moments_like(params, initial_scale, real=True)
        if bias_correction:
            return ScaleByRmsWithCountState(jnp.zeros((), jnp.int32), nu)
        return ScaleByRmsState(nu)

    def update(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByRmsState | ScaleByRmsWithCountState]:
        count = increment(state.count) if bias_correction else None
        correction = 1 if count is None else 1 - decay**count

        def step(g: Array, v: Array) -> tuple[Array, Array]:
            v = (1 - decay) * abs_sq(g) + decay * v
            return _inverse_root(v / correction, eps, eps_in_sqrt) * g, v

        updates, nu = map_moments(step, updates, state.nu, params=params)
        return updates, (
            ScaleByRmsState(nu) if count is None else ScaleByRmsWithCountState(count, nu)
        )

    return GradientTransformation(init, update)


class ScaleByRStdDevState(NamedTuple):
    """The moving averages of gradients and of squared gradients."""

    mu: Params
    nu: Params


class ScaleByRStdDevWithCountState(NamedTuple):
    """The same, with the number of steps for the bias correction."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params


@transformation(decay=DECAY_RATE, eps=NON_NEGATIVE, initial_scale=NON_NEGATIVE)
def scale_by_stddev(
    decay: Hyper = 0.9,
    eps: Hyper = 1e-8,
    initial_scale: Hyper = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """`m ← γ m + (1 - γ) g`; `v ← γ v + (1 - γ) g²`; `u = g / √(v - m² + ε)`. See `rmsprop`.

    Where rounding leaves no root of the variance `v - m²`, it counts as 0; Optax's updates are NaN.
    """

    def init(params: Params) -> ScaleByRStdDevState | ScaleByRStdDevWithCountState:
        mu = moments_like(params)
        nu = moments_like(params, initial_scale, real=True)
        if bias_correction:
            return ScaleByRStdDevWithCountState(jnp.zeros((), jnp.int32), mu, nu)
        return ScaleByRStdDevState(mu, nu)

    def update(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByRStdDevState | ScaleByRStdDevWithCountState]:
        count = increment(state.count) if bias_correction else None
        correction = 1 if count is None else 1 - decay**count
        # rounding can make the variance negative, which has no root
        least = -eps if eps_in_sqrt else 0

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - decay) * g + decay * m
            v = (1 - decay) * abs_sq(g) + decay * v
            variance = v / correction - abs_sq(m / correction)
            variance = jnp.where(variance > least, variance, 0)
            return _inverse_root(variance, eps, eps_in_sqrt) * g, m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, (
            ScaleByRStdDevState(mu, nu)
            if count is None
            else ScaleByRStdDevWithCountState(count, mu, nu)
        )

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, initial_accumulator_value=NON_NEGATIVE, eps=NON_NEGATIVE)
def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: ScalarOrSchedule = 0.1,
    eps: ScalarOrSchedule = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> GradientTransformation:
    """Adagrad: each parameter's rate falls with the squared gradients it has seen.

        s ← s + g²
        θ ← θ - η g / √(s + ε)

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      initial_accumulator_value: `s` before the first step, at least 0.
      eps: `ε ≥ 0`.
      eps_in_sqrt: False for `√s + ε`, which is PyTorch's form.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = adagrad(0.1)

      PyTorch's `Adagrad(lr=0.1, lr_decay=0.01)`:

      >>> optimizer = adagrad(lambda t: 0.1 / (1 + 0.01 * t), 0.0, 1e-10, eps_in_sqrt=False)

    References:
      Duchi et al., [Adaptive subgradient methods for online learning and stochastic
      optimization](https://jmlr.org/papers/v12/duchi11a.html), 2011.
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt),
        scale_by_learning_rate(learning_rate),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    decay=DECAY_RATE,
    eps=NON_NEGATIVE,
    initial_scale=NON_NEGATIVE,
    momentum=FRACTION,
)
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-8,
    initial_scale: ScalarOrSchedule = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """RMSProp: steps divided by a moving root mean square of the gradients.

        v ← γ v + (1 - γ) g²
        u ← -η g / √(v + ε)
        θ ← θ + u, or with momentum  w ← u + μ w;  θ ← θ + w

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; applied before the momentum.
      decay: `γ` in [0, 1).
      eps: `ε ≥ 0`.
      initial_scale: `v` before the first step, at least 0.
      eps_in_sqrt: False for `√v + ε`, which is PyTorch's form.
      centered: divide by the standard deviation instead: `v - m²` in place of `v`, where `m` is
        the moving average of the gradients. Where rounding leaves no root of it, it counts as 0;
        Optax's updates are NaN.
      momentum: `μ` in [0, 1]; None (not 0) keeps no state.
      nesterov: whether to use Nesterov's form of momentum.
      bias_correction: divide `v` (and `m`) by `1 - γᵗ`, as Adam does.

    Raises:
      ValueError: for a number outside its range.

    Example:
      >>> optimizer = rmsprop(1e-3, momentum=0.9)

    References:
      Hinton, [Overview of mini-batch gradient
      descent](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf), 2012;
      Graves, [Generating sequences with recurrent neural
      networks](https://arxiv.org/abs/1308.0850), 2013 (centered).
    """
    scale_by = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )
