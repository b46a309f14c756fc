"""What a batch's per-example gradients say of the gradient: how noisy, how much alike, whose.

Let `gᵢ` be the gradient of example `i`, `G` their expectation and `Σ` their covariance. A batch of
`n` drawn from the data gives `ḡ = 1/n Σᵢ gᵢ`, and for the squares

    E ‖ḡ‖² = ‖G‖² + tr Σ / n,    E 1/n Σᵢ ‖gᵢ‖² = ‖G‖² + tr Σ,

which solved for `‖G‖²` and `tr Σ` are unbiased estimates of both from one batch. A ratio of two
estimates is not one of the ratio: average numerator and denominator over steps, and divide last.

    losses, factors = per_example_grad(loss)(params, x, y)
    seen = moments(factors)                  # seen.mean is the gradient to train with
    noise, diverse = noise_scale(seen), diversity(seen)

All are accumulated in float32 or wider. Examples whose squared gradient norm is not finite there
(above 1e19 it overflows) are left out and not counted; with none left, everything is NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.factors import gram, norms, sq_norms, sq_norms_by_leaf, weighted_sum
from jaxnets.gradients.program import Factors
from jaxnets.types import Array, ArrayLike, Params, PyTree


class Moments(NamedTuple):
    """What the statistics of a batch are made of."""

    examples: Array
    """`n`: how many have a finite gradient."""
    mean: Params
    """`ḡ`, shaped and typed as the parameters: with all finite, the mean loss's gradient."""
    sq_norms: PyTree
    """`1/n Σᵢ ‖gᵢ‖²` of each parameter alone: a scalar in its place."""


def moments(factors: Factors) -> Moments:
    """The first two moments of a batch's per-example gradients, at the price of clipping them."""
    squares = sq_norms_by_leaf(factors)
    finite = jnp.isfinite(_total(squares))
    n = jnp.sum(finite, dtype=_total(squares).dtype)
    mean = weighted_sum(factors, finite / n)
    return Moments(n, mean, jax.tree.map(lambda s: jnp.sum(s, where=finite) / n, squares))


def _total(leaves: PyTree) -> Array:
    return jnp.asarray(sum(jax.tree.leaves(leaves)))


def _of(function: str, seen: Factors | Moments, *, least: int = 1) -> Moments:
    if isinstance(seen, Moments):
        return seen
    if seen.program.examples < least:
        raise ValueError(
            f"{function}: needs a batch of at least {least} examples, got {seen.program.examples}: "
            "one alone says nothing of how they vary"
        )
    return moments(seen)


def _sq_norm(x: Array) -> Array:
    wide = jnp.promote_types(jnp.real(x).dtype, jnp.float32)
    return jnp.sum(jnp.square(jnp.abs(x).astype(wide)))


class NoiseScale(NamedTuple):
    """Unbiased estimates whose ratio is the noise scale."""

    sq_norm: Array
    """Of `‖G‖²`. Negative where noise drowns the gradient."""
    trace: Array
    """Of `tr Σ`, the variance of one example's gradient, summed over parameters."""

    @property
    def scale(self) -> Array:
        """`tr Σ / ‖G‖²`; infinite where `sq_norm ≤ 0`, and NaN where `trace` is 0 too."""
        return self.trace / jnp.maximum(self.sq_norm, 0)


def _estimates(n: Array, sq_mean: Array, sq_norms: Array) -> NoiseScale:
    others = jnp.where(n > 1, n - 1, jnp.nan)
    sq_norm = (n * sq_mean - sq_norms) / others
    # negative by rounding only
    return NoiseScale(sq_norm, jnp.maximum(sq_norms - sq_mean, 0) * n / others)


def noise_scale(seen: Factors | Moments) -> NoiseScale:
    """The simple noise scale `B_simple = tr Σ / ‖G‖²`, as its two parts, and `.scale`.

    The batch size at which the noise of the batch's gradient is as large as the gradient: well
    below it, twice the batch is worth nearly twice the steps; well above it, hardly more than one.

    Args:
      seen: of a batch of `n ≥ 2`; the larger, the surer.

    Returns:
      With `m = 1/n Σᵢ ‖gᵢ‖²`: `sq_norm = (n ‖ḡ‖² - m) / (n - 1)` and
      `trace = (m - ‖ḡ‖²) n / (n - 1)`, both unbiased; average them apart (their own `.scale` is
      that of one batch, and biased). NaN if fewer than two examples are finite.

    Raises:
      ValueError: for the factors of one example.

    McCandlish et al., [An empirical model of large-batch
    training](https://arxiv.org/abs/1812.06162), 2018, appendix A.1.

    Example:
      >>> def loss(params, x):
      ...     return jnp.dot(params, x)
      >>> _, factors = per_example_grad(loss)(jnp.ones(2), jnp.array([[1.0, 2.0], [1.0, 4.0]]))
      >>> noise_scale(factors)
      NoiseScale(sq_norm=Array(9., dtype=float32), trace=Array(2., dtype=float32))
    """
    n, mean, squares = _of("noise_scale", seen, least=2)
    return _estimates(n, _total(jax.tree.map(_sq_norm, mean)), _total(squares))


class SignalToNoise(NamedTuple):
    """Unbiased estimates for each parameter, shaped as the parameters' tree: a scalar for each."""

    signal: PyTree
    """Of `‖G‖²`. Negative where noise drowns it."""
    noise: PyTree
    """Of `tr Σ / n`: the variance of `ḡ`."""

    @property
    def ratio(self) -> PyTree:
        """`signal / noise` of each: infinite without noise, NaN where both are 0."""
        return jax.tree.map(jnp.divide, self.signal, self.noise)


def signal_to_noise(seen: Factors | Moments) -> SignalToNoise:
    """How far each parameter's gradient `ḡ` stands out of its noise: `n ‖G‖² / tr Σ`, in parts.

    Below 1, most of what a step does to this parameter is chance. It grows with the batch.

    Args:
      seen: of a batch of `n ≥ 2`.

    Returns:
      The parts, estimated as in `noise_scale`, and `.ratio`; average the parts.

    Raises:
      ValueError: for the factors of one example.
    """
    n, mean, squares = _of("signal_to_noise", seen, least=2)
    found = jax.tree.map(lambda g, square: _estimates(n, _sq_norm(g), square), mean, squares)
    return SignalToNoise(
        jax.tree.map(lambda _, part: part.sq_norm, mean, found),
        jax.tree.map(lambda _, part: part.trace / n, mean, found),
    )


class Diversity(NamedTuple):
    """How little a batch's gradients have in common."""

    ratio: Array
    """`Σᵢ ‖gᵢ‖² / ‖Σᵢ gᵢ‖²`: `1/n` if all are equal, 1 if all are orthogonal, more if they oppose
    each other; infinite if they cancel, NaN if all are 0."""
    batch_size: Array
    """`n · ratio`: up to about this size a batch of these examples loses nothing against as many
    passes in smaller ones."""


def diversity(seen: Factors | Moments) -> Diversity:
    """The gradient diversity of the batch's examples, and the batch size that it allows them.

    It is that of these examples alone: `batch_size` of a sample of `n` can hardly exceed `n`. That
    of all the data they are drawn from is `1 + B_simple`, which `noise_scale` estimates.

    Yin et al., [Gradient diversity: a key ingredient for scalable distributed
    learning](https://arxiv.org/abs/1706.05699), 2018.
    """
    n, mean, squares = _of("diversity", seen)
    bound = _total(squares) / _total(jax.tree.map(_sq_norm, mean))
    return Diversity(bound / n, bound)


def tracin(train: Factors, test: Factors, learning_rate: ArrayLike = 1.0) -> Array:
    """`η ⟨gᵢ, hⱼ⟩ [B, B']`: what a step on training example `i` takes off the loss of test `j`.

    To first order, for a step of gradient descent at rate `η`. Positive: the training example
    helps (a proponent); negative: it harms (an opponent). TracInCP is the sum over checkpoints of
    a run, each with its rate. An example that is not finite makes its row or column NaN, and
    leaves the others exact.

    Args:
      train, test: factors with respect to the same parameters.
      learning_rate: `η`, a scalar.

    Raises:
      ValueError: if they are of other parameters, or `learning_rate` is not a scalar.

    Pruthi et al., [Estimating training data influence by tracing gradient
    descent](https://arxiv.org/abs/2002.08484), 2020.
    """
    return _rate("tracin", learning_rate) * gram(train, test)


def self_influence(factors: Factors, learning_rate: ArrayLike = 1.0) -> Array:
    """`η ‖gᵢ‖² [B]`: the influence of each example on itself, the diagonal of `tracin`.

    Summed over checkpoints it is large for examples that only they themselves could teach:
    outliers and wrong labels.

    Raises:
      ValueError: if `learning_rate` is not a scalar.
    """
    return _rate("self_influence", learning_rate) * sq_norms(factors)


def _rate(function: str, learning_rate: ArrayLike) -> Array:
    if jnp.shape(learning_rate) != ():
        raise ValueError(
            f"{function}: learning_rate must be a scalar, got {jnp.shape(learning_rate)}"
        )
    return jnp.asarray(learning_rate)


def hardest(factors: Factors, count: int) -> tuple[Array, Array]:
    """The `count` examples of the largest gradient norms: their indices and norms, largest first.

    Those whose gradient is not finite come before all others; equals come in the batch's order.

    Raises:
      ValueError: unless `count` is from 1 to B.
    """
    examples = factors.program.examples
    if not 1 <= count <= examples:
        raise ValueError(f"hardest: count must be from 1 to {examples}, got {count}")
    found = norms(factors)
    _, indices = lax.top_k(jnp.where(jnp.isnan(found), jnp.inf, found), count)
    return indices, found[indices]
