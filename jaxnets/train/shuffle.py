"""A random permutation without a sort.

`jax.random.permutation` sorts random numbers, twice or more: on a CPU that is 0.4 µs an element, as
much as a small net's training. A Feistel network is a bijection of `[0, 2^bits)` for any round
function and any keys: each round adds to one half of the bits a function of the other half (Luby
and Rackoff, 1988). Restricted to `[0, n)` by walking on until a value falls inside (Black and
Rogaway, 2002) it is a permutation, one value at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.types import Array, Key

ROUNDS = 8
"""Luby and Rackoff need four."""

SORTED_BELOW = 512
"""Few elements are sorted as fast, and get every permutation with exactly equal probability."""


def _scramble(x: Array) -> Array:
    """A 32-bit mix in which every bit of the input reaches every bit of the output (murmur3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def permutation(key: Key, n: int) -> Array:
    """A random permutation of `0 … n - 1`: `[n]`, int32.

    From `SORTED_BELOW` elements on it is pseudo-random: one of at most 2²⁵⁶ permutations, spread as
    evenly as the round function is good.

    Args:
      key: a typed PRNG key.
      n: how many, from 1 to 2³¹ - 1.
    """
    if n < SORTED_BELOW:
        return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
    bits = (n - 1).bit_length()
    low_bits = bits // 2
    low_mask = np.uint32((1 << low_bits) - 1)
    high_mask = np.uint32((1 << (bits - low_bits)) - 1)
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def encipher(value: Array) -> Array:
        high, low = value >> low_bits, value & low_mask
        for number in range(0, ROUNDS, 2):
            high = high ^ (_scramble(low ^ keys[number]) & high_mask)
            low = low ^ (_scramble(high ^ keys[number + 1]) & low_mask)
        return (high << low_bits) | low

    def outside(value: Array) -> Array:
        return value >= n

    values = lax.while_loop(
        lambda values: jnp.any(outside(values)),
        lambda values: jnp.where(outside(values), encipher(values), values),
        encipher(jnp.arange(n, dtype=jnp.uint32)),
    )
    return values.astype(jnp.int32)
