"""Mechanic: the learning rate of any optimizer, learned along the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import combines
from jaxnets.optim.hyper import NON_NEGATIVE, POSITIVE, Hyper, increment, transformation
from jaxnets.optim.leaves import (
    copy_of,
    dot,
    map_moments,
    map_with_params,
    moved_from,
    require_params,
    scalar_dtype,
    with_zeros,
)
from jaxnets.optim.transform import GradientTransformation, State, Updates, chain
from jaxnets.tree import global_norm
from jaxnets.types import Array, Params


class MechanicState(NamedTuple):
    """The base optimizer's state, the tuners' statistics, one entry for each `β`, and the start."""

    base_optimizer_state: State
    count: Array  # type: ignore[assignment]
    r: Array
    m: Array
    v: Array
    s: Array
    x0: Params


@transformation(weight_decay=NON_NEGATIVE, eps=NON_NEGATIVE, s_init=POSITIVE)
@combines(lambda call, state: {"": (call["base_optimizer"], state.base_optimizer_state)})
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: Hyper = 1e-2,
    eps: Hyper = 1e-8,
    s_init: Hyper = 1e-6,
    num_betas: int = 6,
) -> GradientTransformation:
    """Scale the sum `Δ` of all steps of a base optimizer by a factor `s = Σ sᵢ` that is learned.

        g ← g + λ s ‖g‖ θ / (‖θ‖ + ε)
        h = ⟨g, Δ⟩,   Δ = (θ₀ - θ) / (s + ε)
        rᵢ ← βᵢ rᵢ + sᵢ clip(h, ±mᵢ)
        mᵢ ← max(βᵢ mᵢ, |h| + ε)
        vᵢ ← βᵢ² vᵢ + h²
        sᵢ ← (mᵢ s₀ / n + max(0, rᵢ)) / (√vᵢ + ε)
        Δ ← Δ - u;   θ ← θ₀ - s Δ

    for `βᵢ = 1 - 10⁻ⁱ`, `i = 1 … n`. The base optimizer's rate is then a schedule around 1.

    Args:
      base_optimizer: gives the steps `u`; of ours, Optax's or any other `(init, update)` pair. Not
        one that normalizes its steps, as LARS and LAMB do.
      weight_decay: `λ ≥ 0`, of the tuner, beside that of the base optimizer.
      eps: `ε ≥ 0`.
      s_init: `s₀ > 0`.
      num_betas: `n ≥ 1`.

    Raises:
      ValueError: for a number outside its range, or an update without params.

    Example:
      >>> optimizer = mechanize(adam(cosine_decay_schedule(1.0, 1000)))

    References:
      Cutkosky, Defazio and Mehta, [Mechanic: a learning rate
      tuner](https://arxiv.org/abs/2306.00144), 2023.
    """
    if num_betas < 1:
        raise ValueError(f"mechanize: num_betas must be >= 1, got {num_betas}")
    base = chain(base_optimizer)

    def init(params: Params) -> MechanicState:
        dtype = scalar_dtype(params)
        return MechanicState(
            base_optimizer_state=base.init(params)[0],
            count=jnp.zeros((), jnp.int32),
            r=jnp.zeros(num_betas, dtype),
            m=jnp.zeros(num_betas, dtype),
            v=jnp.zeros(num_betas, dtype),
            s=jnp.full(num_betas, s_init, dtype),
            x0=copy_of(params),
        )

    def update(
        updates: Updates, state: MechanicState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MechanicState]:
        require_params("mechanize", params)
        gradients = with_zeros(updates, params)
        steps, (base_state,) = base.update(updates, (state.base_optimizer_state,), params, **extra)
        # the start is where training starts, not what `init` saw: weights may be loaded in between
        _, x0 = map_moments(lambda p, x0: (p, jnp.where(state.count == 0, p, x0)), params, state.x0)
        scale = jnp.sum(state.s)
        before = jax.tree.map(lambda x: x / (scale + eps), moved_from(x0, params))

        decay = weight_decay * scale * global_norm(gradients) / (global_norm(params) + eps)
        h = dot(gradients, before) + decay * dot(params, before)
        dtype = state.s.dtype
        betas = jnp.array([1 - 0.1**i for i in range(1, num_betas + 1)], dtype)
        h = h.astype(dtype)
        r = betas * state.r + jnp.clip(h, -state.m, state.m) * state.s
        m = jnp.maximum(betas * state.m, jnp.abs(h) + eps)
        v = betas**2 * state.v + h**2
        wealth = s_init / num_betas * m + jnp.maximum(0, r)
        s = wealth / (jnp.sqrt(v) + eps)

        def step(u: Array, p: Array, p0: Array, delta: Array) -> Array:
            return p0 - jnp.sum(s) * (delta - u) - p

        r, m, v, s = (x.astype(dtype) for x in (r, m, v, s))
        new = MechanicState(base_state, increment(state.count), r, m, v, s, x0)
        return map_with_params(step, steps, params, x0, before), new

    return GradientTransformation(init, update)
