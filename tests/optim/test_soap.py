"""SOAP against the authors' program, the equations in NumPy, and its symmetries."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close
from tests.optim.values.make_soap import RUNS, STEPS, start

VALUES = json.loads((Path(__file__).parent / "values" / "soap.json").read_text())


def final(optimizer, params, steps=STEPS):
    """After steps along gradients that do not depend on the moved parameters."""
    first = params

    def step(t, carry):
        moved, state = carry
        grads = jax.tree.map(lambda x: jnp.sin(3 + 7 * x + 0.7 * t) + 0.3 * x, first)
        updates, state = optimizer.update(grads, state, moved)
        return optim.apply_updates(moved, updates), state

    carry = (params, optimizer.init(params))
    return jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))(carry)[0]


@pytest.mark.parametrize("name", RUNS)
def test_the_authors_program(name, x64):
    optimizer = optim.soap(0.1, weight_decay=0.0, **RUNS[name])
    got = final(optimizer, jax.tree.map(jnp.asarray, start()))
    want = {name: np.asarray(values) for name, values in VALUES[name].items()}
    assert_trees_close(got, want, 1e-9)


SQUARE = np.random.default_rng(1).normal(size=(4, 4))


def by_hand(gradients, rate, b1, b2, beta, eps, every, decay):
    """The authors' algorithm for a square matrix; the momentum is kept in the original space.

    Their program keeps it in the eigenbasis and turns it with that: the same in exact arithmetic.
    """
    theta, m, v, left, right = SQUARE, np.zeros((4, 4)), np.zeros((4, 4)), 0, 0
    ql = qr = np.eye(4)
    for t, g in enumerate(gradients):
        step = 0
        if t:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
            u = ql.T @ m @ qr / (np.sqrt(v) + eps)
            step = ql @ u @ qr.T * np.sqrt(1 - b2**t) / (1 - b1**t)
        theta = theta - rate * (step + decay * theta)
        left = beta * left + (1 - beta) * g @ g.T
        right = beta * right + (1 - beta) * g.T @ g
        if t == 0:
            ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        elif t % every == 0:
            rows = np.argsort(-np.diag(ql.T @ left @ ql))
            columns = np.argsort(-np.diag(qr.T @ right @ qr))
            v = v[rows][:, columns]
            ql = np.linalg.qr(left @ ql[:, rows])[0]
            qr = np.linalg.qr(right @ qr[:, columns])[0]
    return theta


def gradients_of(start, steps):
    return [np.sin(3 + 7 * start + 0.7 * t) + 0.3 * start for t in range(steps)]


@pytest.mark.parametrize(
    "options", [(0.95, 0.95, None, 1e-8, 10, 0.01), (0.8, 0.9, 0.5, 1e-2, 2, 0.1)]
)
def test_numpy(options, x64):
    b1, b2, beta, eps, every, decay = options
    optimizer = optim.soap(0.1, b1, b2, beta, eps, decay, precondition_frequency=every)
    got = final(optimizer, jnp.asarray(SQUARE), 25)
    want = by_hand(
        gradients_of(SQUARE, 25), 0.1, b1, b2, b2 if beta is None else beta, eps, every, decay
    )
    np.testing.assert_allclose(got, want, rtol=1e-9)


def turned_trajectory(optimizer, a, b, steps=12):
    params = jnp.asarray(a @ SQUARE @ b)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g in gradients_of(SQUARE, steps):
        updates, state = update(a @ g @ b, state, params)
        params = optim.apply_updates(params, updates)
    return params


def test_equivariant_to_rotations(x64):
    """Of rows and columns, and of complex matrices to unitary ones."""
    rng = np.random.default_rng(2)
    optimizer = optim.soap(0.1, precondition_frequency=3)
    plain = turned_trajectory(optimizer, np.eye(4), np.eye(4))
    for imaginary in (0, 1j):
        a, b = (
            np.linalg.qr(rng.normal(size=(4, 4)) + imaginary * rng.normal(size=(4, 4)))[0]
            for _ in range(2)
        )
        got = turned_trajectory(optimizer, a, b)
        np.testing.assert_allclose(got, a @ plain @ b, rtol=1e-8, atol=1e-9)


def test_without_matrices_it_is_adam(x64):
    """One step behind, and with eps before the bias correction."""
    params = {"vector": jnp.arange(1.0, 4), "scalar": jnp.asarray(2.0), "long": jnp.ones((3, 4))}
    ours, adam = optim.soap(0.1, max_precond_dim=2, eps=0.0), optim.adam(0.1, 0.95, 0.95, 0.0)
    state, adam_state = ours.init(params), adam.init(params)
    for t in range(4):
        grads = jax.tree.map(lambda x, t=t: jnp.cos(x + t), params)
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, state = ours.update(grads, state, zero)
        if t == 0:
            assert_trees_close(updates, zero, 0.0)
        else:
            want, adam_state = adam.update(grads, adam_state)
            assert_trees_close(updates, want, 1e-12)
    assert len(jax.tree.leaves(state[0].bases)) == 0


def test_vectors_and_stacks(x64):
    """A preconditioned vector is a column; a layer of a stack is a matrix of its own."""
    g = jnp.asarray(SQUARE)
    options = {"precondition_frequency": 2}
    vector = final(optim.soap(0.1, precondition_1d=True, **options), g[0], 6)
    column = final(optim.soap(0.1, **options), g[0][:, None], 6)
    np.testing.assert_allclose(vector, column[:, 0], rtol=1e-9)

    stack = {"blocks": jnp.stack([g, g.T, 2 * g]), "head": g}
    got = final(optim.soap(0.1, stacked="blocks", **options), stack, 6)
    single = optim.soap(0.1, **options)
    for i in range(3):
        np.testing.assert_allclose(
            got["blocks"][i], final(single, stack["blocks"][i], 6), rtol=1e-9
        )
    state = optim.scale_by_soap(stacked="blocks").init(stack)
    assert [x.shape for x in state.bases["blocks"]] == [(3, 4, 4), (3, 4, 4)]


def test_state():
    params = {"kernel": jnp.ones((3, 3, 2, 5), jnp.bfloat16), "bias": jnp.ones(5)}
    shapes = lambda **keywords: [  # noqa: E731
        None if x is None else x.shape
        for x in optim.scale_by_soap(**keywords).init(params).factors["kernel"]
    ]
    assert shapes() == [(3, 3), (3, 3), (2, 2), (5, 5)]
    assert shapes(max_precond_dim=3) == [(3, 3), (3, 3), (2, 2), None]
    assert shapes(max_precond_dim=18, merge_dims=True) == [(18, 18), (5, 5)]
    state = optim.scale_by_soap(mu_dtype=jnp.bfloat16).init(params)
    assert state.mu["kernel"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((state.nu, state.factors, state.bases))} == {
        jnp.dtype("float32")
    }


def test_momentum_is_stored_rounded():
    params = jnp.asarray(SQUARE, jnp.float32)
    exact, rounded = optim.scale_by_soap(), optim.scale_by_soap(mu_dtype=jnp.bfloat16)
    states = exact.init(params), rounded.init(params)
    for t in range(2):
        g = jnp.sin(params + t)
        got = [tx.update(g, s) for tx, s in zip((exact, rounded), states, strict=True)]
        states = [state for _, state in got]
    # used before it is rounded
    np.testing.assert_array_equal(got[0][0], got[1][0])
    assert states[1].mu.dtype == jnp.bfloat16
    np.testing.assert_array_equal(states[1].mu, states[0].mu.astype(jnp.bfloat16))
    assert states[1].nu.dtype == jnp.float32


@pytest.mark.parametrize("seed", [0, 1])
def test_gets_nearer_than_adam_in_as_many_steps(seed):
    """On `½ tr (W - W*)ᵀ A (W - W*) B`: a linear layer with correlated inputs and outputs.

    `A` and `B` have condition numbers of 1000, along axes that are not the coordinates'. Both
    optimizers have the same betas, each the best of the same rates, which fall to 0 in a cosine.
    """
    rng = np.random.default_rng(seed)

    def correlation(size):
        q = np.linalg.qr(rng.normal(size=(size, size)))[0]
        return jnp.float32((q * np.geomspace(1e-3, 1, size)) @ q.T)

    rows, columns = correlation(8), correlation(6)
    wanted = jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)
    start = jnp.zeros((8, 6))

    def loss(w):
        error = w - wanted
        return 0.5 * jnp.sum(error * (rows @ error @ columns))

    def last_loss(build, rate):
        optimizer = build(lambda t: rate * 0.5 * (1 + jnp.cos(jnp.pi * t / 200)))

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optim.apply_updates(w, updates), state), None

        (w, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=200)
        return loss(w) / loss(start)

    def best(build):
        rates = jnp.geomspace(1e-3, 3, 12)
        return float(jax.jit(jax.vmap(lambda rate: last_loss(build, rate)))(rates).min())

    soap = best(lambda schedule: optim.soap(schedule, weight_decay=0.0))
    adam = best(lambda schedule: optim.adam(schedule, 0.95, 0.95))
    assert soap < 1e-4
    assert soap < 0.1 * adam


@pytest.mark.parametrize("build", [optim.soap, optim.shampoo])
def test_states_keep_their_dtype_with_x64(build, x64):
    optimizer = build(0.01)
    params = {"w": jnp.ones((3, 2), jnp.float32)}
    for dtype in (jnp.float32, jnp.float64):
        g = {"w": jnp.arange(6.0, dtype=dtype).reshape(3, 2)}
        state = optimizer.init(params)
        for _ in range(2):
            _, after = jax.jit(optimizer.update)(g, state, params)
            assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
            state = after
