"""Accumulation: once in a cycle, in float32, as one large batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close, assert_trees_equal


def counting(calls):
    """A transformation that says, when it runs, that it runs."""

    def update(updates, state, params=None, **extra):
        jax.debug.callback(lambda: calls.append(1))
        return updates, state + 1

    return optim.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def run(optimizer, gradients, params):
    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optim.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
    return params, state, updates


GRADIENTS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)


@pytest.mark.parametrize("jitted", [True, False])
def test_inner_update_runs_once_in_a_cycle(jitted):
    calls = []
    optimizer = optim.MultiSteps(counting(calls), 3)
    update = jax.jit(optimizer.update) if jitted else optimizer.update
    state = optimizer.init(GRADIENTS[0])
    ended = []
    for g in GRADIENTS[:8]:
        _, state = update(g, state)
        ended.append(bool(optimizer.has_updated(state)))
    jax.effects_barrier()
    assert len(calls) == 2
    assert state.inner_opt_state == 2
    assert ended == [False, False, True, False, False, True, False, False]


def test_by_hand():
    """Momentum with the mean of each three; nothing in between."""
    optimizer = optim.accumulate(optim.sgd(0.1, momentum=0.5), 3)
    params, state, updates = run(optimizer, GRADIENTS, jnp.zeros(5))
    v, theta = 0, 0
    for i, mean in enumerate(np.float64(GRADIENTS).reshape(4, 3, 5).mean(1)):
        v = mean + 0.5 * v
        theta = theta - 0.1 * v
        np.testing.assert_array_equal(updates[3 * i : 3 * i + 2], 0)
        np.testing.assert_allclose(updates[3 * i + 2], -0.1 * v, rtol=1e-5)
    np.testing.assert_allclose(params, theta, rtol=1e-5)
    assert (state.mini_step, state.gradient_step) == (0, 4)
    np.testing.assert_array_equal(state.acc_grads, 0)


def test_sum():
    optimizer = optim.accumulate(optim.scale(1.0), 4, use_grad_mean=False)
    _, _, updates = run(optimizer, GRADIENTS, jnp.zeros(5))
    np.testing.assert_allclose(updates[3], GRADIENTS[:4].sum(0), rtol=1e-5)


SKIPS = {
    "not finite": lambda lib: lib.skip_not_finite,
    "large": lambda lib: partial(lib.skip_large_updates, max_squared_norm=40.0),
}


@pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS)
def test_skipped_as_in_optax(skip):
    """NaN and infinity at the beginning, within and at the end of a cycle."""
    gradients = GRADIENTS
    for i, bad in ((0, np.nan), (3, np.inf), (5, np.nan), (6, 7.0), (9, -np.inf)):
        gradients = gradients.at[i, 1].set(bad)

    def trajectory(lib):
        multi = lib.MultiSteps(lib.adam(0.1), 3, should_skip_update_fn=skip(lib))
        return run(multi.gradient_transformation(), gradients, jnp.ones(5))

    got, want = trajectory(optim), trajectory(optax)
    assert np.isfinite(got[0]).all()
    assert_trees_close(jax.tree.leaves(got), jax.tree.leaves(want), 1e-6)


def test_a_cycle_with_nan_ends_with_it():
    """Where Optax's accumulator stays NaN for ever."""
    gradients = GRADIENTS.at[1].set(np.nan)
    optimizer = optim.accumulate(optim.sgd(0.1), 3)
    _, state, updates = run(optimizer, gradients, jnp.zeros(5))
    assert np.isnan(updates[2]).all()
    np.testing.assert_allclose(updates[5], -0.1 * GRADIENTS[3:6].mean(0), rtol=1e-5)
    assert np.isfinite(state.acc_grads).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
    """In half precision, 1 + 2⁻¹² is 1, and so is the mean of 64 of them."""
    optimizer = optim.accumulate(optim.scale(1.0), 64, use_grad_mean=False)
    state = optimizer.init(jnp.zeros((), dtype))
    small = jnp.asarray(2.0**-12, dtype)
    update = jax.jit(optimizer.update)
    for g in [jnp.ones((), dtype), *[small] * 62]:
        _, state = update(g, state)
    assert state.acc_grads.dtype == jnp.float32
    assert state.acc_grads == 1 + 62 * 2.0**-12
    updates, _ = update(small, state)
    assert updates.dtype == dtype


def test_mean_is_not_rounded_to_half_precision():
    seen = []
    inner = optim.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (seen.append(updates) or updates, state),
    )
    optimizer = optim.accumulate(inner, 2)
    state = optimizer.init(jnp.zeros((), jnp.bfloat16))
    for g in (1.0, 1 + 2.0**-7):
        updates, state = optimizer.update(jnp.asarray(g, jnp.bfloat16), state)
    assert float(seen[-1]) == 1 + 2.0**-8
    assert updates.dtype == jnp.bfloat16


def test_float64_and_complex_accumulators(x64):
    for dtype in (jnp.float64, jnp.complex64):
        params = jnp.zeros(2, dtype)
        assert optim.accumulate(optim.sgd(0.1), 2).init(params).acc_grads.dtype == dtype
    params = jnp.array([1j], jnp.complex64)
    _, state = optim.MultiSteps(optim.sgd(0.1), 2).update(
        params, optim.MultiSteps(optim.sgd(0.1), 2).init(params)
    )
    np.testing.assert_array_equal(state.acc_grads, params)
    given = optim.MultiSteps(optim.sgd(0.1), 2, accumulator_dtype=jnp.float32)
    assert given.init(jnp.zeros(2)).acc_grads.dtype == jnp.float32


def test_vmap_over_cycle_positions():
    """Runs that are at different points of their cycles."""
    optimizer = optim.accumulate(optim.adam(0.1), 3)
    params = jnp.ones(5)
    states = []
    state = optimizer.init(params)
    for g in GRADIENTS[:3]:
        states.append(state)
        _, state = optimizer.update(g, state, params)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    got, after = jax.vmap(optimizer.update, (0, 0, None))(GRADIENTS[3:6], together, params)
    for i, state in enumerate(states):
        want, one = optimizer.update(GRADIENTS[3 + i], state, params)
        np.testing.assert_allclose(got[i], want, rtol=1e-6)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], after), one, 1e-6)


def test_extra_arguments_reach_the_inner_update():
    seen = []
    inner = optim.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None, *, value: (seen.append(value) or updates, state),
    )
    optimizer = optim.accumulate(inner, 1)
    optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), value=3.0)
    assert set(seen) == {3.0}


def test_multi_steps_is_a_transformation():
    multi = optim.MultiSteps(optim.sgd(0.1), every_k_schedule=2)
    assert multi == optim.MultiSteps(optim.sgd(0.1), 2)
    assert hash(multi) == hash(optim.MultiSteps(optim.sgd(0.1), 2))
    assert multi.inner_opt == optim.sgd(0.1)
    assert tuple(multi) == tuple(optim.accumulate(optim.sgd(0.1), 2))
    optimizer = optim.chain(optim.clip(1.0), multi)
    updates, _ = optimizer.update(GRADIENTS[0], optimizer.init(GRADIENTS[0]))
    np.testing.assert_array_equal(updates, 0)


def test_every_step():
    optimizer, plain = optim.accumulate(optim.adam(0.1), 1), optim.adam(0.1)
    params = jnp.ones(5)
    assert_trees_equal(run(optimizer, GRADIENTS, params)[0], run(plain, GRADIENTS, params)[0])


@pytest.mark.parametrize("k", [0, -1, 1.5, "2"])
def test_bad_number_of_gradients(k):
    with pytest.raises(ValueError, match="accumulate: every_k must be"):
        optim.MultiSteps(optim.sgd(0.1), k)


def test_bad_answer_to_whether_to_skip():
    optimizer = optim.accumulate(optim.sgd(0.1), 2, should_skip=lambda g, i, p: (jnp.ones(2), ()))
    with pytest.raises(ValueError, match=r"scalar of dtype bool first, got float32\[2\]"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
