"""Adam and AdamW."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByAdamState(NamedTuple):
    """The number of steps made and the moving averages of gradients and squared gradients."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params


def corrected_momentum(b1: Any, t: Array, nesterov: bool = False) -> Callable[..., Any]:
    """`m̂(g, m)` at step `t`: momentum corrected for its start at 0, in Nesterov's form if asked."""
    correction = 1 - b1**t
    # the momentum of Nesterov's form is that of the step to come
    correction_next = 1 - b1 ** increment(t)

    def m_hat(g: Array, m: Array) -> Any:
        if nesterov:
            return b1 * (m / correction_next) + (1 - b1) * (g / correction)
        return m / correction

    return m_hat


@transformation(b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE)
def scale_by_adam(
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = m̂ / (√(v̂ + ε̄) + ε)`, the direction of Adam; see `adam`."""

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(params, dtype=nu_dtype, real=True),
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamState]:
        t = increment(state.count)
        m_hat, correction = corrected_momentum(b1, t, nesterov), 1 - b2**t

        def step(g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            m = (1 - b1) * g + b1 * m
            v = (1 - b2) * abs_sq(g) + b2 * v
            return m_hat(g, m) / (jnp.sqrt(v / correction + eps_root) + eps), m, v

        updates, mu, nu = map_moments(step, updates, state.mu, state.nu, params=params)
        return updates, ScaleByAdamState(t, mu, nu)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
)
def adam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adam: momentum, divided by a moving root mean square, both corrected for their start at 0.

        m ← β₁ m + (1 - β₁) g           m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²          v̂ = v / (1 - β₂ᵗ)
        θ ← θ - η m̂ / (√(v̂ + ε̄) + ε)

    With Nesterov momentum, `m̂ = β₁ m / (1 - β₁ᵗ⁺¹) + (1 - β₁) g / (1 - β₁ᵗ)`; see `nadam`.

    For half-precision parameters the moments are float32, where Optax's are of the parameters'
    dtype; so zero gradients in float16 give zero updates and not NaN. Stored in another dtype, they
    are used as computed, before they are rounded.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root; positive where one differentiates through the optimizer.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      nesterov: whether to use Nesterov momentum.
      nu_dtype: dtype in which `v` is stored; by default the parameters', at least float32. In
        bfloat16 it cannot decay where `β₂ > 0.996`: it has 8 bits, and `β₂ v` rounds back to `v`.

    Raises:
      ValueError: for a number outside its range.

    Example:
      A sweep over learning rates, compiled once:

      >>> def train(learning_rate):
      ...     optimizer = adam(learning_rate)
      ...     ...
      >>> jax.vmap(train)(jnp.logspace(-4, -2, 16))

    References:
      Kingma and Ba, [Adam: a method for stochastic optimization](https://arxiv.org/abs/1412.6980),
      2014; Dozat, [Incorporating Nesterov momentum into
      Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),
        scale_by_learning_rate(learning_rate),
    )


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Adam with decoupled weight decay: `θ ← θ - η (m̂ / (√(v̂ + ε̄) + ε) + λ θ)`; see `adam`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      mu_dtype: dtype in which `m` is stored; by default the parameters', at least float32.
      weight_decay: `λ ≥ 0`. (PyTorch's default is 1e-2.)
      mask: which parameters decay; a path rule such as `"kernel$"`, or Optax's masks, see
        `add_decayed_weights`.
      nesterov: whether to use Nesterov momentum.
      nu_dtype: dtype in which `v` is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = adamw(1e-3, weight_decay=1e-2, mask="kernel$")

    References:
      Loshchilov and Hutter, [Decoupled weight decay
      regularization](https://arxiv.org/abs/1711.05101), 2017.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
