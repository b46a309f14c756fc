"""The equations once more, in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim

START = np.array([1.0, -2.0, 3.0])
GRADIENTS = np.array(
    [[0.5, -1.0, 2e-3], [-0.25, 0.75, 1e-3], [1.5, 0.125, -4e-3], [0.1, -0.3, 0.02]]
)


def final(optimizer):
    params = jnp.asarray(START)
    state = optimizer.init(params)
    for g in GRADIENTS:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        params = optim.apply_updates(params, updates)
    return params


def sgd(lr, momentum=0.0, nesterov=False):
    theta, v = START, 0
    for g in GRADIENTS:
        v = momentum * v + g
        theta = theta - lr * (g + momentum * v if nesterov else v)
    return theta


def adagrad(lr, s, eps):
    theta = START
    for g in GRADIENTS:
        s = s + g * g
        theta = theta - lr * g / np.sqrt(s + eps)
    return theta


def rmsprop(lr, decay, eps, inside, centered=False, momentum=0.0, correct=False):
    theta, m, v, w = START, 0, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * g * g
        c = 1 - decay**t if correct else 1
        variance = v / c - (m / c) ** 2 if centered else v / c
        root = np.sqrt(variance + eps) if inside else np.sqrt(variance) + eps
        w = momentum * w - lr * g / root
        theta = theta + w
    return theta


def adam(lr, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, decay=0.0, nesterov=False):
    theta, m, v = START, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        step = m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        theta = theta - lr * (step + decay * theta)
    return theta


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (lambda: optim.sgd(0.1), sgd(0.1)),
        (lambda: optim.sgd(0.1, 0.9), sgd(0.1, 0.9)),
        (lambda: optim.sgd(0.1, 0.9, True), sgd(0.1, 0.9, True)),
        (lambda: optim.adagrad(0.1), adagrad(0.1, 0.1, 1e-7)),
        (lambda: optim.adagrad(0.1, 0.0, 1e-3), adagrad(0.1, 0.0, 1e-3)),
        (lambda: optim.rmsprop(0.1, eps=1e-4), rmsprop(0.1, 0.9, 1e-4, True)),
        (
            lambda: optim.rmsprop(0.1, 0.8, 1e-4, eps_in_sqrt=False, momentum=0.5),
            rmsprop(0.1, 0.8, 1e-4, False, momentum=0.5),
        ),
        (
            lambda: optim.rmsprop(0.1, eps=1e-4, centered=True, bias_correction=True),
            rmsprop(0.1, 0.9, 1e-4, True, centered=True, correct=True),
        ),
        (lambda: optim.adam(0.1), adam(0.1)),
        (
            lambda: optim.adam(0.1, 0.8, 0.9, 1e-4, 1e-5),
            adam(0.1, 0.8, 0.9, 1e-4, 1e-5),
        ),
        (lambda: optim.adam(0.1, nesterov=True), adam(0.1, nesterov=True)),
        (lambda: optim.adamw(0.1), adam(0.1, decay=1e-4)),
        (lambda: optim.adamw(0.1, weight_decay=0.1), adam(0.1, decay=0.1)),
    ],
)
def test_numpy(optimizer, want, x64):
    np.testing.assert_allclose(final(optimizer()), want, rtol=1e-13)


def test_first_step_of_adam_is_the_sign():
    """With both corrections, `m̂ / √v̂ = g / |g|`, whatever the size of `g`."""
    g = jnp.array([3.0, -2e-4, 50.0])
    optimizer = optim.adam(1.0)
    updates, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, -jnp.sign(g), rtol=1e-4)


def test_learning_rate_decays_with_the_schedule():
    optimizer = optim.sgd(optim.linear_schedule(1.0, 0.0, 4))
    g = jnp.ones(())
    state = optimizer.init(g)
    steps = []
    for _ in range(5):
        update, state = optimizer.update(g, state)
        steps.append(float(update))
    assert steps == [-1.0, -0.75, -0.5, -0.25, 0.0]
    assert int(jax.tree.leaves(state)[0]) == 5


def test_adagrad_stands_still_where_nothing_was_seen():
    """Also without eps: `0 / √0` counts as 0."""
    g = jnp.array([0.0, 2.0])
    optimizer = optim.adagrad(0.5, initial_accumulator_value=0.0, eps=0.0)
    updates, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, [0.0, -0.5], rtol=1e-6)
