"""Adam with Nesterov momentum: NAdam and NAdamW."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import scale_by_adam
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByNadamState(NamedTuple):
    """Adam's state, and the product of all momentum coefficients so far."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params
    momentum_product: Array


@transformation(
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    momentum_decay=NON_NEGATIVE,
)
def scale_by_nadam(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    momentum_decay: Hyper = 4e-3,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = m̂ / (√(v̂ + ε̄) + ε)` with PyTorch's momentum, which rises to `β₁`; see `nadam`."""

    def momentum(t: Array) -> Any:
        return b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def init(params: Params) -> ScaleByNadamState:
        return ScaleByNadamState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
            momentum_product=jnp.ones(()),
        )

    def update(
        updates: Updates, state: ScaleByNadamState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByNadamState]:
        t = increment(state.count)
        now, following = momentum(t), momentum(increment(t))
        product = (state.momentum_product * now).astype(state.momentum_product.dtype)
        correction = 1 - b2**t

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            v = (1 - b2) * abs_sq(g) + b2 * v
            m_hat = following * (m / (1 - product * following)) + (1 - now) * (g / (1 - product))
            return m_hat / (jnp.sqrt(v / correction + eps_root) + eps), m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByNadamState(t, mu, nu, product)

    return GradientTransformation(init, update)


def _scale_by(
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
    mu_dtype: DTypeLike | None,
    nesterov: bool,
    nu_dtype: DTypeLike | None,
    momentum_decay: Any,
) -> GradientTransformation:
    if momentum_decay is None:
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)
    if not nesterov:
        raise ValueError("nadam: momentum_decay is of Nesterov momentum, got nesterov=False")
    return scale_by_nadam(
        b1, b2, eps, eps_root, mu_dtype, momentum_decay=momentum_decay, nu_dtype=nu_dtype
    )


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    momentum_decay=NON_NEGATIVE,
)
def nadam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    nu_dtype: DTypeLike | None = None,
    momentum_decay: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """NAdam: Adam that looks ahead along its momentum.

        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²          v̂ = v / (1 - β₂ᵗ)
        m̂ = β₁ m / (1 - β₁ᵗ⁺¹) + (1 - β₁) g / (1 - β₁ᵗ)
        θ ← θ - η m̂ / (√(v̂ + ε̄) + ε)

    PyTorch's NAdam lets the coefficient rise, `μ_t = β₁ (1 - ½ 0.96^(t ψ))`, in `m̂` though not in
    `m`; that is `momentum_decay=4e-3`, its default:

        m̂ = μ_{t+1} m / (1 - μ_1 ⋯ μ_{t+1}) + (1 - μ_t) g / (1 - μ_1 ⋯ μ_t)

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      nesterov: False for Adam.
      nu_dtype: dtype in which `v` is stored; see `adam`.
      momentum_decay: `ψ ≥ 0` of the rising momentum; None for Optax's constant one.

    Raises:
      ValueError: for a number outside its range, or momentum_decay without nesterov.

    Example:
      PyTorch's:

      >>> optimizer = nadam(2e-3, momentum_decay=4e-3)

    References:
      Dozat, [Incorporating Nesterov momentum into
      Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """
    return chain(
        _scale_by(b1, b2, eps, eps_root, mu_dtype, nesterov, nu_dtype, momentum_decay),
        scale_by_learning_rate(learning_rate),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    momentum_decay=NON_NEGATIVE,
)
def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
    nu_dtype: DTypeLike | None = None,
    momentum_decay: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """NAdam with decoupled weight decay: `θ ← θ - η (m̂ / (√(v̂ + ε̄) + ε) + λ θ)`; see `nadam`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      weight_decay: `λ ≥ 0`.
      mask: which parameters decay; see `add_decayed_weights`.
      nesterov: False for AdamW.
      nu_dtype: dtype in which `v` is stored; see `adam`.
      momentum_decay: `ψ ≥ 0` of the rising momentum; None for Optax's constant one.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    References:
      Loshchilov and Hutter, [Decoupled weight decay
      regularization](https://arxiv.org/abs/1711.05101), 2017.
    """
    return chain(
        _scale_by(b1, b2, eps, eps_root, mu_dtype, nesterov, nu_dtype, momentum_decay),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
