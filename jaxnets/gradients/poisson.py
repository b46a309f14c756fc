"""Batches that each example enters by its own chance, as the accounting of privacy supposes."""

import math

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete
from jaxnets.types import Array, ArrayLike, Key


def poisson_batch(key: Key, n: int, rate: ArrayLike, size: int) -> tuple[Array, Array]:
    """Each of `n` examples with probability `rate`, by itself, in a batch of a fixed shape.

    Where more than `size` are drawn, `size` of them are kept, each with the same chance. With the
    probability `p` of that (see `padded_size`), `T` steps stay within `T p` (in total variation) of
    those that were accounted, so that `(ε, δ)` becomes `(ε, δ + (1 + e^ε) T p)`:
    `accounting.epsilon` takes it as `overflow_probability`. It must be small beside `δ / T`.

    The probability is `rate` rounded down to a multiple of 2⁻³², never up.

    Args:
      key: one PRNG key.
      n: of the data set.
      rate: between 0 and 1.
      size: of the batch.

    Returns:
      `indices [size]` in random order, those drawn first, and `mask [size]`, True for those; the
      others are padding, and their index is 0.

    Raises:
      ValueError: if `n` or `size` is not positive, or a concrete `rate` not in [0, 1].
    """
    if n < 1 or size < 1:
        raise ValueError(f"poisson_batch: n and size must be positive, got {n} and {size}")
    limit, everyone = _limit(rate)
    bits = jax.random.bits(key, (n,), jnp.uint32)
    drawn = (bits < limit) | everyone
    # the smallest are those drawn; among these the order is random
    _, indices = jax.lax.top_k(~bits, min(n, size))
    mask = drawn[indices]
    padding = (0, max(0, size - n))
    return jnp.pad(jnp.where(mask, indices, 0), padding), jnp.pad(mask, padding)


def _limit(rate: ArrayLike) -> tuple[Array, Array]:
    """The `l` for which 32 random bits are below `l` at `rate`; and whether all are in."""
    if jnp.shape(rate) != ():
        raise ValueError(f"poisson_batch: rate must be a scalar, got {jnp.shape(rate)}")
    known = concrete(rate)
    if known is None:
        numbers = jnp.asarray(rate)
        return jnp.floor(numbers * 2.0**32).astype(jnp.uint32), numbers >= 1
    if not 0 <= known <= 1:
        raise ValueError(f"poisson_batch: rate must be between 0 and 1, got {known}")
    limit = math.floor(float(known) * 2**32)
    return jnp.uint32(min(limit, 2**32 - 1)), jnp.asarray(limit == 2**32)


def padded_size(n: int, rate: float, overflow_probability: float) -> int:
    """A batch size that a Poisson batch exceeds with at most this probability.

    The smallest for which Chernoff's bound says so: `P(X > m) ≤ exp(-n KL((m + 1) / n ‖ rate))`.

    Args:
      n: of the data set.
      rate: in (0, 1].
      overflow_probability: in (0, 1), of one batch.

    Raises:
      ValueError: for numbers outside their range.

    Example:
      >>> padded_size(60_000, 256 / 60_000, 1e-12)
      383
    """
    if n < 1:
        raise ValueError(f"padded_size: n must be positive, got {n}")
    if not 0 < rate <= 1:
        raise ValueError(f"padded_size: rate must be in (0, 1], got {rate}")
    if not 0 < overflow_probability < 1:
        raise ValueError(
            f"padded_size: overflow_probability must be in (0, 1), got {overflow_probability}"
        )

    def fits(size: int) -> bool:
        if size == n:
            return True
        above = (size + 1) / n
        if above <= rate:
            return False
        divergence = above * math.log(above / rate)
        if above < 1:
            divergence += (1 - above) * math.log((1 - above) / (1 - rate))
        return -n * divergence <= math.log(overflow_probability)

    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
