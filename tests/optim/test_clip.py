import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim, tree


def clipped(updates, max_norm=1.0):
    optimizer = optim.clip_by_global_norm(max_norm)
    return optimizer.update(updates, optimizer.init(updates))[0]


def test_norm_over_all_leaves():
    got = clipped({"a": jnp.array([3.0]), "b": [jnp.zeros((2, 2)), jnp.float32(4.0)]}, 2.5)
    np.testing.assert_allclose(got["a"], 1.5)
    np.testing.assert_allclose(got["b"][1], 2.0)


def test_small_updates_are_not_touched():
    g = jnp.array([0.3, -0.4])
    np.testing.assert_array_equal(clipped(g), g)


@pytest.mark.parametrize(
    "g",
    [
        jnp.array([1e20, 1e20]),
        jnp.array([5e37, -5e37]),
        jnp.array([300.0, 300.0], jnp.float16),
        jnp.array([60000.0, 0.1], jnp.float16),
        jnp.array([7e37, 1.0], jnp.bfloat16),
    ],
)
def test_large_updates_do_not_overflow(g):
    got = np.float64(clipped(g))
    assert clipped(g).dtype == g.dtype
    want = np.float64(g) / np.linalg.norm(np.float64(g))
    np.testing.assert_allclose(got, want, rtol=1e-2 if g.dtype != jnp.float32 else 1e-6, atol=1e-5)


def test_tiny_updates_do_not_underflow():
    g = jnp.array([3e-25, 4e-25])
    np.testing.assert_allclose(tree.global_norm(g), 5e-25, rtol=1e-6)
    np.testing.assert_allclose(clipped(g, 1e-25), g / 5, rtol=1e-6)


def test_not_finite_as_optax():
    for g in ([jnp.nan, 1.0], [jnp.inf, 1.0], [-jnp.inf, jnp.nan]):
        g = jnp.array(g)
        want, _ = optax.clip_by_global_norm(1.0).update(g, optax.EmptyState())
        np.testing.assert_array_equal(clipped(g), want)


jacobian = jax.jit(jax.vmap(jax.jacobian(clipped)))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 0.1, 10.0, 1e20])
def test_derivative_is_finite(scale):
    """Also under `vmap`, where both branches of the norm are taken."""
    direction = jnp.array([[0.6, 0.8], [1.0, 0.0]])
    jacobians = jacobian(scale * direction)
    assert np.isfinite(jacobians).all()
    if scale == 1e20:
        return  # the square of the norm, in the derivative of 1 / |g|, is infinite
    if scale < 1:
        np.testing.assert_array_equal(jacobians[0], np.eye(2))
    else:
        # the derivative of g / |g|
        want = (np.eye(2) - np.outer(direction[0], direction[0])) / scale
        np.testing.assert_allclose(jacobians[0], want, atol=2e-7 / scale)


def test_gradient_of_the_norm():
    grad = jax.grad(tree.global_norm)
    np.testing.assert_array_equal(grad(jnp.zeros(3)), 0)
    np.testing.assert_allclose(grad(jnp.array([3e20, 4e20])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(grad(jnp.array([3e-25, 4e-25])), [0.6, 0.8], rtol=1e-6)


def test_norm_of_mixed_trees(x64):
    mixed = {"a": jnp.array([3.0], jnp.bfloat16), "b": jnp.array([4j]), "c": None, "d": 12}
    np.testing.assert_allclose(tree.global_norm(mixed), 13.0, rtol=1e-12)
    assert tree.global_norm({}) == 0


def test_by_value():
    optimizer = optim.clip(0.5)
    g = {"a": jnp.array([-3.0, 0.2, jnp.nan, jnp.inf]), "b": None}
    got, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_array_equal(got["a"], np.float32([-0.5, 0.2, np.nan, 0.5]))
    half, _ = optim.clip(jnp.float32(0.5)).update(jnp.ones(2, jnp.float16), optim.EmptyState())
    assert half.dtype == jnp.float16
