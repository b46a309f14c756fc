"""Differentially private gradients: clipped, summed, noised.

DP-SGD (Abadi et al., 2016) bounds what any one example can do to a step, and hides it in noise:

    ĝ = ( Σᵢ clip(gᵢ, C) + σ C z ) / E,    z ~ N(0, I),    clip(g, C) = g · min(1, C / ‖g‖)

where adding or removing one example changes the sum by at most `C`, so that the noise is that of
the *sum*, and is divided with it by a number `E` that does not depend on who was drawn.

What it promises, `(ε, δ)` for a number of steps, is in `jaxnets.gradients.accounting`, and rests on
batches drawn as `poisson_batch` draws them:

    size = padded_size(n, rate, 1e-12)
    gradient = dp_grad(loss, clip_norm, noise_multiplier, expected_batch_size=rate * n)
    for key in jax.random.split(key, steps):
        draw, noise = jax.random.split(key)
        indices, mask = poisson_batch(draw, n, rate, size)
        g, _ = gradient(params, x[indices], y[indices], key=noise, mask=mask)

To accumulate, draw one batch, split it into microbatches, add up their `clipped_sum`, and take one
`noisy_mean`. A noise for each microbatch is private as well, each being a step of its own.

Limits. `n`, the rate and the padded size are taken to be public: where `n` is private too, choose
rate, size and `E` once, as constants near what they should be, since `E = rate * n` tells `n`.
Numbers are floating: the last bits of Gaussian noise are not Gaussian (Mironov, "On significance of
the least significant bits for differential privacy", 2012), and norms may be too small by a few
units in 10⁶. JAX's generators are not cryptographic.

References:
  Abadi et al., [Deep learning with differential privacy](https://arxiv.org/abs/1607.00133), 2016.
  Ponomareva et al., [How to DP-fy ML](https://arxiv.org/abs/2303.00654), 2023.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.checks import concrete, require_positive, scalar
from jaxnets.gradients.clipping import (
    ClipNorm,
    ClippedGradMetrics,
    PartSize,
    Per,
    clipped_sum,
    sensitivity,
)
from jaxnets.gradients.poisson import padded_size, poisson_batch
from jaxnets.types import Array, ArrayLike, Key, Params, PyTree

__all__ = [
    "clipped_sum",
    "dp_grad",
    "noise_beside_share",
    "noisy_mean",
    "noisy_share",
    "padded_size",
    "poisson_batch",
]


def dp_grad(
    loss: Callable[..., Any],
    clip_norm: ClipNorm,
    noise_multiplier: ArrayLike,
    *,
    expected_batch_size: ArrayLike | None = None,
    per: Per = "all",
    normalize: ArrayLike | None = None,
    microbatch_size: PartSize = "auto",
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Params, ClippedGradMetrics]]:
    """The noisy mean of clipped gradients, for any optimizer.

    `( Σᵢ maskᵢ clip(gᵢ, C) + σ C z ) / E` with `z ~ N(0, I)`. An example that `mask` leaves out, or
    whose gradient is not finite, contributes exactly 0.

    Args:
      loss: `loss(params, *example) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
      clip_norm: `C > 0`; of groups, path rule -> `C` each, the noise is that of `√ΣC²`.
      noise_multiplier: `σ ≥ 0`, the noise's standard deviation in the sum over `C`.
      expected_batch_size: `E > 0`, for Poisson batches rate x n, the same at every step: how many
        were drawn is itself private. Without it `E` is the batch's leading size: right for batches
        of one public size, and refused beside a mask.
      per, normalize, microbatch_size, has_aux, keep_batch_dim: as for `clipped_grad`.

    Returns:
      `f(params, *batch, key, mask=None) -> (gradient, ClippedGradMetrics)`. `key` is one PRNG key,
      by name or last (`f(params, batch, key)`; there a typed one, from `jax.random.key`). `mask` is
      boolean `[B]`, False for padding. The metrics are **not** private; those of padding are 0
      (`aux` of padding means nothing).

    Raises:
      ValueError: for numbers outside their range; on call without a key, for a mask that is not
        `[B]` or lacks its `expected_batch_size`, and as for `per_example_grad`.
      TypeError: (on call) if `mask` is not boolean.

    Example:
      >>> def loss(params, x, y):
      ...     return jnp.square(jnp.dot(x, params) - y)
      >>> gradient = dp_grad(loss, clip_norm=1.0, noise_multiplier=1.1)
      >>> x, y = jnp.ones((8, 2)), jnp.ones(8)
      >>> g, metrics = gradient(jnp.zeros(2), x, y, key=jax.random.key(0))

    References:
      Abadi et al., [Deep learning with differential
      privacy](https://arxiv.org/abs/1607.00133), 2016.
    """
    longest = sensitivity(clip_norm)
    _check_noise("dp_grad", longest, noise_multiplier, expected_batch_size)
    sum_of = clipped_sum(
        loss, clip_norm, per=per, normalize=normalize, microbatch_size=microbatch_size,
        has_aux=has_aux, keep_batch_dim=keep_batch_dim,
    )  # fmt: skip

    def private(
        params: Params, *batch: PyTree, key: Key | None = None, mask: Array | None = None
    ) -> tuple[Params, ClippedGradMetrics]:
        if key is None and batch and _is_one_key(batch[-1]):
            *front, key = batch
            batch = tuple(front)
        if key is None:
            raise ValueError(
                "dp_grad: needs a key for its noise: f(params, *batch, key=jax.random.key(...)), "
                "another at every step"
            )
        if mask is not None and expected_batch_size is None:
            raise ValueError(
                "dp_grad: a mask needs expected_batch_size, rate * n for Poisson batches: how many "
                "examples were drawn is private, and the padded size is not their mean"
            )
        total, metrics = sum_of(params, *batch, mask=mask)
        expected = metrics.norms.size if expected_batch_size is None else expected_batch_size
        mean = noisy_mean(total, key, longest, noise_multiplier, expected)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), mean, total), metrics

    return private


def noisy_mean(
    total: Params,
    key: Key,
    clip_norm: ArrayLike,
    noise_multiplier: ArrayLike,
    expected_batch_size: ArrayLike,
) -> Params:
    """`(total + σ C z) / E` with `z ~ N(0, I)`, each leaf's from the key folded with its index.

    In float32, or in a leaf's own dtype where that is wider: noise coarser than the sum would show
    the sum's last bits. `z` of a complex leaf is standard normal in each part.

    Args:
      total: a sum of clipped gradients, as from `clipped_sum`.
      key: one PRNG key, never used twice.
      clip_norm: `C > 0`, to which every example in `total` was clipped.
      noise_multiplier: `σ ≥ 0`.
      expected_batch_size: `E > 0`, of all examples in `total`, the same at every step.

    Raises:
      ValueError: for numbers outside their range.
    """
    _check_noise("noisy_mean", clip_norm, noise_multiplier, expected_batch_size)
    leaves, structure = jax.tree.flatten(total)

    def noisy(index: int, leaf: Array) -> Array:
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        real = jnp.zeros((), dtype).real.dtype
        noise = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, dtype)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            noise *= math.sqrt(2)
        deviation, size = (
            jnp.asarray(x, real) for x in (noise_multiplier * clip_norm, expected_batch_size)
        )
        mean: Array = (leaf.astype(dtype) + deviation * noise) / size
        return mean

    return jax.tree.unflatten(structure, [noisy(i, leaf) for i, leaf in enumerate(leaves)])


def noisy_share(
    metrics: ClippedGradMetrics,
    key: Key,
    count_noise: ArrayLike,
    expected_batch_size: ArrayLike,
    *,
    mask: Array | None = None,
) -> Array:
    """`½ + (Σᵢ (bᵢ - ½) + σ_b z) / E`: the share of examples below `clip_norm`, privately.

    `bᵢ` is 1 where an example was not clipped, so that one example changes the sum by at most ½.
    For `adapted_clip_norm`; together with gradients under `noise_beside_share` it costs what the
    gradients alone cost under the whole noise multiplier.

    Args:
      metrics: of `dp_grad` or `clipped_sum`.
      key: one PRNG key, never used twice.
      count_noise: `σ_b > 0`; a twentieth of the expected batch size is usual.
      expected_batch_size: `E > 0`.
      mask: as it was given to `dp_grad`.

    Andrew et al., [Differentially private learning with adaptive
    clipping](https://arxiv.org/abs/1905.03871), 2021.
    """
    require_positive("noisy_share", "count_noise", count_noise, finite=True)
    require_positive("noisy_share", "expected_batch_size", expected_batch_size, finite=True)
    votes = jnp.where(metrics.clipped, -0.5, 0.5)
    votes = votes if mask is None else jnp.where(mask, votes, 0)
    share: Array = (
        0.5 + (jnp.sum(votes) + count_noise * jax.random.normal(key)) / expected_batch_size
    )
    return share


def noise_beside_share(noise_multiplier: ArrayLike, count_noise: ArrayLike) -> Array:
    """`(σ⁻² - (2σ_b)⁻²)^-½`: the gradients' noise, so that with `noisy_share` both cost like `σ`.

    Args:
      noise_multiplier: `σ > 0`, what is accounted.
      count_noise: `σ_b > σ / 2`.

    Raises:
      ValueError: if `count_noise` is known to be too small for that.

    Andrew et al., 2021, theorem 1.
    """
    require_positive("noise_beside_share", "noise_multiplier", noise_multiplier, finite=True)
    require_positive("noise_beside_share", "count_noise", count_noise)
    rest = 1 / jnp.square(noise_multiplier) - 1 / jnp.square(2 * count_noise)
    known = concrete(rest)
    if known is not None and not known > 0:
        raise ValueError(
            f"noise_beside_share: count_noise must be above noise_multiplier / 2, got {count_noise}"
            f" and {noise_multiplier}"
        )
    return 1 / jnp.sqrt(rest)


def _is_one_key(x: Any) -> bool:
    """Whether `x` is a typed key: a scalar, which no leaf of a batch is."""
    return (
        isinstance(x, jax.Array)
        and x.shape == ()
        and bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
    )


def _check_noise(
    function: str,
    clip_norm: ArrayLike,
    noise_multiplier: ArrayLike,
    expected_batch_size: ArrayLike | None,
) -> None:
    require_positive(function, "clip_norm", clip_norm, finite=True)
    noise = scalar(function, "noise_multiplier", noise_multiplier)
    if noise is not None and not 0 <= noise < np.inf:
        raise ValueError(
            f"{function}: noise_multiplier must be at least 0 and finite, got {noise_multiplier}"
        )
    if expected_batch_size is not None:
        require_positive(function, "expected_batch_size", expected_batch_size, finite=True)
