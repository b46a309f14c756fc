"""Sophia's equations in NumPy, and estimates of the Hessian's diagonal against the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim

START = np.array([1.0, -2.0, 3.0, 0.5])
CURVATURE = np.array([2.0, 0.5, -1.0, 1e-3])


def quadratic(x):
    return 0.5 * jnp.sum(CURVATURE * x**2)


def sophia(rate, steps, b1, b2, eps, decay, gamma, clip, every):
    theta, m, h = START, 0, 0
    for t in range(steps):
        m = b1 * m + (1 - b1) * CURVATURE * theta
        u = m / (1 - b1 ** (t + 1)) / np.maximum(gamma * h, eps)
        # the estimate is exact where the Hessian is diagonal
        h = b2 * h + (1 - b2) * CURVATURE if t % every == 0 else h
        theta = theta - rate * (np.clip(u, -clip, clip) + decay * theta)
    return theta


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ((0.965, 0.99, 1e-8, 1e-4, 0.01, 1.0, 10), {}),
        (
            (0.9, 0.5, 1e-3, 0.1, 0.5, 0.7, 2),
            {
                "b1": 0.9,
                "b2": 0.5,
                "eps": 1e-3,
                "weight_decay": 0.1,
                "gamma": 0.5,
                "clip_threshold": 0.7,
                "update_interval": 2,
            },
        ),
        (
            (0.9, 0.5, 1e-3, 0.0, 0.5, np.inf, 2),
            {
                "b1": 0.9,
                "b2": 0.5,
                "eps": 1e-3,
                "weight_decay": 0.0,
                "gamma": 0.5,
                "clip_threshold": None,
                "update_interval": 2,
            },
        ),
    ],
)
def test_numpy(options, keywords, x64):
    optimizer = optim.sophia(1e-3, **keywords)
    params = jnp.asarray(START)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(quadratic)(params)
        updates, state = optimizer.update(grads, state, params, obj_fn=quadratic)
        return optim.apply_updates(params, updates), state

    for _ in range(6):
        params, state = step(params, state)
    np.testing.assert_allclose(params, sophia(1e-3, 6, *options), rtol=1e-12)


def test_mu_dtype():
    """The momentum is stored rounded and used before it is; the curvature is not rounded."""
    hyper = {"hessian_diagonal_fn": optim.identity(), "clip_threshold": None}
    exact, rounded = (
        optim.scale_by_sophia(**hyper),
        optim.scale_by_sophia(**hyper, mu_dtype=jnp.bfloat16),
    )
    g = jnp.float32(START)
    (want, state), (got, rounded_state) = (tx.update(g, tx.init(g), g) for tx in (exact, rounded))
    np.testing.assert_array_equal(got, want)
    assert rounded_state.mu.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded_state.mu, state.mu.astype(jnp.bfloat16))
    np.testing.assert_array_equal(rounded_state.nu, state.nu)
    assert rounded_state.nu.dtype == jnp.float32


def mean_estimate(estimator, params, count, **extra):
    def step(state, _):
        diagonal, state = estimator.update(params, state, params, **extra)
        return state, diagonal

    _, diagonals = jax.lax.scan(step, estimator.init(params), length=count)
    return jnp.mean(diagonals, 0), jnp.std(diagonals, 0) / count**0.5


def assert_unbiased(mean, error, want):
    assert (error > 0).all()
    assert (abs(mean - want) < 4 * error).all()


def test_hutchinson_is_unbiased():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4)).astype(np.float32)

    def loss(x):
        return jnp.sum(jnp.sin(matrix @ x))

    x = jnp.asarray(rng.normal(size=4), jnp.float32)
    estimator = optim.hutchinson_estimator_diag_hessian(jax.random.key(3))
    mean, error = mean_estimate(estimator, x, 4000, obj_fn=loss)
    assert_unbiased(mean, error, jnp.diag(jax.hessian(loss)(x)))


def test_gauss_newton_bartlett_is_unbiased():
    """Of the mean cross-entropy's Gauss-Newton matrix, `E Jᵀ (diag p - p pᵀ) J`."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(6, 3)).astype(np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    estimator = optim.gauss_newton_bartlett_estimator_diag_hessian()
    mean, error = mean_estimate(estimator, kernel, 8000, logits_fn=lambda w: inputs @ w)
    p = jax.nn.softmax(inputs @ kernel)
    # one logit's row of the Jacobian is the input itself
    want = np.einsum("bi,bc->ic", inputs**2, p * (1 - p)) / 6
    assert_unbiased(mean, error, want)


def test_sophia_with_gauss_newton_bartlett():
    """It fits a classifier; the curvature never is negative."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 3)).astype(np.float32)
    labels = np.argmax(inputs @ rng.normal(size=(3, 4)), -1)

    def logits_fn(w):
        return inputs @ w

    def loss(w):
        return -jnp.mean(jax.nn.log_softmax(logits_fn(w))[np.arange(40), labels])

    optimizer = optim.sophia(
        0.05, hessian_diagonal_fn=optim.gauss_newton_bartlett_estimator_diag_hessian(), gamma=0.05
    )

    def step(carry, _):
        w, state = carry
        value, grads = jax.value_and_grad(loss)(w)
        updates, state = optimizer.update(grads, state, w, logits_fn=logits_fn)
        return (optim.apply_updates(w, updates), state), value

    w = jnp.zeros((3, 4))
    (_, state), losses = jax.lax.scan(step, (w, optimizer.init(w)), length=100)
    assert (state[0].nu >= 0).all()
    assert losses[-1] < 0.25 * losses[0]


def test_win_rate_is_printed(capfd):
    optimizer = optim.sophia(
        0.1, verbose=True, print_win_rate_every_n_steps=2, hessian_diagonal_fn=optim.identity()
    )
    params = jnp.array([1.0, 0.0])
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(params, state, params)
    jax.effects_barrier()
    assert capfd.readouterr().out == "Sophia optimizer win rate: 0.5\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.sophia(0.1, gamma=0.0), "sophia: gamma must be > 0, got 0.0"),
        (lambda: optim.sophia(0.1, update_interval=0), "update_interval must be an integer >= 1"),
        (lambda: optim.sophia(0.1, update_interval=1.5), "update_interval must be an integer"),
        (lambda: _update(), "hutchinson_estimator_diag_hessian: obj_fn is needed"),
        (lambda: _update(params=None), "taken at the parameters"),
        (
            lambda: _update(optim.gauss_newton_bartlett_estimator_diag_hessian()),
            "gauss_newton_bartlett_estimator_diag_hessian: logits_fn is needed",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _update(estimator=None, params=START):
    options = {} if estimator is None else {"hessian_diagonal_fn": estimator}
    optimizer = optim.scale_by_sophia(**options)
    return optimizer.update(jnp.asarray(START), optimizer.init(START), params)
