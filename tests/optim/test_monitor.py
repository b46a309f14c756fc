"""Measurements in a chain, and parameters that follow others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close
from tests.optim.trajectories import STEPS, all_gradients, make_params, scanned

GRADIENTS = [jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])]


def above_2(updates):
    return optim.global_norm(updates) > 2.0


def total(updates):
    return sum(jnp.sum(u) for u in jax.tree.leaves(updates))


def monitored(lib):
    return lib.chain(
        lib.snapshot("norm", optim.global_norm),
        lib.clip_by_global_norm(2.5),
        lib.monitor(
            {
                "clipped": optim.global_norm,
                "above": lib.measure_with_ema(above_2, 0.9),
                "sum": lib.measure_with_ema(total, 0.5, debias=False),
            }
        ),
    )


def test_measurements_are_those_of_optax():
    states = []
    for lib in (optim, optax):
        optimizer = monitored(lib)
        state = optimizer.init(GRADIENTS[0])
        for g in GRADIENTS:
            updates, state = optimizer.update(g, state)
        np.testing.assert_allclose(updates, GRADIENTS[1])
        states.append((state[0].measurement, state[2].measurements))
    assert_trees_close(*states, 1e-6)
    measured = states[0][1]
    np.testing.assert_allclose(states[0][0]["norm"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(measured["above"], 0.09 / 0.19, rtol=1e-6)
    np.testing.assert_allclose(measured["sum"], 0.25 * 3.5 + 0.5 * 1.4, rtol=1e-6)


@pytest.mark.thorough
def test_300_steps_in_float64(x64):
    """With Optax's outside a scan: its state has no measurements before the first step."""
    params = make_params(jnp.float64)
    grads = all_gradients(params, STEPS)
    optimizer, theirs = monitored(optim), monitored(optax)
    (_, state), _ = scanned(optimizer)((params, optimizer.init(params)), grads)
    their_state = theirs.init(params)
    update = jax.jit(lambda t, state: theirs.update(jax.tree.map(lambda g: g[t], grads), state))
    for t in range(STEPS):
        _, their_state = update(t, their_state)
    assert_trees_close(state[0].measurement, their_state[0].measurement, 1e-12)
    assert_trees_close(state[2].measurements, their_state[2].measurements, 1e-12)


def test_a_monitor_can_be_scanned():
    optimizer = monitored(optim)
    state = optimizer.init(GRADIENTS[0])
    assert set(map(float, state[2].measurements.values())) == {0.0}
    last, _ = jax.lax.scan(
        lambda state, g: optimizer.update(g, state)[::-1], state, jnp.stack(GRADIENTS)
    )
    np.testing.assert_allclose(last[2].measurements["clipped"], 1.0, rtol=1e-6)
    assert monitored(optim) == monitored(optim)


def test_incremental_update():
    new, old = {"a": jnp.ones(2, jnp.bfloat16), "b": None}, {"a": jnp.full(2, 3.0), "b": None}
    got = optim.incremental_update(new, old, 0.25)
    assert_trees_close(got, optax.incremental_update(new, old, 0.25), 1e-6)
    half = jax.tree.map(lambda x: x.astype(jnp.float16), old)
    assert optim.incremental_update(new, half, jnp.float32(0.25))["a"].dtype == jnp.float16


def test_periodic_update():
    for step, want in ((0, 1.0), (1, 2.0), (3, 1.0)):
        got = jax.jit(optim.periodic_update)(jnp.float32(1), jnp.float32(2), step, 3)
        assert float(got) == want
