import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.train.shuffle import SORTED_BELOW, permutation

KEYS = jax.random.split(jax.random.key(0), 400)


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 1000, 1024, 1437, 60_000, 65_537])
def test_every_number_comes_once(n):
    values = np.asarray(jax.jit(permutation, static_argnums=1)(KEYS[0], n))
    assert values.dtype == np.int32
    np.testing.assert_array_equal(np.sort(values), np.arange(n))


@pytest.fixture(scope="module", params=[SORTED_BELOW, 700, 1024], ids=lambda n: f"n={n}")
def drawn(request):
    """400 permutations, `[400, n]`."""
    return np.asarray(jax.jit(jax.vmap(lambda k: permutation(k, request.param)))(KEYS))


def excess(counts, expected):
    """How far χ² is above its mean, in standard deviations."""
    chi2 = ((counts - expected) ** 2 / expected).sum()
    degrees = counts.size - 1
    return (chi2 - degrees) / np.sqrt(2 * degrees)


def test_each_place_gets_each_value_equally_often(drawn):
    n = drawn.shape[1]
    place = np.broadcast_to(np.arange(n), drawn.shape)
    counts, _, _ = np.histogram2d(place.ravel(), drawn.ravel(), bins=(16, 16), range=((0, n),) * 2)
    rows = np.histogram(np.arange(n), bins=16, range=(0, n))[0]
    assert abs(excess(counts, len(drawn) * np.outer(rows, rows) / n)) < 5
    # a fixed point is expected once per permutation
    assert abs((drawn == place).sum() - len(drawn)) < 5 * np.sqrt(len(drawn))


def test_neighbours_are_independent(drawn):
    n = drawn.shape[1]
    gaps = (drawn[:, 1:] - drawn[:, :-1]) % n
    counts = np.bincount(gaps.ravel(), minlength=n)[1:]
    assert abs(excess(counts, gaps.size / (n - 1))) < 5
    both = np.histogram2d(drawn[:, :-1].ravel(), drawn[:, 1:].ravel(), bins=8)[0]
    rows = np.histogram(np.arange(n), bins=8)[0]
    assert abs(excess(both, gaps.size * np.outer(rows, rows) / n**2)) < 6


def test_bits_of_place_and_value_are_uncorrelated(drawn):
    n = drawn.shape[1]
    bits = np.arange((n - 1).bit_length())
    of_place = 1.0 * ((np.arange(n)[:, None] >> bits) & 1)
    of_value = 1.0 * ((drawn[..., None] >> bits) & 1)
    of_place -= of_place.mean(0)
    of_value -= of_value.mean(1, keepdims=True)
    correlation = np.einsum("pi,kpj->ij", of_place, of_value) / drawn.size
    spread = of_place.std(0)[:, None] * of_value.std((0, 1))[None] / np.sqrt(drawn.size)
    assert np.abs(correlation / spread).max() < 5


def test_keys_give_unrelated_permutations(drawn):
    agreements = (drawn[1:] == drawn[:-1]).sum(1)
    assert abs(agreements.mean() - 1) < 5 / np.sqrt(len(agreements))


def test_it_depends_on_the_key_alone():
    np.testing.assert_array_equal(
        permutation(KEYS[3], 1000), jax.jit(permutation, static_argnums=1)(KEYS[3], 1000)
    )
    assert jnp.any(permutation(KEYS[3], 1000) != permutation(KEYS[4], 1000))
