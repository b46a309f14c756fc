"""Signs, norms, factored moments and noise: the equations once more in NumPy, and extreme values."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from jaxnets.optim.leaves import norm, rms
from tests.numerics import assert_trees_close

START = np.array([[1.0, -2.0, 3.0, 0.2], [0.5, 0.25, -1.0, 0.1]])
GRADIENTS = [
    np.array([[0.5, -1.0, 2e-3, 3.0], [-0.1, 0.4, 0.2, -2.0]]),
    np.array([[-1.5, 0.75, -1e-3, 0.3], [0.3, -0.2, 0.6, 1.0]]),
    np.array([[1.5, 0.125, -4e-3, -1.0], [-0.7, 0.1, 0.5, 0.25]]),
]


def final(optimizer, start=START, gradients=GRADIENTS, **extra):
    params = jnp.asarray(start)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for g in gradients:
        updates, state = step(jnp.asarray(g), state, params, **extra)
        params = optim.apply_updates(params, updates)
    return params


def signum(lr, beta):
    theta, m = START, 0
    for g in GRADIENTS:
        m = beta * m + (1 - beta) * g
        theta = theta - lr * np.sign(m)
    return theta


def lion(lr, b1, b2, decay):
    theta, m = START, 0
    for g in GRADIENTS:
        c = b1 * m + (1 - b1) * g
        theta = theta - lr * (np.sign(c) + decay * theta)
        m = b2 * m + (1 - b2) * g
    return theta


def lars(lr, decay, tau, eps, mu):
    theta, v = START, 0
    for g in GRADIENTS:
        d = g + decay * theta
        ratio = tau * np.linalg.norm(theta) / (np.linalg.norm(d) + eps)
        v = mu * v - lr * ratio * d
        theta = theta + v
    return theta


def adam_directions(eps=1e-8, b1=0.9, b2=0.999, nesterov=False):
    m, v, directions = 0, 0, []
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        directions.append(m_hat / (np.sqrt(v / (1 - b2**t)) + eps))
    return directions


def lamb(lr, decay, eps=1e-6):
    theta = START
    for r in adam_directions(eps):
        d = r + decay * theta
        theta = theta - lr * d * np.linalg.norm(theta) / np.linalg.norm(d)
    return theta


def fromage(lr):
    theta = START
    for g in GRADIENTS:
        moved = theta - lr * g * np.linalg.norm(theta) / np.linalg.norm(g)
        theta = moved / np.sqrt(1 + lr**2)
    return theta


def adafactor(lr, power, clip, mu, decay, eps, factored=True):
    theta, row, column, v, m = START, 0, 0, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        beta = 1 - t**-power
        squares = g * g + eps
        row = beta * row + (1 - beta) * squares.mean(1)
        column = beta * column + (1 - beta) * squares.mean(0)
        v = beta * v + (1 - beta) * squares
        u = g / np.sqrt(np.outer(row, column) / row.mean() if factored else v)
        u = u / max(1, np.sqrt((u**2).mean()) / clip)
        u = lr * u * max(np.sqrt((theta**2).mean()), 1e-3)
        m = mu * m + (1 - mu) * u
        theta = theta - m - decay * theta
    return theta


def sm3(lr, mu, eps=1e-8):
    theta, rows, columns, m = START, np.zeros(2), np.zeros(4), 0
    for g in GRADIENTS:
        s = np.minimum(rows[:, None], columns[None]) + g * g
        m = mu * m + (1 - mu) * g / np.sqrt(s + eps)
        theta = theta - lr * m
        rows, columns = s.max(1), s.max(0)
    return theta


def optimistic(lr, alpha, beta, directions):
    theta, previous = START, directions[0]
    for g in directions:
        theta = theta - lr * ((alpha + beta) * g - beta * previous)
        previous = g
    return theta


def polyak(value, f_min, most, eps, scaling=1.0):
    theta = START
    for g in GRADIENTS:
        d = scaling * g
        theta = theta - d * min((value - f_min) / ((d**2).sum() + eps), most)
    return theta


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (lambda: optim.sign_sgd(0.1), signum(0.1, 0.0)),
        (lambda: optim.signum(0.1), signum(0.1, 0.9)),
        (lambda: optim.signum(0.1, 0.5), signum(0.1, 0.5)),
        (lambda: optim.lion(0.1), lion(0.1, 0.9, 0.99, 1e-3)),
        (lambda: optim.lion(0.1, 0.3, 0.6, weight_decay=0.1), lion(0.1, 0.3, 0.6, 0.1)),
        (lambda: optim.lars(1.0), lars(1.0, 0.0, 0.001, 0.0, 0.9)),
        (
            lambda: optim.lars(1.0, 0.1, trust_coefficient=0.1, eps=0.5, momentum=0.5),
            lars(1.0, 0.1, 0.1, 0.5, 0.5),
        ),
        (lambda: optim.lamb(0.1), lamb(0.1, 0.0)),
        (lambda: optim.lamb(0.1, weight_decay=0.1, eps=0.1), lamb(0.1, 0.1, 0.1)),
        (lambda: optim.fromage(0.1), fromage(0.1)),
        # Optax's decay of second moments is of float32 in float64 too
        (
            lambda: optim.adafactor(0.1, 2, momentum=0.9, weight_decay_rate=0.1),
            adafactor(0.1, 0.8, 1.0, 0.9, 0.1, 1e-30),
        ),
        (
            lambda: optim.adafactor(
                0.1, decay_rate=0.5, clipping_threshold=0.3, eps=0.1, factored=False
            ),
            adafactor(0.1, 0.5, 0.3, 0.0, 0.0, 0.1, factored=False),
        ),
        (lambda: optim.adafactor(0.1, 3), adafactor(0.1, 0.8, 1.0, 0, 0, 1e-30, factored=False)),
        (lambda: optim.sm3(0.1), sm3(0.1, 0.9)),
        (
            lambda: optim.optimistic_gradient_descent(0.1, 0.7, 0.4),
            optimistic(0.1, 0.7, 0.4, GRADIENTS),
        ),
        (
            lambda: optim.optimistic_adam(0.1, 0.3),
            optimistic(1.0, 0.1, 0.3, adam_directions(nesterov=True)),
        ),
        (
            lambda: optim.optimistic_adam(0.1, nesterov=False),
            optimistic(1.0, 0.1, 0.1, adam_directions()),
        ),
        (
            lambda: optim.optimistic_adam_v2(0.1, alpha=0.7, beta=0.4),
            optimistic(0.1, 0.7, 0.4, adam_directions(nesterov=True)),
        ),
    ],
)
def test_numpy(optimizer, want, x64):
    rtol = 1e-6 if optimizer().init(jnp.ones((4, 4))) and "afactor" in repr(want) else 1e-12
    np.testing.assert_allclose(final(optimizer()), want, rtol=rtol)


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ((), polyak(0.5, 0.0, 1.0, 0.0)),
        ((0.01, 1.0, 0.2, 0.1), polyak(0.5, 0.2, 0.01, 0.1)),
        ((1.0, 2.0, 1.5, 0.1), polyak(0.5, 1.5, 1.0, 0.1, 2.0)),
        ((1.0, 2.0, 1.5, 0.1, "sps+"), START),
    ],
)
def test_polyak_numpy(arguments, want, x64):
    optimizer = optim.polyak_sgd(*arguments)
    np.testing.assert_allclose(final(optimizer, value=0.5), want, rtol=1e-12)
