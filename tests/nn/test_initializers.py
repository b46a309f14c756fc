import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as theirs

from jaxnets import nn
from jaxnets.nn import initializers as ours

KEY = jax.random.key(3)
SCALED = {
    # name: (variance × fan, which fan)
    "xavier_uniform": (1, "avg"),
    "xavier_normal": (1, "avg"),
    "he_uniform": (2, "in"),
    "he_normal": (2, "in"),
    "lecun_uniform": (1, "in"),
    "lecun_normal": (1, "in"),
}
SHAPES = {(300, 200): (300, 200), (3, 3, 40, 80): (360, 720)}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_variance_and_range(name, shape):
    scale, which = SCALED[name]
    fan_in, fan_out = SHAPES[shape]
    variance = scale / {"in": fan_in, "avg": (fan_in + fan_out) / 2}[which]
    w = np.asarray(getattr(ours, name)()(KEY, shape, jnp.float32), np.float64)
    # 5 standard errors of the mean, and of the variance of a distribution with kurtosis ≤ 3
    assert abs(w.mean()) <= 5 * np.sqrt(variance / w.size)
    assert abs(w.var() / variance - 1) <= 5 * np.sqrt(2 / w.size)
    cut = np.sqrt(3) if "uniform" in name else 2 / ours.STDDEV_OF_NORMAL_WITHIN_2
    assert np.abs(w).max() <= cut * np.sqrt(variance) * (1 + 1e-6)
    assert np.abs(w).max() >= 0.99 * cut * np.sqrt(variance)


@pytest.mark.parametrize("name", [*SCALED, "glorot_normal", "kaiming_uniform"])
def test_the_same_draws_as_jax(name):
    got = getattr(ours, name)()(KEY, (30, 20), jnp.float32)
    want = getattr(theirs, name)()(KEY, (30, 20), jnp.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", [*SCALED, "normal", "uniform", "truncated_normal", "orthogonal"])
def test_factories_are_cached_so_that_configs_stay_equal(name):
    factory = getattr(ours, name)
    assert factory() is factory()
    for parameter in list(inspect.signature(factory).parameters.values())[:1]:
        assert factory() is factory(parameter.default)
        assert factory() is factory(**{parameter.name: parameter.default})
    assert hash(factory()) == hash(factory())


@pytest.mark.parametrize("name", ["normal", "truncated_normal", "uniform"])
def test_plain_distributions_are_those_of_jax(name):
    got = getattr(ours, name)(0.5)(KEY, (1000,), jnp.float32)
    want = getattr(theirs, name)(0.5)(KEY, (1000,), jnp.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (3, 3, 2, 5)], ids=str)
def test_orthogonal(shape):
    w = ours.orthogonal(2.0)(KEY, shape, jnp.float32).reshape(-1, shape[-1]) / 2
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=2e-6)


def test_orthogonal_is_uniform_over_rotations_and_reflections():
    keys = jax.random.split(KEY, 400)
    w = jax.vmap(lambda k: ours.orthogonal()(k, (2, 2), jnp.float32))(keys)
    assert 0.4 < float(jnp.mean(jnp.linalg.det(w) > 0)) < 0.6
    assert np.all(np.abs(np.asarray(w.mean(0))) < 5 * np.sqrt(0.5 / 400))


@pytest.mark.parametrize("name", [*SCALED, "normal", "orthogonal"])
def test_half_precision_is_drawn_wide_and_rounded_once(name):
    initializer = getattr(ours, name)()
    wide = initializer(KEY, (64, 32), jnp.float32)
    half = initializer(KEY, (64, 32), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, wide.astype(jnp.bfloat16))


def test_zeros_ones_constant():
    for init, value in [(ours.zeros, 0), (ours.ones, 1), (ours.constant(0.3), 0.3)]:
        np.testing.assert_array_equal(init(KEY, (2, 3), jnp.float32), jnp.full((2, 3), value))


def test_a_stack_keeps_each_layers_fan():
    """An initializer given [depth, in, out] would read depth as a window: fan depth · in."""
    stacked = nn.init_stack(lambda k: nn.init_dense(k, 256, 256), KEY, 16)
    assert stacked["kernel"].shape == (16, 256, 256)
    variances = stacked["kernel"].var((1, 2)) * 256
    np.testing.assert_allclose(variances, 1, rtol=0.05)
    assert not np.array_equal(stacked["kernel"][0], stacked["kernel"][1])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mode must be 'fan_in'"):
        ours.variance_scaling(1.0, "fan", "normal")
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        ours.variance_scaling(0.0, "fan_in", "normal")
    with pytest.raises(ValueError, match="distribution must be"):
        ours.variance_scaling(1.0, "fan_in", "cauchy")
    with pytest.raises(ValueError, match=r"shape \(3,\) has no fan"):
        ours.he_normal()(KEY, (3,), jnp.float32)
    with pytest.raises(ValueError, match="two axes"):
        ours.orthogonal()(KEY, (3,), jnp.float32)
