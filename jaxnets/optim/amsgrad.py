"""AMSGrad: Adam with the largest second moment so far."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import corrected_momentum
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByAmsgradState(NamedTuple):
    """Adam's state, and the largest (corrected) second moment so far."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params
    nu_max: Params


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE)
def scale_by_amsgrad(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    correct_before_max: bool = True,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = m̂ / (√(max v̂ + ε̄) + ε)`; see `amsgrad`."""

    def init(params: Params) -> ScaleByAmsgradState:
        return ScaleByAmsgradState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
            nu_max=moments_like(params, dtype=nu_dtype, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAmsgradState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAmsgradState]:
        t = increment(state.count)
        m_hat = corrected_momentum(b1, t)
        correction: Any = 1 - b2**t if bias_correction_nu else 1
        before, after = (correction, 1) if correct_before_max else (1, correction)

        def step(g: Array, m: Array, v: Array, largest: Array) -> tuple[Array, ...]:
            m = (1 - b1) * g + b1 * m
            v = (1 - b2) * abs_sq(g) + b2 * v
            largest = jnp.maximum(largest, v / before)
            numerator = m_hat(g, m) if bias_correction_mu else m
            return numerator / (jnp.sqrt(largest / after + eps_root) + eps), m, v, largest

        updates, mu, nu, nu_max = map_moments(
            step, updates, state.mu, state.nu, state.nu_max, params=params
        )
        return updates, ScaleByAmsgradState(t, mu, nu, nu_max)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
)
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    correct_before_max: bool = True,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """AMSGrad: Adam whose steps never grow because a large gradient was forgotten.

        m ← β₁ m + (1 - β₁) g           m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²          v̂ ← max(v̂, v / (1 - β₂ᵗ))
        θ ← θ - η m̂ / (√(v̂ + ε̄) + ε)

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      bias_correction_mu: False for `m̂ = m`. (The paper corrects neither moment.)
      bias_correction_nu: False for `v̂ ← max(v̂, v)`.
      correct_before_max: False for the maximum of `v` itself, corrected afterwards, which is
        PyTorch's form: `w ← max(w, v)`, `v̂ = w / (1 - β₂ᵗ)`.
      nu_dtype: dtype in which `v` and its maximum are stored; see `adam`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      PyTorch's:

      >>> optimizer = amsgrad(1e-3, correct_before_max=False)

    References:
      Reddi et al., [On the convergence of Adam and
      beyond](https://openreview.net/forum?id=ryQu7f-RZ), 2018.
    """
    return chain(
        scale_by_amsgrad(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            bias_correction_mu,
            bias_correction_nu,
            correct_before_max=correct_before_max,
            nu_dtype=nu_dtype,
        ),
        scale_by_learning_rate(learning_rate),
    )
