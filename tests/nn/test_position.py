import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import nn


def test_rotary_products_depend_on_distance_alone(x64):
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 1, 1, 8))

    def product(i, j, interleaved):
        turned = [
            nn.rotary(
                jnp.asarray(x), nn.rotary_angles(jnp.array([p]), 8, dtype=np.float64),
                interleaved=interleaved,
            )
            for x, p in ((query, i), (key, j))
        ]  # fmt: skip
        return float(jnp.sum(turned[0] * turned[1]))

    for interleaved in (False, True):
        near = product(3, 1, interleaved)
        np.testing.assert_allclose(product(103, 101, interleaved), near, rtol=1e-10)
        assert abs(product(3, 2, interleaved) - near) > 1e-3


def test_the_two_layouts_differ_by_a_permutation_of_features():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, 6)), np.float32)
    angles = nn.rotary_angles(jnp.arange(5), 6)
    split = [0, 2, 4, 1, 3, 5]
    np.testing.assert_allclose(
        nn.rotary(x, angles, interleaved=True)[..., jnp.array(split)],
        nn.rotary(x[..., jnp.array(split)], angles),
        rtol=1e-6,
    )


def test_sinusoids_are_the_papers_up_to_their_order():
    got = nn.sinusoidal(jnp.arange(4), 6)
    for p in range(4):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(got[p, i], np.sin(angle), rtol=1e-6)
            np.testing.assert_allclose(got[p, 3 + i], np.cos(angle), rtol=1e-6)


def test_half_precision_tells_distant_positions_apart():
    positions = jnp.array([256, 257, 70_000])
    got = nn.sinusoidal(positions, 4, dtype=jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, nn.sinusoidal(positions, 4).astype(jnp.bfloat16))
    slopes = nn.alibi_slopes(2)
    far = nn.alibi(slopes.astype(jnp.bfloat16), positions[:1], jnp.array([513]))
    np.testing.assert_array_equal(far, nn.alibi(slopes, positions[:1], jnp.array([513])))


def test_alibi_slopes_are_the_authors():
    np.testing.assert_allclose(nn.alibi_slopes(8), [2.0**-h for h in range(1, 9)])
    # for 12 heads: those of 8, then every other one of 16
    between = [2.0 ** (-0.5 * h) for h in (1, 3, 5, 7)]
    np.testing.assert_allclose(nn.alibi_slopes(12)[8:], between)
    np.testing.assert_allclose(nn.alibi_slopes(12)[:8], nn.alibi_slopes(8))
    bias = nn.alibi(jnp.array([0.5, 1.0]), jnp.array([3]), jnp.arange(3))
    np.testing.assert_array_equal(bias, [[[-1.5, -1, -0.5]], [[-3, -2, -1]]])


def test_errors_say_what_is_wanted():
    with pytest.raises(ValueError, match="rotary_angles: the number of features must be even"):
        nn.rotary_angles(jnp.arange(3), 5)
    with pytest.raises(ValueError, match="alibi_slopes: heads must be positive, got 0"):
        nn.alibi_slopes(0)
    with pytest.raises(ValueError, match=r"angles \[..., T, head_dim / 2\], got \[3, 2, 4\]"):
        nn.rotary(jnp.ones((3, 2, 4)), nn.rotary_angles(jnp.arange(4), 4))
