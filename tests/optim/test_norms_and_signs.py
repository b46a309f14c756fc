"""Signs, trust ratios, factored moments, optimism: the equations in NumPy, and bad values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
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


def sm3(lr, mu, eps=1e-8, b2=1.0):
    theta, rows, columns, m = START, np.zeros(2), np.zeros(4), 0
    for g in GRADIENTS:
        s = b2 * np.minimum(rows[:, None], columns[None]) + (1 - b2 if b2 < 1 else 1) * g * g
        m = mu * m + (1 - mu) * g / np.sqrt(s + eps)
        theta = theta - lr * m
        rows, columns = s.max(1), s.max(0)
    return theta


def averaged_gradients(decay):
    total, m = 0, 0
    for t, g in enumerate(GRADIENTS, 1):
        m = decay * m + (1 - decay) * g
        total = total + m / (1 - decay**t)
    return total


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
        (lambda: optim.sm3(0.1), sm3(0.1, 0.9)),
        (
            lambda: optim.chain(optim.scale_by_sm3(0.5, 0.8, 0.1), optim.scale(-0.1)),
            sm3(0.1, 0.5, 0.1, 0.8),
        ),
        (
            lambda: optim.chain(optim.ema(0.9), optim.scale(-0.1)),
            START - 0.1 * averaged_gradients(0.9),
        ),
        (
            lambda: optim.optimistic_gradient_descent(0.1, 0.7, 0.4),
            optimistic(0.1, 0.7, 0.4, GRADIENTS),
        ),
        (
            lambda: optim.optimistic_adam(0.1, 0.3),
            optimistic(1.0, 0.1, 0.3, adam_directions(nesterov=True)),
        ),
        (
            lambda: optim.optimistic_adam(0.1, eps=1e-2, nesterov=False),
            optimistic(1.0, 0.1, 0.1, adam_directions(1e-2)),
        ),
        (
            lambda: optim.optimistic_adam_v2(0.1, alpha=0.7, beta=0.4, eps=1e-2),
            optimistic(0.1, 0.7, 0.4, adam_directions(1e-2, nesterov=True)),
        ),
    ],
)
def test_numpy(optimizer, want, x64):
    np.testing.assert_allclose(final(optimizer()), want, rtol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
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
    ],
)
def test_adafactor_numpy(optimizer, want, x64):
    """Its decay of second moments is a float32 number, as Optax's."""
    np.testing.assert_allclose(final(optimizer()), want, rtol=1e-6)


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


def test_first_step_of_factored_rms_is_exact_where_squares_have_rank_one():
    g = jnp.outer(jnp.array([1.0, -2.0, 3.0]), jnp.array([0.5, 4.0]))
    optimizer = optim.scale_by_factored_rms(min_dim_size_to_factor=2)
    updates, state = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, jnp.sign(g), rtol=1e-5)
    assert (state.v_row.shape, state.v_col.shape, state.v.shape) == ((2,), (3,), (1,))


def test_factored_rms_stands_still_where_nothing_was_seen():
    """Also without epsilon, where Optax's updates are NaN."""
    g = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(2)}
    optimizer = optim.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=0.0)
    updates, _ = optimizer.update(g, optimizer.init(g))
    assert_trees_close(updates, g, 0.0)


def test_factored_rms_before_its_offset():
    g = jnp.array([3.0, -2.0])
    optimizer = optim.scale_by_factored_rms(step_offset=5)
    np.testing.assert_allclose(optimizer.update(g, optimizer.init(g))[0], [1, -1], rtol=1e-6)


def test_decay_rate_fn():
    def bounded(step, exponent):
        return jnp.minimum(1 - (step + 1.0) ** -exponent, 0.4)

    params = jnp.asarray(START, jnp.float32)
    runs = []
    for lib in (optim, optax):
        optimizer = lib.scale_by_factored_rms(decay_rate_fn=bounded, min_dim_size_to_factor=2)
        state = optimizer.init(params)
        for g in GRADIENTS:
            updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        runs.append((updates, *state))
    assert_trees_close(*runs, 1e-6)


def test_sm3_of_scalars_is_adagrad_with_momentum():
    """Where Optax's fails."""
    optimizer = optim.sm3(0.1, momentum=0.0)
    g = {"scalar": jnp.float32(3.0), "empty": jnp.zeros((0, 2))}
    state = optimizer.init(g)
    for t in range(1, 4):
        updates, state = optimizer.update(g, state)
        np.testing.assert_allclose(updates["scalar"], -0.1 / t**0.5, rtol=1e-6)


def test_sm3_stands_still_where_nothing_was_seen():
    """Also without eps."""
    g = jnp.array([[0.0, 0.0], [0.0, 2.0]])
    optimizer = optim.scale_by_sm3(b1=0.0, eps=0.0)
    updates, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, jnp.sign(g), rtol=1e-6)


def test_parameters_of_0_move_with_their_gradients():
    g = jnp.array([3.0, -4.0])
    for optimizer in (optim.scale_by_trust_ratio(), optim.scale_by_trust_ratio(eps=0.1)):
        updates, _ = optimizer.update(g, optimizer.init(g), 0 * g)
        np.testing.assert_array_equal(updates, g)


def test_polyak_of_large_and_of_no_gradients():
    optimizer = optim.polyak_sgd()
    for g, value in (([3e20, 4e20], 1e20), ([3e-9, 4e-9], 1.0), ([0.0, 0.0], 1.0)):
        updates, _ = optimizer.update(jnp.array(g), optimizer.init(jnp.ones(2)), value=value)
        np.testing.assert_array_equal(updates, 0.0)


def test_mu_dtype_of_lion():
    g = jnp.array([1.001, -3.0], jnp.bfloat16)
    optimizer = optim.lion(0.1, b2=0.999, mu_dtype=jnp.bfloat16)
    _, state = optimizer.update(g, optimizer.init(g), g)
    assert state[0].mu.dtype == jnp.bfloat16
    optimizer = optim.lion(0.1)
    assert optimizer.init(g)[0].mu.dtype == jnp.float32
    assert optim.signum(0.1, accumulator_dtype=jnp.bfloat16).init(g)[0].ema.dtype == jnp.bfloat16
    _, *_, average, _ = optim.adafactor(0.1, momentum=0.9, dtype_momentum=jnp.bfloat16).init(g)
    assert average.ema.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "build",
    [
        lambda: optim.scale_by_factored_rms(min_dim_size_to_factor=2),
        lambda: optim.scale_by_sm3(),
        lambda: optim.scale_by_trust_ratio(),
        lambda: optim.clip_by_block_rms(0.1),
        lambda: optim.scale_by_optimistic_gradient(),
    ],
)
def test_complex_parameters_turn_with_their_gradients(build):
    """Their second moments are real: a common phase of gradients is that of the updates."""
    g = jnp.asarray(GRADIENTS[0], jnp.complex64)
    optimizer = build()
    got, state = optimizer.update(1j * g, optimizer.init(g), g)
    want, _ = optimizer.update(g.real, optimizer.init(g.real), g.real)
    np.testing.assert_allclose(got, 1j * want, rtol=1e-5, atol=1e-7)
    for field in ("v_row", "v_col", "v", "mu"):
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(getattr(state, field, ())))


NEED_PARAMS = {
    "lars": lambda: optim.lars(0.1),
    "scale_by_trust_ratio": lambda: optim.scale_by_trust_ratio(),
    "scale_by_param_block_norm": lambda: optim.scale_by_param_block_norm(),
    "scale_by_param_block_rms": lambda: optim.adafactor(0.1),
    "adaptive_grad_clip": lambda: optim.adaptive_grad_clip(0.1),
    "keep_params_nonnegative": lambda: optim.keep_params_nonnegative(),
}


@pytest.mark.parametrize("build", NEED_PARAMS.values(), ids=NEED_PARAMS)
def test_needs_params(build):
    g = jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        build().update(g, build().init(g))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.lion(-0.1), "lion: learning_rate must be finite and >= 0"),
        (lambda: optim.lion(0.1, b2=1.0), r"lion: b2 must be in \[0, 1\), got 1.0"),
        (lambda: optim.scale_by_lion(mode="soft"), "scale_by_lion: mode must be .* got 'soft'"),
        (lambda: optim.signum(0.1, 1.5), "signum: beta"),
        (lambda: optim.lars(0.1, -0.1), "lars: weight_decay"),
        (lambda: optim.lars(0.1, momentum=None), "lars: momentum must be a number"),
        (lambda: optim.lamb(float("nan")), "lamb: learning_rate"),
        (lambda: optim.fromage(0.1, -1.0), "fromage: min_norm"),
        (lambda: optim.adafactor(-0.1), "adafactor: learning_rate"),
        (lambda: optim.adafactor(0.1, clipping_threshold=0.0), "threshold must be > 0, got 0.0"),
        (lambda: optim.adafactor(0.1, momentum=1.0), "adafactor: momentum"),
        (lambda: optim.sm3(0.1, 1.0), "sm3: momentum"),
        (lambda: optim.scale_by_sm3(b2=1.1), r"scale_by_sm3: b2 must be in \[0, 1\]"),
        (lambda: optim.polyak_sgd(variant="sps-"), "variant must be 'sps' or 'sps\\+', got 'sps-'"),
        (lambda: optim.noisy_sgd(0.1, -1.0), "noisy_sgd: eta"),
        (lambda: optim.ema(1.0), "ema: decay"),
        (lambda: optim.clip_per_leaf(0.0), "clip_per_leaf: max_norm must be > 0"),
        (
            lambda: optim.keep_params_nonnegative().update(
                jnp.ones(2), optim.EmptyState(), 1j * jnp.ones(2)
            ),
            "parameters must be real",
        ),
        (
            lambda: optim.unitwise_clip(jnp.ones(1), jnp.ones(2), jnp.ones(2)),
            r"same shape, got \(\(1,\), \(2,\), \(2,\)\)",
        ),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_polyak_needs_the_loss():
    optimizer, g = optim.polyak_sgd(), jnp.ones(2)
    with pytest.raises(
        TypeError, match=r"scale_by_polyak: needs the loss; call update.*value=loss"
    ):
        optimizer.update(g, optimizer.init(g), g)


def test_optimistic_adam_advises_its_successor():
    with pytest.warns(DeprecationWarning, match="use `optimistic_adam_v2` instead"):
        optim.optimistic_adam(0.1)
