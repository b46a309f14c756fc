import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import nn

KEY = jax.random.key(0)


def test_dense_accumulates_half_precision_in_float32():
    """4,096 terms of 1/64 each: bfloat16 partial sums would stop growing at 4."""
    params = {"kernel": jnp.full((4096, 1), 1 / 64, jnp.bfloat16)}
    np.testing.assert_array_equal(nn.dense(params, jnp.ones(4096, jnp.bfloat16)), [64.0])


def test_dense_computes_in_the_dtype_of_x():
    params = nn.init_dense(KEY, 3, 4)
    assert nn.dense(params, jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert nn.dense(half, jnp.ones(3)).dtype == jnp.float32


def test_dense_names_what_does_not_fit():
    params = nn.init_dense(KEY, 3, 4)
    with pytest.raises(ValueError, match=r"dense: x must be \[..., 3\].*\[3, 4\], got \[2, 5\]"):
        nn.dense(params, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"got \[\]"):
        nn.dense(params, jnp.float32(1))
    with pytest.raises(TypeError, match="dense: x must be of a floating dtype, got int32"):
        nn.dense(params, jnp.ones((2, 3), jnp.int32))


def test_embedding_checks_ids_eagerly_and_gives_nan_under_jit():
    params = nn.init_embedding(KEY, 5, 3)
    for bad in ([0, 5], [-1, 2]):
        with pytest.raises(ValueError, match=r"ids must be in \[0, 5\)"):
            nn.embedding(params, jnp.array(bad))
        rows = jax.jit(nn.embedding)(params, jnp.array(bad))
        inside = np.array([0 <= i < 5 for i in bad])
        np.testing.assert_array_equal(jnp.isnan(rows).all(-1), ~inside)
    with pytest.raises(TypeError, match="ids must be integers, got float32"):
        nn.embedding(params, jnp.ones(2))


def test_embedding_checks_ids_that_a_jitted_function_closes_over():
    params, ids = nn.init_embedding(KEY, 5, 3), jnp.array([0, 4])
    assert jax.jit(lambda p: nn.embedding(p, ids))(params).shape == (2, 3)
    with pytest.raises(ValueError, match="ids must be in"):
        jax.jit(lambda p: nn.embedding(p, np.array([7])))(params)


def test_gelu_is_exact_and_its_approximation_has_its_own_name():
    x = jnp.linspace(-4, 4, 101)
    exact = x * jax.scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(nn.gelu(x), exact, atol=2e-7)
    assert 1e-5 < float(jnp.abs(nn.gelu_tanh(x) - exact).max()) < 1e-3


@pytest.mark.parametrize("name", nn.activations.__all__)
def test_activations_are_finite_with_finite_gradients_at_extremes(name):
    activation = getattr(nn, name)
    x = jnp.array([-1e4, -1.0, -0.0, 0.0, 1.0, 1e4])
    y, pullback = jax.vjp(activation, x)
    assert jnp.all(jnp.isfinite(y))
    assert jnp.all(jnp.isfinite(pullback(jnp.ones_like(y))[0]))
