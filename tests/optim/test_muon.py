"""Muon: its equations in NumPy, singular values, and which parameters are matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from jaxnets.optim import MuonDimensionNumbers
from tests.numerics import assert_trees_close

RNG = np.random.default_rng(0)
START = RNG.normal(size=(3, 5))
GRADIENTS = RNG.normal(size=(4, 3, 5))


def quintic(x, steps=5, coefficients=(3.4445, -4.7750, 2.0315), eps=1e-8):
    """By the singular values: the iteration is a polynomial of them, odd, and of nothing else."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / (np.linalg.norm(s) + eps)
    for _ in range(steps):
        s = sum(c * s**power for c, power in zip(coefficients, (1, 3, 5), strict=True))
    return (u * s) @ v


def muon(rate, beta=0.95, eps=1e-8, nesterov=True, decay=0.0, rms=None, adaptive=False):
    theta, m = START, 0
    scale = np.sqrt(5 / 3) if rms is None else rms * np.sqrt(5)
    for t, g in enumerate(GRADIENTS, 1):
        m = beta * m + (1 - beta) * g
        m_hat = m / (1 - beta**t)
        if nesterov:
            m_hat = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        u = quintic(m_hat, eps=eps)
        if adaptive:
            u = np.sum(m_hat * u) * u
        theta = theta - rate * (scale * u + decay * theta)
    return theta


def final(optimizer, start=START, gradients=GRADIENTS):
    params = jnp.asarray(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g in gradients:
        updates, state = update(jnp.asarray(g), state, params)
        params = optim.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (lambda: optim.muon(0.1, eps=0.1), muon(0.1, eps=0.1)),
        (
            lambda: optim.muon(
                0.1, beta=0.8, eps=0.1, nesterov=False, weight_decay=0.1, consistent_rms=0.2
            ),
            muon(0.1, 0.8, 0.1, nesterov=False, decay=0.1, rms=0.2),
        ),
        (lambda: optim.muon(0.1, adaptive=True), muon(0.1, adaptive=True)),
    ],
)
def test_numpy(optimizer, want, x64):
    np.testing.assert_allclose(final(optimizer()), want, rtol=1e-9)


def test_momentum_is_stored_rounded_and_used_unrounded(x64):
    optimizer = optim.scale_by_muon(beta=0.5, eps=0.0, mu_dtype=jnp.bfloat16)
    state = optimizer.init(START)
    g1, g2 = map(jnp.asarray, GRADIENTS[:2])
    got, state = optimizer.update(g1, state)
    np.testing.assert_allclose(got, quintic(GRADIENTS[0], eps=0), rtol=1e-9)
    assert state.mu.dtype == jnp.bfloat16
    stored = np.float64(state.mu)
    assert 1e-4 < np.abs(stored - 0.5 * GRADIENTS[0]).max() < 1e-2
    got, state = optimizer.update(g2, state)
    m = 0.5 * stored + 0.5 * GRADIENTS[1]
    np.testing.assert_allclose(
        got, quintic(0.5 * m / (1 - 0.5**3) + 0.5 * GRADIENTS[1] / (1 - 0.5**2), eps=0), rtol=1e-9
    )


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_singular_values_near_1(preconditioning):
    """Of matrices with a condition number of 20, wide and tall, and of complex ones."""
    u, _, v = np.linalg.svd(RNG.normal(size=(8, 12)), full_matrices=False)
    x = jnp.float32((u * np.geomspace(0.05, 1, 8)) @ v)
    orthogonalize = jax.jit(
        lambda x: optim.orthogonalize_via_newton_schulz(
            x, (3.4445, -4.7750, 2.0315), 5, preconditioning
        )
    )
    for matrix in (x, x.T):
        y = orthogonalize(matrix)
        s = np.linalg.svd(y, compute_uv=False)
        assert (s > 0.65).all()
        assert (s < 1.25).all()
    # the singular vectors stay as they are, but where rows are scaled one by one
    if preconditioning != "aol":
        overlap = np.abs(np.einsum("ik,ij,kj->k", u, orthogonalize(x), v))
        assert (overlap > 0.65).all()


def test_complex_matrices(x64):
    """`U p(S) Vᴴ`; for the Schatten norm Optax leaves out a conjugation."""
    x = jnp.asarray(RNG.normal(size=(3, 4)) + 1j * RNG.normal(size=(3, 4)))
    for preconditioning in ("frobenius", "spectral", "aol", "schatten"):
        y = optim.orthogonalize_via_newton_schulz(x, (2, -1.5, 0.5), 20, preconditioning)
        np.testing.assert_allclose(y @ y.conj().T, np.eye(3), atol=1e-9)
    u, _, v = np.linalg.svd(x, full_matrices=False)
    y = optim.orthogonalize_via_newton_schulz(x, (2, -1.5, 0.5), 20, "schatten")
    np.testing.assert_allclose(y, u @ v, atol=1e-9)


TREE = {
    "blocks": {"kernel": RNG.normal(size=(2, 4, 3)), "bias": RNG.normal(size=(2, 3))},
    "conv": {"kernel": RNG.normal(size=(3, 3, 2, 5))},
    "embedding": RNG.normal(size=(6, 4)),
}
RULES = {
    "^blocks/kernel$": MuonDimensionNumbers(-2, -1),
    "^conv/.*kernel$": MuonDimensionNumbers((0, 1, 2), 3),
    ".*": None,
}
NUMBERS = {
    "blocks": {"kernel": MuonDimensionNumbers(1, 2), "bias": None},
    "conv": {"kernel": MuonDimensionNumbers((0, 1, 2), 3)},
    "embedding": None,
}


@pytest.fixture(scope="module")
def first_updates():
    """By path rules."""
    params = jax.tree.map(jnp.float32, TREE)
    optimizer = optim.muon(1.0, muon_weight_dimension_numbers=RULES)
    return jax.jit(optimizer.update)(params, optimizer.init(params), params)


def test_path_rules(first_updates):
    """A stack is so many matrices, a convolution kernel one of `[window * in, out]`."""
    got = first_updates[0]
    for i in range(2):
        want = -quintic(TREE["blocks"]["kernel"][i])
        np.testing.assert_allclose(got["blocks"]["kernel"][i], want, rtol=1e-3, atol=1e-3)
    want = -quintic(TREE["conv"]["kernel"].reshape(18, 5)).reshape(3, 3, 2, 5)
    np.testing.assert_allclose(got["conv"]["kernel"], want, rtol=1e-3, atol=1e-3)
    for name in ("blocks", "embedding"):
        g = TREE[name]["bias"] if name == "blocks" else TREE[name]
        u = got[name]["bias"] if name == "blocks" else got[name]
        # Adam's first step with Nesterov's momentum
        size = 0.9 * 0.1 / (1 - 0.9**2) + 0.1 / (1 - 0.9)
        np.testing.assert_allclose(u, -size * np.sign(g), rtol=1e-4)


def test_state_is_kept_once(first_updates):
    """Momentum for matrices, Adam's moments for the others."""
    params = jax.tree.map(jnp.float32, TREE)
    theirs = optax.contrib.muon(
        1.0,
        muon_weight_dimension_numbers=jax.tree.map(
            lambda n: None if n is None else optax.contrib.MuonDimensionNumbers(*n),
            NUMBERS,
            is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers),
        ),
    )
    want = jax.jit(theirs.update)(params, theirs.init(params), params)
    assert_trees_close(first_updates[0], want[0], 1e-4)
    assert_trees_close(jax.tree.leaves(first_updates[1]), jax.tree.leaves(want[1]), 1e-6)


@pytest.mark.parametrize("numbers", [NUMBERS, lambda params: NUMBERS])
def test_trees_and_functions(numbers):
    params = jax.tree.map(jnp.float32, TREE)
    ours = optim.muon(1.0, muon_weight_dimension_numbers=numbers)
    rules = optim.muon(1.0, muon_weight_dimension_numbers=RULES)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(rules.init(params))
    assert ours == optim.muon(1.0, muon_weight_dimension_numbers=numbers)
    assert ours != rules


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"conv": MuonDimensionNumbers(), "x": None}, "no rule covers leaf 'blocks/bias'"),
        ({"nothing": MuonDimensionNumbers(), ".*": None}, "rule 'nothing' matches no leaf"),
        ({"conv": MuonDimensionNumbers(0, 0), ".*": None}, r"different ones.*at 'conv/kernel'"),
        (lambda params: {"blocks": None}, "prefix of it; missing 'conv/kernel', 'embedding'$"),
    ],
)
def test_bad_dimension_numbers(numbers, message):
    with pytest.raises(ValueError, match=message):
        optim.muon(0.1, muon_weight_dimension_numbers=numbers).init(TREE)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.muon(0.1, beta=1.0), r"muon: beta must be in \[0, 1\), got 1.0"),
        (lambda: optim.muon(0.1, "quintic"), "ns_coeffs must be one of .*, got 'quintic'"),
        (lambda: optim.muon(0.1, (1.0, 2.0)), r"shape \(3,\) or \(n, 3\), got \(2,\)"),
        (lambda: optim.muon(0.1, "dion", ns_steps=3), "ns_coeffs has 5 rows.*ns_steps=3"),
        (lambda: optim.muon(0.1, consistent_rms=-1.0), "consistent_rms must be finite and >= 0"),
        (lambda: optim.scale_by_muon().init({"b": jnp.ones(3)}), r"shape \(3,\) at .b."),
        (lambda: optim.scale_by_shape().init(jnp.ones((2, 3, 3))), r"shape \(2, 3, 3\) is no"),
        (lambda: optim.scale_by_muon(preconditioning="x"), "preconditioning must be one of"),
        (
            lambda: optim.orthogonalize_via_newton_schulz(jnp.ones((2, 3, 3)), (1.0, 0.0, 0.0)),
            r"must be a matrix .* got shape \(2, 3, 3\)",
        ),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_rate_of_the_others():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.arange(1.0, 4.0)}
    (own, _), (same, _) = (
        optimizer.update(params, optimizer.init(params), params)
        for optimizer in (optim.muon(0.01, adam_learning_rate=0.02), optim.muon(0.01))
    )
    np.testing.assert_allclose(own["bias"], 2 * same["bias"], rtol=1e-6)
    np.testing.assert_array_equal(own["kernel"], same["kernel"])
