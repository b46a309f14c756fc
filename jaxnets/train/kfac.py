"""K-FAC: steps along the natural gradient, the Fisher matrix by Kronecker factors.

`update` wants, beside the gradient, what the batch says about curvature; `kfac_step` hands it that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.kronecker import Blocks
from jaxnets.gradients.natural import inverses, natural_gradient
from jaxnets.gradients.products import same_structure
from jaxnets.optim import GradientTransformation
from jaxnets.optim.hyper import (
    COUNTING,
    DECAY_RATE,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Hyper,
    Range,
    at,
    checked,
    increment,
)
from jaxnets.optim.transform import Updates
from jaxnets.types import Array, Params, PyTree, ScalarOrSchedule

Quadratic = Callable[[Params, Params], Array]
"""`(u, v) -> [[uᵀ F u, uᵀ F v], [vᵀ F u, vᵀ F v]]`"""

_DAMPING = Range("> 0 and finite", lambda x: 0 < x < float("inf"))


class KFACState(NamedTuple):
    """Averages of the factors, their inverses, and the last step."""

    count: Array  # type: ignore[assignment]
    weight: Array
    """The sum of all weights in the averages, by which they are divided."""
    blocks: Blocks
    inverses: Blocks
    step: Params
    """The last update, which momentum continues."""
    damping: Array


def _init(shapes: Blocks, params: Params, damping: Any) -> KFACState:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return KFACState(
        count=jnp.zeros((), jnp.int32),
        weight=jnp.zeros(()),
        blocks=zeros,
        inverses=zeros,
        step=jax.tree.map(jnp.zeros_like, params),
        damping=jnp.asarray(damping, jnp.float32),
    )


def _needed(name: str, **given: Any) -> None:
    for argument, value in given.items():
        if value is None:
            raise ValueError(
                f"{name}: {argument} is needed: update(gradient, state, params, {argument}=...); "
                "kfac_step hands it over"
            )


def _averaged(
    state: KFACState, curvature: Any, decay: Hyper, factor_every: Hyper
) -> tuple[Array, Blocks]:
    """The averages with this batch's factors in them, where it is due."""

    def new() -> tuple[Array, Blocks]:
        now = curvature() if callable(curvature) else curvature
        if not same_structure(now, state.blocks):
            raise ValueError(
                "kfac: curvature must have the blocks that the optimizer was made for; got others"
            )
        mix = jax.tree.map(lambda old, x: decay * old + (1 - decay) * x, state.blocks, now)
        mix = jax.tree.map(lambda old, x: x.astype(old.dtype), state.blocks, mix)
        return (decay * state.weight + (1 - decay)).astype(state.weight.dtype), mix

    averages: tuple[Array, Blocks] = lax.cond(
        state.count % factor_every == 0, new, lambda: (state.weight, state.blocks)
    )
    return averages


def _inverted(
    state: KFACState, weight: Array, blocks: Blocks, damping: Array, inverse_every: Hyper
) -> Blocks:
    def new() -> Blocks:
        mean = jax.tree.map(lambda x: x / weight.astype(x.dtype), blocks)
        found: Blocks = jax.tree.map(
            lambda x, old: x.astype(old.dtype), inverses(mean, damping), state.inverses
        )
        return found

    inverse: Blocks = lax.cond(state.count % inverse_every == 0, new, lambda: state.inverses)
    return inverse


def _inner(x: PyTree, y: PyTree) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


@checked(
    learning_rate=NON_NEGATIVE,
    damping=_DAMPING,
    decay=DECAY_RATE,
    momentum=FRACTION,
    kl_clip=POSITIVE._replace(optional=True),
    factor_every=COUNTING,
    inverse_every=COUNTING,
)
def kfac(
    learning_rate: ScalarOrSchedule,
    blocks: Blocks,
    *,
    damping: ScalarOrSchedule = 1e-3,
    decay: ScalarOrSchedule = 0.95,
    momentum: ScalarOrSchedule = 0.9,
    kl_clip: ScalarOrSchedule | None = 1e-3,
    factor_every: int = 1,
    inverse_every: int = 10,
) -> GradientTransformation:
    """K-FAC with a learning rate: `δ ← μ δ - η ν F⁻¹ g`, `θ ← θ + δ`.

        Ā ← β Ā + (1 - β) A,   Ḡ ← β Ḡ + (1 - β) G,   each divided by 1 - βᵗ
        F⁻¹ g = (1/T) (Ā + π √(λ/T) I)⁻¹ V (Ḡ + √(λ/T)/π I)⁻¹    of each layer
        ν = min(1, √(κ / (η² gᵀ F⁻¹ g)))

    Any gradient transformation may stand before or after it in a `chain`.

    Args:
      learning_rate: `η ≥ 0`.
      blocks: of the model, or their shapes: `kfac_blocks(outputs, params, inputs)`.
      damping: `λ > 0`, what is added to the Fisher matrix; the smaller, the longer the steps in
        flat directions.
      decay: `β` in [0, 1) of the factors' averages.
      momentum: `μ` in [0, 1].
      kl_clip: `κ > 0`, a bound on how far a step changes the model's distribution, by the
        quadratic approximation; None for no bound.
      factor_every: steps from one look at the factors to the next.
      inverse_every: steps from one inversion to the next.

    Returns:
      A transformation whose `update` needs `curvature=`: the batch's blocks, or a function without
      arguments that computes them where they are due.

    Raises:
      ValueError: for a number outside its range; (on update) without `curvature`, or if its blocks
        are others.

    References:
      Martens and Grosse, [Optimizing neural networks with Kronecker-factored approximate
      curvature](https://arxiv.org/abs/1503.05671), 2015; Ba, Grosse and Martens, [Distributed
      second-order optimization](https://openreview.net/forum?id=SkkTMpjex), 2017 (`κ`).
    """

    def init(params: Params) -> KFACState:
        return _init(blocks, params, at(damping, jnp.zeros((), jnp.int32)))

    def update(
        updates: Updates,
        state: KFACState,
        params: Params | None = None,
        curvature: Any = None,
        **extra: Any,
    ) -> tuple[Updates, KFACState]:
        _needed("kfac", curvature=curvature)
        rate, strength, beta, mu = (
            at(h, state.count) for h in (learning_rate, damping, decay, momentum)
        )
        strength = jnp.asarray(strength, state.damping.dtype)
        weight, mean = _averaged(state, curvature, beta, factor_every)
        inverse = _inverted(state, weight, mean, strength, inverse_every)
        natural = natural_gradient(inverse, updates)
        scale = jnp.asarray(rate)
        if kl_clip is not None:
            moved = rate**2 * _inner(natural, updates)
            bound = jnp.sqrt(at(kl_clip, state.count) / jnp.where(moved > 0, moved, 1))
            scale = rate * jnp.where(moved > 0, jnp.minimum(1, bound), 1)
        step = jax.tree.map(lambda d, n: (mu * d - scale * n).astype(d.dtype), state.step, natural)
        return step, KFACState(increment(state.count), weight, mean, inverse, step, strength)

    return GradientTransformation(init, update)


@checked(
    damping=_DAMPING,
    decay=DECAY_RATE,
    damping_decay=FRACTION,
    least_damping=_DAMPING,
    most_damping=_DAMPING,
    factor_every=COUNTING,
    inverse_every=COUNTING,
    damping_every=COUNTING,
)
def adaptive_kfac(
    blocks: Blocks,
    *,
    damping: float = 1.0,
    decay: float = 0.95,
    damping_decay: float = 0.95,
    least_damping: float = 1e-8,
    most_damping: float = 1e4,
    factor_every: int = 1,
    inverse_every: int = 5,
    damping_every: int = 5,
) -> GradientTransformation:
    """K-FAC that chooses its own learning rate, momentum and damping at every step.

    With `Δ = -F̂⁻¹ g`, `F̂` by Kronecker factors, and the last step `δ`, the new step `α Δ + μ δ` is
    where the quadratic model of the batch's loss is least, with the *exact* Fisher matrix `F`:

        M(δ) = gᵀ δ + ½ δᵀ (F + λ I) δ

    Every `damping_every` steps the loss is compared with the model (Levenberg and Marquardt):

        ρ = (L(θ + δ) - L(θ)) / M(δ);   λ ← ω λ if ρ > 3/4,   λ ← λ / ω if ρ < 1/4

    with `ω = damping_decay ^ damping_every`. Batches must be large enough to trust: hundreds of
    examples, or all of them.

    Args:
      blocks: of the model, or their shapes: `kfac_blocks(outputs, params, inputs)`.
      damping: the first `λ > 0`.
      decay: `β` in [0, 1) of the factors' averages.
      damping_decay: in (0, 1], by how much `λ` may shrink a step.
      least_damping, most_damping: the range of `λ`.
      factor_every: steps from one look at the factors to the next.
      inverse_every: steps from one inversion to the next.
      damping_every: steps from one change of `λ` to the next.

    Returns:
      A transformation whose `update` needs `params` and, as `kfac_step` hands over, `curvature=`
      (see `kfac`), `quadratic=` (a `Quadratic` of the batch), `value=` the batch's loss, and
      `value_fn=`, the loss as a function of the parameters.

    Raises:
      ValueError: for a number outside its range; (on update) without one of these arguments.

    References:
      Martens and Grosse, 2015, sections 6 and 7.
    """
    if damping_decay == 0:
        raise ValueError("adaptive_kfac: damping_decay must be in (0, 1], got 0")

    def init(params: Params) -> KFACState:
        return _init(blocks, params, damping)

    def update(
        updates: Updates,
        state: KFACState,
        params: Params | None = None,
        curvature: Any = None,
        quadratic: Quadratic | None = None,
        value: Array | None = None,
        value_fn: Callable[[Params], Array] | None = None,
        **extra: Any,
    ) -> tuple[Updates, KFACState]:
        _needed(
            "adaptive_kfac",
            params=params, curvature=curvature, quadratic=quadratic, value=value, value_fn=value_fn,
        )  # fmt: skip
        assert quadratic is not None
        assert value is not None
        assert value_fn is not None
        weight, mean = _averaged(state, curvature, decay, factor_every)
        inverse = _inverted(state, weight, mean, state.damping, inverse_every)
        toward = jax.tree.map(jnp.negative, natural_gradient(inverse, updates))
        both = toward, state.step
        slopes = jnp.stack([_inner(updates, v) for v in both])
        bends = quadratic(*both) + state.damping * jnp.array(
            [[_inner(u, v) for v in both] for u in both]
        )
        alpha, mu = least(slopes, bends)
        step = jax.tree.map(lambda u, v: (alpha * u + mu * v).astype(v.dtype), toward, state.step)
        expected = 0.5 * (alpha * slopes[0] + mu * slopes[1])

        def adapted() -> Array:
            after = value_fn(jax.tree.map(jnp.add, params, step))
            # no change expected and none seen, as at a gradient of 0: the model is not put to test
            unchanged = (expected == 0) & (after == value)
            ratio = jnp.where(unchanged, 0.5, (after - value) / jnp.where(unchanged, 1, expected))
            omega = damping_decay**damping_every
            # a loss that is no longer a number has no ratio: damp more
            factor = jnp.where(ratio > 0.75, omega, jnp.where(ratio >= 0.25, 1.0, 1 / omega))
            new = jnp.clip(state.damping * factor, least_damping, most_damping)
            return new.astype(state.damping.dtype)

        due = (state.count + 1) % damping_every == 0
        now = lax.cond(due, adapted, lambda: state.damping)
        return step, KFACState(increment(state.count), weight, mean, inverse, step, now)

    return GradientTransformation(init, update)


def least(slopes: Array, bends: Array) -> tuple[Array, Array]:
    """Where `bᵀ x + ½ xᵀ M x` of two numbers is least; along the first alone if `M` is singular."""
    determinant = bends[0, 0] * bends[1, 1] - bends[0, 1] * bends[1, 0]
    singular = determinant <= 1e-6 * bends[0, 0] * bends[1, 1]
    safe = jnp.where(singular, 1, determinant)
    first = -(bends[1, 1] * slopes[0] - bends[0, 1] * slopes[1]) / safe
    second = -(bends[0, 0] * slopes[1] - bends[1, 0] * slopes[0]) / safe
    alone = -slopes[0] / jnp.where(bends[0, 0] > 0, bends[0, 0], 1)
    return jnp.where(singular, alone, first), jnp.where(singular, 0, second)
