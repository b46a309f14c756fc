"""NovoGrad: one second moment for each leaf."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import DECAY_RATE, NON_NEGATIVE, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import abs_sq, map_moments, moments_like
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class ScaleByNovogradState(NamedTuple):
    """The number of steps made, the momentum, and a moving average of `‖g‖²` for each leaf."""

    count: Array  # type: ignore[assignment]
    mu: Params
    nu: Params


@transformation(
    b1=DECAY_RATE, b2=DECAY_RATE, eps=NON_NEGATIVE, eps_root=NON_NEGATIVE, weight_decay=NON_NEGATIVE
)
def scale_by_novograd(
    b1: Hyper = 0.9,
    b2: Hyper = 0.25,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """`u = m`, the momentum of gradients divided by their leaf's norm; see `novograd`.

    `u` is `m` before it is rounded to `mu_dtype`; Optax's is `m` as it is stored.
    """

    def init(params: Params) -> ScaleByNovogradState:
        scalars = jax.tree.map(lambda p: jnp.zeros((), jnp.result_type(p)), params)
        return ScaleByNovogradState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            nu=moments_like(scalars, dtype=nu_dtype, real=True),
        )

    def update(
        updates: Updates, state: ScaleByNovogradState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByNovogradState]:
        if params is None:
            raise ValueError(
                "scale_by_novograd: decay needs the parameters; "
                "call update(gradients, state, params)"
            )

        def step(g: Array, p: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
            norm_sq = jnp.sum(abs_sq(g))
            v = jnp.where(state.count == 0, norm_sq, (1 - b2) * norm_sq + b2 * v)
            m = b1 * m + (g / (jnp.sqrt(v + eps_root) + eps) + weight_decay * p)
            return m, m, v

        updates, mu, nu = map_moments(
            step, updates, state.mu, params=params, reads_params=True, statistics=(state.nu,)
        )
        return updates, ScaleByNovogradState(increment(state.count), mu, nu)

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    b1=DECAY_RATE,
    b2=DECAY_RATE,
    eps=NON_NEGATIVE,
    eps_root=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
)
def novograd(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.25,
    eps: ScalarOrSchedule = 1e-6,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
) -> GradientTransformation:
    """NovoGrad: momentum of gradients that are normalized leaf by leaf.

        v ← β₂ v + (1 - β₂) ‖g‖², and ‖g‖² at the first step
        m ← β₁ m + g / (√(v + ε̄) + ε) + λ θ
        θ ← θ - η m

    Nothing is corrected for its start: `v` starts at a gradient, and `m` is a sum, not an average.
    A stacked leaf counts as one layer. `scale_by_novograd` has a `mu_dtype` too, in which `m` is
    stored, and a `nu_dtype`, of `v`; unlike Optax's, the update is `m` before it is rounded.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      b1: `β₁` in [0, 1).
      b2: `β₂` in [0, 1).
      eps: `ε ≥ 0`, outside the root.
      eps_root: `ε̄ ≥ 0`, inside the root.
      weight_decay: `λ ≥ 0`; it enters the momentum.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = novograd(1e-2, b1=0.95, b2=0.98, weight_decay=1e-3)

    References:
      Ginsburg et al., [Stochastic gradient methods with layer-wise adaptive moments for training of
      deep networks](https://arxiv.org/abs/1905.11286), 2019.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay),
        scale_by_learning_rate(learning_rate),
    )
