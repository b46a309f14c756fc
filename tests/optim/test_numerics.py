"""Numbers at the ends of their ranges."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim

UNSIGNED, SIGNED = (np.uint8, np.uint16, np.uint32, np.uint64), (np.int8, np.int32, np.int64)


@pytest.mark.parametrize("dtype", [*UNSIGNED, *SIGNED], ids=lambda dtype: dtype.__name__)
def test_counts_stay_at_the_largest_number_of_their_dtype(dtype, x64):
    largest = np.iinfo(dtype).max
    for count in (3, largest - 1, largest):
        ours, theirs = (lib.safe_increment(jnp.asarray(count, dtype)) for lib in (optim, optax))
        assert ours.dtype == theirs.dtype == dtype
        assert int(ours) == int(theirs) == min(count + 1, largest)


def test_unsigned_counts_without_64_bits():
    """The largest of 32 bits is no number of JAX's default integers."""
    assert int(optim.safe_increment(jnp.uint32(2**32 - 1))) == 2**32 - 1
