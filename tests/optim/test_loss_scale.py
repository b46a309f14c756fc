"""Dynamic loss scaling for float16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim


def test_scale_by_hand():
    """Doubled after three finite steps in a row, halved by each other one, at least 1."""
    optimizer = optim.dynamic_loss_scale(optim.sgd(1.0), 4.0, period=3)
    state = optimizer.init(jnp.ones(()))
    update = jax.jit(optimizer.update)
    scales, steps = [], []
    for g in (1, 1, np.inf, 1, 1, 1, 1, np.nan, np.nan, np.nan, np.nan, 2):
        updates, state = update(jnp.float32(g), state)
        scales.append(float(optim.loss_scale(state)))
        steps.append(float(updates))
    assert scales == [4, 4, 2, 2, 2, 4, 4, 2, 1, 1, 1, 1]
    assert steps == [-0.25, -0.25, 0, -0.5, -0.5, -0.5, -0.25, 0, 0, 0, 0, -2]


def test_skipped_steps_leave_the_inner_state():
    optimizer = optim.dynamic_loss_scale(optim.adam(0.1))
    state = optimizer.init(jnp.ones(2))
    _, after = optimizer.update(jnp.array([1.0, np.nan]), state)
    assert after.inner_state[0].count == 0
    _, after = optimizer.update(jnp.ones(2), after)
    assert after.inner_state[0].count == 1


def test_scale_stays_finite():
    optimizer = optim.dynamic_loss_scale(optim.sgd(1.0), 2.0**127, period=1)
    _, state = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))
    assert optim.loss_scale(state) == 2.0**127


def train(optimizer, scaled, steps=200):
    """A parameter that is to become 1, by gradients too small for float16."""

    def loss(w):
        return jnp.mean((w - 1) ** 2).astype(jnp.float32) * 1e-7

    def step(carry, _):
        w, state = carry

        def objective(w):
            # through float16, as the activations of a net would be
            return optim.scale_loss(loss(w), state) if scaled else loss(w)

        updates, state = optimizer.update(jax.grad(objective)(w), state, w)
        return (optim.apply_updates(w, updates), state), optim.loss_scale(state) if scaled else 0

    w = jnp.zeros(4, jnp.float16)
    (w, _), scales = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))(
        (w, optimizer.init(w))
    )
    return np.float32(w), scales


def test_float16_gradients_that_underflow():
    plain, _ = train(optim.adam(0.05), scaled=False)
    np.testing.assert_array_equal(plain, 0)
    optimizer = optim.chain(optim.dynamic_loss_scale(optim.adam(0.05, eps=1e-12), period=20))
    moved, scales = train(optimizer, scaled=True)
    np.testing.assert_allclose(moved, 1, atol=0.05)
    assert np.max(scales) > 2**15


def test_state_without_a_scale():
    state = optim.adam(0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="needs the state of one dynamic_loss_scale, found 0"):
        optim.scale_loss(jnp.ones(()), state)
    with pytest.raises(ValueError, match="dynamic_loss_scale: factor must be > 1"):
        optim.dynamic_loss_scale(optim.sgd(0.1), factor=1.0)
