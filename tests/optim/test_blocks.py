"""Norms of leaves and what is scaled or clipped by them; the small transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from jaxnets.optim.leaves import norm, norms, rms
from tests.numerics import assert_trees_close


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20, 1e37])
def test_norms_of_any_size(size):
    x = size * jnp.array([[3.0, 0.0], [0.0, -4.0]])
    np.testing.assert_allclose(norm(x), 5 * size, rtol=1e-6)
    np.testing.assert_allclose(norms(x, lambda x: 0), size * jnp.array([[3.0, 4.0]]), rtol=1e-6)
    np.testing.assert_allclose(rms(x), 2.5 * size, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(norm)(x), x / size / 5, rtol=1e-6)


def test_norms_of_nothing_of_zeros_and_of_infinities():
    assert norm(jnp.zeros((0, 3))) == rms(jnp.zeros((0, 3))) == norm(jnp.zeros(3)) == 0
    assert norm(jnp.array([jnp.inf, 1.0])) == jnp.inf
    assert np.isnan(norm(jnp.array([jnp.nan, jnp.inf])))
    assert norm(jnp.array(-3.0)) == 3
    np.testing.assert_allclose(norm(jnp.array([3j, 4.0])), 5.0, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(norm)(jnp.zeros(3)), 0)


BY_NORM = {
    "trust ratio": lambda: optim.scale_by_trust_ratio(),
    "block norm": lambda: optim.scale_by_param_block_norm(),
    "block rms": lambda: optim.scale_by_param_block_rms(),
    "normalize": lambda: optim.normalize_by_update_norm(),
    "clip block": lambda: optim.clip_by_block_rms(1.0),
    "clip leaf": lambda: optim.clip_per_leaf(1.0),
    "clip unit": lambda: optim.adaptive_grad_clip(0.1),
}


@pytest.mark.parametrize("build", BY_NORM.values(), ids=BY_NORM)
def test_extreme_updates_and_parameters(build):
    """No overflow on the way, and finite derivatives, at 0 too."""
    optimizer = build()

    def moved(g, p):
        return optimizer.update(g, optimizer.init(p), p)[0]

    both = jax.jit(lambda g, p: (moved(g, p), jax.jacobian(moved, (0, 1))(g, p)))
    zero, some = jnp.zeros(3), jnp.array([0.6, 0.0, -0.8])
    for g, p in ((zero, some), (some, zero), (zero, zero), (1e20 * some, some)):
        update, jacobians = both(g, p)
        assert np.isfinite(update).all()
        assert (np.sign(update) == np.sign(g)).all()
        if not (g > 1e10).any():
            # the derivative of g / |g| has a square of the norm
            assert all(np.isfinite(jacobian).all() for jacobian in jacobians)
    half = jnp.full(2, 300, jnp.float16)
    assert np.isfinite(moved(half / 100, half)).all()


def test_lengths_of_clipped_updates():
    g = {"a": jnp.array([3e20, 4e20]), "b": jnp.array([[0.3, 0.4]])}
    clipped, _ = optim.clip_per_leaf(1.0).update(g, optim.EmptyState())
    np.testing.assert_allclose(clipped["a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped["b"], g["b"])
    clipped, _ = optim.clip_per_leaf(0.1, "a").update(g, optim.EmptyState())
    np.testing.assert_allclose(clipped["a"], [0.06, 0.08], rtol=1e-6)
    np.testing.assert_array_equal(clipped["b"], g["b"])
    clipped, _ = optim.clip_by_block_rms(1.0).update(g, optim.EmptyState())
    np.testing.assert_allclose(rms(clipped["a"]), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="rule 'c' matches no leaf"):
        optim.clip_per_leaf(1.0, "c").init(g)


UNITS = optim.adaptive_grad_clip(0.1)
clip_units = jax.jit(UNITS.update)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (50,), (40, 30), (3, 3, 8, 16)])
@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e-7, 1.0, 1e20, 1e27])
def test_units_of_any_size(size, shape, dtype):
    rng = np.random.default_rng(0)
    g = jnp.asarray(size * rng.normal(size=shape), dtype)
    p = jnp.asarray(rng.normal(size=shape), dtype)
    got, _ = clip_units(g, UNITS.init(p), p)
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in (g, p)]
        theirs = optax.adaptive_grad_clip(0.1)
        want, _ = theirs.update(exact[0], theirs.init(exact[1]), exact[1])
    np.testing.assert_allclose(
        np.asarray(got, np.float64), want, rtol=1e-6 if dtype == "float32" else 1e-2
    )


def test_path_rules_of_lars():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    mask = {"kernel": True, "bias": False}
    ours = optim.lars(1.0, 0.1, "kernel$", trust_ratio_mask="kernel$")
    theirs = optax.lars(1.0, 0.1, mask, trust_ratio_mask=mask)
    got, _ = ours.update(grads, ours.init(params), params)
    want, _ = theirs.update(grads, theirs.init(params), params)
    assert_trees_close(got, want, 1e-6)
    with pytest.raises(ValueError, match="rule 'kernle' matches no leaf"):
        optim.lars(1.0, trust_ratio_mask="kernle").init(params)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3, 1), (2, 3), (2, 3, 2), (2, 2, 3, 2), (2,) * 5])
def test_unitwise_norm(shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    np.testing.assert_allclose(optim.unitwise_norm(x), optax.transforms.unitwise_norm(x), rtol=1e-6)


def test_unitwise_norm_along_given_axes():
    np.testing.assert_allclose(optim.unitwise_norm(jnp.ones((2, 4)), axis=1), 2.0)
    with pytest.raises(ValueError, match=r"axis must be given .* got shape \(1, 2, 2, 2, 2, 2\)"):
        optim.unitwise_norm(jnp.ones((1, 2, 2, 2, 2, 2)))


def test_zero_nans():
    optimizer = optim.zero_nans()
    g = {"a": jnp.array([1.0, jnp.nan, jnp.inf]), "b": jnp.ones(2, jnp.bfloat16), "c": None}
    state = optimizer.init({"a": jnp.zeros(3), "b": jnp.zeros(2), "c": jnp.zeros(1)})
    updates, state = optimizer.update(g, state)
    np.testing.assert_array_equal(updates["a"], [1.0, 0.0, jnp.inf])
    assert updates["b"].dtype == jnp.bfloat16
    assert jax.tree.map(bool, state.found_nan) == {"a": True, "b": False, "c": False}
    _, state = optimizer.update(jax.tree.map(jnp.zeros_like, g), state)
    assert not any(map(bool, jax.tree.leaves(state)))


def test_apply_every():
    """A NaN is gone with its sum, where Optax keeps that of an array for good."""
    optimizer = optim.apply_every(2)
    state = optimizer.init(jnp.zeros(()))
    sent = []
    for g in (1.0, 2.0, jnp.nan, 1.0, 3.0, 4.0):
        update, state = optimizer.update(jnp.float32(g), state)
        sent.append(float(update))
    np.testing.assert_array_equal(sent, [0, 3, 0, np.nan, 0, 7])
    with pytest.raises(ValueError, match=r"k must be an integer >= 1, got 1\.5"):
        optim.apply_every(1.5)


def test_parameters_stay_non_negative():
    params = jnp.array([0.1, 0.0, 1.0], jnp.float16)
    optimizer = optim.chain(optim.sgd(0.3), optim.keep_params_nonnegative())
    updates, _ = optimizer.update(jnp.ones(3, jnp.float16), optimizer.init(params), params)
    np.testing.assert_allclose(optim.apply_updates(params, updates), [0, 0, 0.7], rtol=1e-3)


def test_functions_as_transformations():
    g, p = {"a": jnp.ones(2), "b": None}, {"a": jnp.full(2, 3.0), "b": jnp.ones(1)}
    leaf = optim.stateless_with_tree_map(lambda g, p: g if p is None else g * p)
    tree = optim.stateless(lambda g, p: {"got": g, "params": p})
    np.testing.assert_array_equal(leaf.update(g, leaf.init(p), p)[0]["a"], 3.0)
    assert leaf.update(g, leaf.init(p), p)[0]["b"] is None
    np.testing.assert_array_equal(leaf.update(g, leaf.init(p))[0]["a"], 1.0)
    assert tree.update(g, tree.init(p))[0] == {"got": g, "params": None}
    zero, _ = optim.set_to_zero().update(g, optim.EmptyState())
    np.testing.assert_array_equal(zero["a"], 0.0)
    assert zero["b"] is None


def test_noise_is_that_of_optax():
    """Whatever form the key has; and a gradient of None does not change what others get."""
    params = {"a": jnp.zeros(4), "b": jnp.zeros((2, 3))}
    theirs = optax.add_noise(0.5, 0.55, key=7)
    want, their_state = theirs.update(params, theirs.init(params))
    for key in (7, jax.random.key(7), jax.random.PRNGKey(7), np.int32(7)):
        ours = optim.add_noise(0.5, 0.55, key)
        got, state = ours.update(params, ours.init(params))
        assert_trees_close(got, want, 1e-6)
        assert (state.rng_key == their_state.rng_key).all()
    got, _ = ours.update(params | {"a": None}, ours.init(params))
    np.testing.assert_array_equal(got["b"], want["b"])
    assert optim.add_noise(0.5, 0.55, seed=7) == optim.add_noise(0.5, 0.55, seed=7)
    with pytest.raises(ValueError, match="only one can be given"):
        optim.add_noise(0.5, 0.55, 7, seed=7)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.lars(0.1),
        optim.fromage(0.1),
        optim.scale_by_trust_ratio(),
        optim.clip_by_block_rms(1.0),
        optim.adaptive_grad_clip(0.1),
        optim.clip_per_leaf(1.0),
        optim.clip_by_global_norm(1.0),
    ],
)
def test_parameters_without_use(optimizer):
    """Their gradient is a constant, of which XLA computes what it can before anything runs."""
    params = {"used": jnp.ones((3, 2)), "unused": jnp.ones((3, 2)), "zero": jnp.zeros(3)}

    @jax.jit
    def step(state, params):
        gradients = jax.grad(lambda p: jnp.sum(p["used"] ** 2))(params)
        updates, state = optimizer.update(gradients, state, params)
        return state, optim.apply_updates(params, updates)

    _, params = step(*step(optimizer.init(params), params))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_norms_of_constants():
    zeros = jnp.zeros(3)
    assert jax.jit(lambda c: c + norm(zeros))(0.0) == 0
    assert jax.jit(lambda c: c + optim.global_norm([zeros + 1e-30]))(0.0) == np.float32(
        3**0.5 * 1e-30
    )
