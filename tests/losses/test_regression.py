"""Regression losses and cosines at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import losses

ELEMENTWISE = [
    losses.squared_error,
    losses.l2_loss,
    losses.absolute_error,
    losses.huber_loss,
    losses.log_cosh,
]


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_no_targets_are_zeros(loss):
    x = jnp.array([[-3.0, 0.2], [0.0, 1e-3]])
    np.testing.assert_array_equal(loss(x), loss(x, jnp.zeros((2, 2))))


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_a_column_against_a_row_is_an_error(loss):
    with pytest.raises(ValueError, match=r"got predictions \(4, 1\), targets \(4,\)"):
        loss(jnp.ones((4, 1)), jnp.ones(4))


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_no_error_no_gradient(loss):
    value, gradient = jax.value_and_grad(loss)(2.0, 2.0)
    assert value == gradient == 0


def test_log_cosh_keeps_its_digits():
    """Optax's float32 has 10 % error at 1e-3."""
    errors = np.array([1e-18, 1e-6, 1e-3, 0.5, 0.9999999, 1.0, 1.5, 50.0, 1e4, np.inf], np.float32)
    wide = errors.astype(np.longdouble)
    with np.errstate(over="ignore", invalid="ignore"):
        want = np.where(wide < 20, np.log1p(2 * np.sinh(wide / 2) ** 2), wide - np.log(2.0))
    for sign in (1, -1):
        np.testing.assert_allclose(losses.log_cosh(sign * errors), want.astype(float), rtol=1e-6)
        gradient = jax.grad(lambda x: losses.log_cosh(x).sum())(sign * errors)
        np.testing.assert_allclose(gradient, sign * np.tanh(errors), rtol=1e-6)


def test_huber_is_the_clipped_l2():
    x = jnp.array([-np.inf, -1e4, -0.5, 0.0, 0.25, 0.5, 3.0, np.inf])
    gradient = jax.grad(lambda x: losses.huber_loss(x, delta=0.5).sum())(x)
    np.testing.assert_array_equal(gradient, np.clip(x, -0.5, 0.5))
    with pytest.raises(ValueError, match="delta must be at least 0, got -1"):
        losses.huber_loss(x, delta=-1.0)


def test_integer_and_half_precision_inputs_widen():
    got = losses.squared_error(jnp.float16(300.0), np.int32(0))
    assert got.dtype == jnp.float32
    assert got == 90000  # beyond float16


def test_complex_inputs_are_refused():
    for x, y in ((1j, 1.0), (1.0, 1j)):
        with pytest.raises(TypeError, match="real"):
            losses.squared_error(jnp.asarray(x), jnp.asarray(y))


def test_cosine_of_zero_vectors():
    a, b = jnp.zeros(3), jnp.array([1.0, 2.0, 2.0])
    for x, y in ((a, b), (b, a), (a, a)):
        value, gradients = jax.value_and_grad(losses.cosine_similarity, argnums=(0, 1))(x, y)
        assert value == 0
        assert np.isfinite(gradients).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_neither_overflows_nor_underflows(scale):
    a, b = jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0])
    value, gradient = jax.value_and_grad(losses.cosine_similarity)(scale * a, scale * b)
    np.testing.assert_allclose(value, np.sqrt(0.5), rtol=1e-6)
    want = jax.grad(losses.cosine_similarity)(a, b)
    np.testing.assert_allclose(gradient * scale, want, rtol=1e-6)


def test_cosine_options_as_in_optax():
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.standard_normal((2, 3, 4, 5)), jnp.float32)
    where = jnp.asarray(rng.random(a.shape) < 0.7)
    for keywords in (
        {"axis": 0},
        {"axis": (0, 2)},
        {"axis": None},
        {"epsilon": 10.0},
        {"epsilon": 3.0, "axis": 1, "where": where},
    ):
        for ours, theirs in (
            (losses.cosine_similarity, optax.cosine_similarity),
            (losses.cosine_distance, optax.cosine_distance),
        ):
            np.testing.assert_allclose(ours(a, b, **keywords), theirs(a, b, **keywords), atol=1e-6)
    hidden = jnp.where(where, a, jnp.nan)
    np.testing.assert_array_equal(
        losses.cosine_similarity(hidden, b, where=where),
        losses.cosine_similarity(a, b, where=where),
    )
