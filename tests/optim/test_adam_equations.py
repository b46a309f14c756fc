"""Adam's and Adagrad's families once more: their papers' equations in NumPy and float64.

Constants are large and gradients change their size, so that no term of an equation is idle.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim

START = np.array([1.0, -2.0, 3.0])
GRADIENTS = np.array(
    [
        [0.5, -1.0, 2e-3],
        [-0.25, 0.75, 1e-3],
        [1.5, 0.125, -4e-3],
        [0.1, -0.3, 0.02],
        [0.2, 0.4, 0.0],
        [0.3, -0.2, 0.01],
    ]
)


def final(optimizer):
    params = jnp.asarray(START)
    state = optimizer.init(params)
    for g in GRADIENTS:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        params = optim.apply_updates(params, updates)
    return params


def momentum(t, g, m, b1, nesterov):
    if nesterov:
        return b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return m / (1 - b1**t)


def nadam(lr, b1, b2, eps, eps_root, decay, psi):
    theta, m, v, product = START, 0, 0, 1
    for t, g in enumerate(GRADIENTS, 1):
        now, following = (b1 * (1 - 0.5 * 0.96 ** (s * psi)) for s in (t, t + 1))
        product = product * now
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
        step = m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        theta = theta - lr * (step + decay * theta)
    return theta


def amsgrad(lr, b1, b2, eps, eps_root, correct_m=True, correct_v=True, before=True):
    theta, m, v, largest = START, 0, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat = m / (1 - b1**t) if correct_m else m
        correction = 1 - b2**t if correct_v else 1
        largest = np.maximum(largest, v / correction if before else v)
        v_hat = largest if before else largest / correction
        theta = theta - lr * m_hat / (np.sqrt(v_hat + eps_root) + eps)
    return theta


def adamax(lr, b1, b2, eps, decay=0.0):
    theta, m, v = START, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, np.maximum(b2 * v, np.abs(g) + eps)
        theta = theta - lr * (m / (1 - b1**t) / v + decay * theta)
    return theta


def adabelief(lr, b1, b2, eps, eps_root, nesterov):
    theta, m, s = START, 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        step = momentum(t, g, m, b1, nesterov) / (np.sqrt(s / (1 - b2**t)) + eps)
        theta = theta - lr * step
    return theta


def radam(lr, b1, b2, eps, eps_root, nesterov=False, eps_first=False):
    theta, m, v = START, 0, 0
    limit = 2 / (1 - b2) - 1
    kinds = set()
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = momentum(t, g, m, b1, nesterov)
        length = limit - 2 * t * b2**t / (1 - b2**t)
        kinds.add(length >= 5)
        if length >= 5:
            over = (length - 4) * (length - 2) * limit
            step = step * np.sqrt(over / ((limit - 4) * (limit - 2) * length))
            if eps_first:
                step = step * np.sqrt(1 - b2**t) / (np.sqrt(v + eps_root) + eps)
            else:
                step = step / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        theta = theta - lr * step
    assert kinds == {True, False}
    return theta


def adan(lr, b1, b2, b3, eps, eps_root, decay):
    theta, m, v, n, last = START, 0, 0, 0, GRADIENTS[0]
    for t, g in enumerate(GRADIENTS, 1):
        d, last = g - last, g
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + (1 - b2) * d) ** 2
        ahead = m / (1 - b1**t) + (1 - b2) * v / (1 - b2**t)
        step = ahead / (np.sqrt(n / (1 - b3**t) + eps_root) + eps)
        theta = theta - lr * (step + decay * theta)
    return theta


def yogi(lr, b1, b2, eps, eps_root, start):
    theta, m, v = START, start, start
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, v - (1 - b2) * np.sign(v - g * g) * g * g
        theta = theta - lr * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
    return theta


def adadelta(lr, rho, eps, decay):
    theta, v, x = START, 0, 0
    for g in GRADIENTS:
        g = g + decay * theta
        v = rho * v + (1 - rho) * g * g
        u = g * np.sqrt((x + eps) / (v + eps))
        x = rho * x + (1 - rho) * u * u
        theta = theta - lr * u
    return theta


def rprop(size, shrink, grow, least, most):
    theta, size, last = START, np.full(3, size), np.zeros(3)
    for g in GRADIENTS:
        for i in range(3):
            g_i = g[i]
            if g_i * last[i] > 0:
                size[i] = min(size[i] * grow, most)
            elif g_i * last[i] < 0:
                size[i] = max(size[i] * shrink, least)
                g_i = 0
            theta = theta - size[i] * np.sign(g_i) * np.eye(3)[i]
            last[i] = g_i
    return theta


def novograd(lr, b1, b2, eps, eps_root, decay):
    theta, m, v = START, 0, None
    for g in GRADIENTS:
        v = g @ g if v is None else b2 * v + (1 - b2) * (g @ g)
        m = b1 * m + g / (np.sqrt(v + eps_root) + eps) + decay * theta
        theta = theta - lr * m
    return theta


def adagrad_outside(lr, s, eps):
    theta = START
    for g in GRADIENTS:
        s = s + g * g
        theta = theta - lr * g / (np.sqrt(s) + eps)
    return theta


def scaled(transformation):
    return optim.chain(transformation, optim.scale(-0.1))


ORACLES = {
    "nadam": (
        lambda: optim.nadam(0.1, 0.8, 0.9, 1e-3, 1e-4, momentum_decay=0.5),
        nadam(0.1, 0.8, 0.9, 1e-3, 1e-4, 0.0, 0.5),
    ),
    "nadamw": (
        lambda: optim.nadamw(0.1, weight_decay=0.1, momentum_decay=4e-3),
        nadam(0.1, 0.9, 0.999, 1e-8, 0.0, 0.1, 4e-3),
    ),
    "amsgrad": (
        lambda: optim.amsgrad(0.1, 0.8, 0.9, 1e-3, 1e-4),
        amsgrad(0.1, 0.8, 0.9, 1e-3, 1e-4),
    ),
    "amsgrad m as it is": (
        lambda: optim.amsgrad(0.1, b2=0.9, bias_correction_mu=False),
        amsgrad(0.1, 0.9, 0.9, 1e-8, 0.0, correct_m=False),
    ),
    "amsgrad v as it is": (
        lambda: optim.amsgrad(0.1, b2=0.9, bias_correction_nu=False),
        amsgrad(0.1, 0.9, 0.9, 1e-8, 0.0, correct_v=False),
    ),
    "amsgrad corrected last": (
        lambda: optim.amsgrad(0.1, 0.8, 0.9, 1e-3, 1e-4, correct_before_max=False),
        amsgrad(0.1, 0.8, 0.9, 1e-3, 1e-4, before=False),
    ),
    "adamax": (lambda: optim.adamax(0.1, 0.8, 0.7, 1e-3), adamax(0.1, 0.8, 0.7, 1e-3)),
    "adamaxw": (
        lambda: optim.adamaxw(0.1, b2=0.7, weight_decay=0.1),
        adamax(0.1, 0.9, 0.7, 1e-8, 0.1),
    ),
    "adabelief": (
        lambda: optim.adabelief(0.1, 0.8, 0.9, 1e-3, 1e-4),
        adabelief(0.1, 0.8, 0.9, 1e-3, 1e-4, False),
    ),
    "adabelief nesterov": (
        lambda: optim.adabelief(0.1, nesterov=True),
        adabelief(0.1, 0.9, 0.999, 1e-16, 1e-16, True),
    ),
    "radam": (
        lambda: optim.radam(0.1, 0.8, 0.9, 1e-3, 1e-4),
        radam(0.1, 0.8, 0.9, 1e-3, 1e-4),
    ),
    "radam nesterov": (
        lambda: optim.radam(0.1, nesterov=True),
        radam(0.1, 0.9, 0.999, 1e-8, 0.0, nesterov=True),
    ),
    "radam eps first": (
        lambda: optim.radam(0.1, 0.8, 0.9, 1e-3, 1e-4, eps_before_correction=True),
        radam(0.1, 0.8, 0.9, 1e-3, 1e-4, eps_first=True),
    ),
    "adan": (
        lambda: optim.adan(0.1, 0.9, 0.8, 0.7, 1e-3, 1e-4, 0.1),
        adan(0.1, 0.9, 0.8, 0.7, 1e-3, 1e-4, 0.1),
    ),
    "yogi": (lambda: optim.yogi(0.1, 0.8, 0.9), yogi(0.1, 0.8, 0.9, 1e-3, 0.0, 1e-6)),
    "scale_by_yogi": (
        lambda: scaled(optim.scale_by_yogi(0.8, 0.9, 1e-2, 1e-4, 1e-2)),
        yogi(0.1, 0.8, 0.9, 1e-2, 1e-4, 1e-2),
    ),
    "adadelta": (
        lambda: optim.adadelta(0.5, 0.8, 1e-3, 0.1),
        adadelta(0.5, 0.8, 1e-3, 0.1),
    ),
    "rprop": (lambda: optim.rprop(0.1), rprop(0.1, 0.5, 1.2, 1e-6, 50.0)),
    "rprop bounds": (
        lambda: optim.rprop(0.1, 0.4, 1.5, 0.07, 0.12),
        rprop(0.1, 0.4, 1.5, 0.07, 0.12),
    ),
    "novograd": (
        lambda: optim.novograd(0.1, 0.8, 0.7, 1e-2, 1e-3, 0.1),
        novograd(0.1, 0.8, 0.7, 1e-2, 1e-3, 0.1),
    ),
    "adagrad eps outside": (
        lambda: optim.adagrad(0.1, 0.0, 1e-2, eps_in_sqrt=False),
        adagrad_outside(0.1, 0.0, 1e-2),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_numpy(name, x64):
    build, want = ORACLES[name]
    np.testing.assert_allclose(final(build()), want, rtol=1e-12)
