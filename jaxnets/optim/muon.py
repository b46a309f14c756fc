"""Muon: momentum made orthogonal, for matrices; Adam for all else."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnets.optim.adam import adamw
from jaxnets.optim.decay import Mask, add_decayed_weights
from jaxnets.optim.dimensions import (
    MuonDimensionNumbers,
    WeightDimNumOrFn,
    fans,
    labels_of,
    numbers_of_all,
    numbers_of_chosen,
    require_matrices,
)
from jaxnets.optim.hyper import (
    DECAY_RATE,
    NON_NEGATIVE,
    Hyper,
    checked,
    increment,
    transformation,
)
from jaxnets.optim.leaves import map_moments, moments_like
from jaxnets.optim.orthogonalize import (
    PRESETS,
    STANDARD,
    Preconditioning,
    orthogonalize_via_newton_schulz,
    require_coefficients,
    require_preconditioning,
)
from jaxnets.optim.partition import partition
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    State,
    Updates,
    chain,
)
from jaxnets.types import Array, DTypeLike, Params, ScalarOrSchedule


class MuonState(NamedTuple):
    """The number of steps made, the momentum, and the coefficients of the iteration."""

    count: Array  # type: ignore[assignment]
    mu: Params
    ns_coeffs: Array


@transformation(beta=DECAY_RATE, eps=NON_NEGATIVE)
def scale_by_muon(
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Hyper = 0.95,
    eps: Hyper = 1e-8,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: WeightDimNumOrFn = None,
) -> GradientTransformation:
    """`m ← β m + (1 - β) g`; `u = orthogonal(m̂)`. For matrices only; see `muon`."""
    require_coefficients("scale_by_muon", ns_coeffs, ns_steps)
    require_preconditioning("scale_by_muon", preconditioning)

    def init(params: Params) -> MuonState:
        require_matrices(weight_dimension_numbers, params)
        return MuonState(
            count=jnp.zeros((), jnp.int32),
            mu=moments_like(params, dtype=mu_dtype),
            ns_coeffs=jnp.asarray(ns_coeffs),
        )

    def update(
        updates: Updates, state: MuonState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MuonState]:
        t = increment(state.count)
        correction, correction_next = 1 - beta**t, 1 - beta ** increment(t)

        def step(g: Array, m: Array, numbers: MuonDimensionNumbers) -> tuple[Array, Array]:
            m = (1 - beta) * g + beta * m
            if nesterov:
                m_hat = beta * (m / correction_next) + (1 - beta) * (g / correction)
            else:
                m_hat = m / correction
            u = orthogonalize_via_newton_schulz(
                m_hat, state.ns_coeffs, ns_steps, preconditioning, eps, numbers
            )
            if adaptive:
                u = jnp.sum(m_hat.conj() * u).real * u
            return u, m

        reference = updates if params is None else params
        numbers = numbers_of_all(weight_dimension_numbers, reference)
        updates, mu = map_moments(step, updates, state.mu, params=params, static=(numbers,))
        return updates, MuonState(t, mu, state.ns_coeffs)

    return GradientTransformation(init, update)


@transformation(consistent_rms=NON_NEGATIVE)
def scale_by_shape(
    weight_dimension_numbers: WeightDimNumOrFn = None, consistent_rms: Hyper | None = None
) -> GradientTransformation:
    """`u = √max(1, out / in) g`, or `ρ √max(in, out) g`: an orthogonal matrix at a width's scale.

    Args:
      weight_dimension_numbers: see `muon`; by default all parameters must be matrices.
      consistent_rms: `ρ ≥ 0` of the second form; an orthogonal `g` then has root mean square `ρ`.
    """

    def init(params: Params) -> EmptyState:
        require_matrices(weight_dimension_numbers, params)
        return EmptyState()

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        def step(g: Array, numbers: MuonDimensionNumbers) -> tuple[Array]:
            fan_in, fan_out = fans(g.shape, numbers)
            if consistent_rms is None:
                return (math.sqrt(max(1, fan_out / max(fan_in, 1))) * g,)
            return (math.sqrt(max(fan_in, fan_out)) * consistent_rms * g,)

        reference = updates if params is None else params
        numbers = numbers_of_all(weight_dimension_numbers, reference)
        return map_moments(step, updates, params=params, static=(numbers,))[0], state

    return GradientTransformation(init, update)


@checked(
    learning_rate=NON_NEGATIVE,
    beta=DECAY_RATE,
    eps=NON_NEGATIVE,
    weight_decay=NON_NEGATIVE,
    adam_b1=DECAY_RATE,
    adam_b2=DECAY_RATE,
    adam_eps_root=NON_NEGATIVE,
    adam_weight_decay=NON_NEGATIVE,
    adam_learning_rate=NON_NEGATIVE,
    consistent_rms=NON_NEGATIVE,
)
def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: ScalarOrSchedule = 0.9,
    adam_b2: ScalarOrSchedule = 0.999,
    adam_eps_root: ScalarOrSchedule = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: WeightDimNumOrFn = None,
    consistent_rms: ScalarOrSchedule | None = None,
    nu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Muon for matrices: all singular values of the momentum become about 1; AdamW for the rest.

        M ← β M + (1 - β) G         M̂ = β M / (1 - βᵗ⁺¹) + (1 - β) G / (1 - βᵗ)
        U S Vᴴ = M̂                  θ ← θ - η (√max(1, out / in) U Vᴴ + λ θ)

    `U Vᴴ` is approximate, see `orthogonalize_via_newton_schulz`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule; it scales the decay too.
      ns_coeffs: three coefficients of the iteration, or three for each step, or the name of a
        preset: `"standard"` or `"dion"`.
      ns_steps: steps of the iteration, where they have one row of coefficients.
      beta: `β` in [0, 1).
      eps: `ε ≥ 0`, added to the norm that `M̂` is divided by, and Adam's `ε`.
      weight_decay: `λ ≥ 0`, of matrices.
      weight_decay_mask: which matrices decay, see `add_decayed_weights`.
      mu_dtype: dtype in which momentum is stored; by default the parameters', at least float32.
      nesterov: False for `M̂ = M / (1 - βᵗ)`; Adam's momentum is of the same form.
      adaptive: whether to multiply the step by `⟨M̂, U Vᴴ⟩`, the momentum's nuclear norm.
      preconditioning: see `orthogonalize_via_newton_schulz`.
      adam_b1: Adam's `β₁` in [0, 1).
      adam_b2: Adam's `β₂` in [0, 1).
      adam_eps_root: Adam's `ε̄ ≥ 0`.
      adam_weight_decay: decay of all but matrices.
      adam_learning_rate: rate of all but matrices; by default `learning_rate`.
      muon_weight_dimension_numbers: which parameters are matrices, and which of their axes are rows
        and columns, as `MuonDimensionNumbers`; None is for Adam. By default those of two axes are
        matrices. As in Optax a tree like the parameters (or a prefix of one) or a function to one,
        or a dict of path rules, which must cover every leaf.
      consistent_rms: if given, `ρ √max(in, out)` in place of `√max(1, out / in)`; 0.2 gives steps
        of the size of AdamW's.
      nu_dtype: dtype in which Adam's second moment is stored; see `adam`.

    Raises:
      ValueError: for a number outside its range, dimension numbers that do not fit the parameters,
        or an update without params.

    Example:
      Stacked layers and convolutions are matrices too, embeddings are not:

      >>> optimizer = muon(0.02, adam_learning_rate=3e-4, muon_weight_dimension_numbers={
      ...     "^blocks/.*kernel$": MuonDimensionNumbers(-2, -1),
      ...     "^conv.*kernel$": MuonDimensionNumbers((0, 1, 2), 3),
      ...     ".*": None,
      ... })

    References:
      Jordan et al., [Muon](https://kellerjordan.github.io/posts/muon/), 2024; Bernstein and
      Newhouse, [Old optimizer, new norm](https://arxiv.org/abs/2409.20325), 2024 (adaptive); Liu et
      al., [Muon is scalable for LLM training](https://arxiv.org/abs/2502.16982), 2025
      (consistent_rms).
    """
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in PRESETS:
            raise ValueError(f"muon: ns_coeffs must be one of {[*PRESETS]}, got {ns_coeffs!r}")
        ns_coeffs = PRESETS[ns_coeffs]
    numbers = numbers_of_chosen(muon_weight_dimension_numbers)
    matrices = chain(
        scale_by_muon(
            ns_coeffs,
            ns_steps,
            beta,
            eps,
            mu_dtype,
            nesterov=nesterov,
            adaptive=adaptive,
            preconditioning=preconditioning,
            weight_dimension_numbers=numbers,
        ),
        scale_by_shape(numbers, consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rest = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1,
        adam_b2,
        eps,
        adam_eps_root,
        mu_dtype,
        adam_weight_decay,
        nesterov=nesterov,
        nu_dtype=nu_dtype,
    )
    return partition({"muon": matrices, "adam": rest}, labels_of(muon_weight_dimension_numbers))
