"""How many examples at a time: what is kept of them for the backward pass stays in the cache.

A whole batch's factors are written to memory and read again; those of a few examples are read from
the cache. But each part adds its gradient to the sum, a pass over an array like the parameters.
"""

import math
from typing import Any

import jax

from jaxnets.gradients.program import Traced, find

CACHE = 2**24
"""Bytes; a processor's last cache holds them and more."""

PASSES = 4
"""How many times the bytes of the parameters a part should have, to be worth its addition."""


def part_size(traced: Traced) -> int:
    """Of a batch's parts: a divisor of the batch's size where one is near enough.

    All of the batch where it fits, under `checkpoint`, which keeps nothing, and on accelerators,
    which a part of a batch does not fill.
    """
    examples = traced.examples
    if jax.default_backend() != "cpu":
        return examples
    record = find(traced)
    if record.remat:
        return examples
    kept = _bytes((record.saved, record.shapes))
    fitting = max(1, int((CACHE + PASSES * _bytes(traced.leaves)) / max(kept, 1)))
    if fitting >= examples:
        return examples
    divisor = max(n for n in range(1, fitting + 1) if examples % n == 0)
    # an uneven last part is padded, which is computed for nothing
    return divisor if 2 * divisor > fitting else math.ceil(examples / math.ceil(examples / fitting))


def _bytes(values: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(values))
