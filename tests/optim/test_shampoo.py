"""Shampoo's equations in NumPy, its symmetries, and grafting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close

RNG = np.random.default_rng(0)
START = RNG.normal(size=(4, 3))
GRADIENTS = RNG.normal(size=(5, 4, 3))


def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def shampoo(rate, b2=1.0, eps=1e-3, exponent=0.25, decay=0.0, every=1, momentum=0.0, length=None):
    theta, left, right, v = START, 0, 0, 0
    weight = 1 if b2 == 1 else 1 - b2
    for t, g in enumerate(GRADIENTS):
        left, right = b2 * left + weight * g @ g.T, b2 * right + weight * g.T @ g
        if t % every == 0:
            c = 1 if b2 == 1 else 1 - b2 ** (t + 1)
            roots = (
                power(left / c + eps * np.eye(4), -exponent),
                power(right / c + eps * np.eye(3), -exponent),
            )
        u = roots[0] @ g @ roots[1]
        if length:
            u = u * length(g) / np.linalg.norm(u)
        v = u + momentum * v
        theta = theta - rate * (v + decay * theta)
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
        (lambda: optim.shampoo(0.1, eps=1e-3), shampoo(0.1)),
        (
            lambda: optim.shampoo(0.1, 0.9, 1e-2, 0.4, 0.1, precondition_frequency=2, momentum=0.5),
            shampoo(0.1, 0.9, 1e-2, 0.4, 0.1, every=2, momentum=0.5),
        ),
        (
            lambda: optim.shampoo(0.1, eps=1e-3, grafting=optim.identity()),
            shampoo(0.1, length=np.linalg.norm),
        ),
        (
            lambda: optim.shampoo(0.1, eps=1e-3, grafting=optax.scale_by_sign()),
            shampoo(0.1, length=lambda g: 12**0.5),
        ),
    ],
)
def test_numpy(optimizer, want, x64):
    np.testing.assert_allclose(final(optimizer()), want, rtol=1e-9)


def test_other_shapes(x64):
    """A scalar as in Adagrad, a vector as in full-matrix Adagrad, a cube with three matrices."""
    grads = {
        "scalar": RNG.normal(size=(3,)),
        "vector": RNG.normal(size=(3, 4)),
        "cube": RNG.normal(size=(3, 2, 3, 4)),
        "long": RNG.normal(size=(3, 7, 2)),
    }
    eps = 1e-3
    optimizer = optim.scale_by_shampoo(eps=eps, max_precond_dim=5)
    update = jax.jit(optimizer.update)
    state = optimizer.init(jax.tree.map(lambda g: g[0], grads))
    for t in range(3):
        got, state = update({name: jnp.asarray(g[t]) for name, g in grads.items()}, state)

    g = grads["scalar"]
    np.testing.assert_allclose(got["scalar"], g[2] / np.sqrt(np.sum(g**2) + eps), rtol=1e-9)
    g = grads["vector"]
    np.testing.assert_allclose(
        got["vector"], power(np.einsum("ti,tj->ij", g, g) + eps * np.eye(4), -0.5) @ g[2], rtol=1e-9
    )
    g = grads["cube"]
    roots = [
        power(np.einsum(axes, g, g) + eps * np.eye(d), -1 / 6)
        for axes, d in (("tiab,tjab->ij", 2), ("taib,tajb->ij", 3), ("tabi,tabj->ij", 4))
    ]
    np.testing.assert_allclose(got["cube"], np.einsum("ia,jb,kc,abc->ijk", *roots, g[2]), rtol=1e-9)
    # an axis longer than 5 has only the diagonal
    g = grads["long"]
    rows = (np.einsum("tia,tia->i", g, g) + eps) ** -0.25
    columns = power(np.einsum("tai,taj->ij", g, g) + eps * np.eye(2), -0.25)
    np.testing.assert_allclose(got["long"], rows[:, None] * g[2] @ columns, rtol=1e-9)


def test_equivariant_to_rotations(x64):
    """Of rows and columns; this is what no elementwise optimizer is."""
    a, b = (np.linalg.qr(RNG.normal(size=(d, d)))[0] for d in (4, 3))
    optimizer = optim.shampoo(0.1, momentum=0.9)
    want = a @ np.asarray(final(optimizer)) @ b
    got = final(optimizer, a @ START @ b, a @ GRADIENTS @ b)
    np.testing.assert_allclose(got, want, rtol=1e-9)
    adam = optim.adam(0.1)
    assert abs(final(adam, a @ START @ b, a @ GRADIENTS @ b) - a @ final(adam) @ b).max() > 0.1


def test_first_step_is_orthogonal(x64):
    """`(G Gᵀ)^(-1/4) G (Gᵀ G)^(-1/4) = U Vᵀ`, Muon's limit, of complex matrices too."""
    for g in (GRADIENTS[0], GRADIENTS[0] + 1j * GRADIENTS[1]):
        optimizer = optim.scale_by_shampoo(eps=1e-30)
        got, _ = optimizer.update(jnp.asarray(g), optimizer.init(g))
        u, _, v = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(got, u @ v, atol=1e-9)


def test_layers_of_a_stack_do_not_know_each_other(x64):
    stack = {"blocks": jnp.asarray(GRADIENTS[:2]), "head": jnp.asarray(START)}
    options = {"eps": 1e-3, "grafting": optim.identity()}
    optimizer = optim.shampoo(0.1, stacked="^blocks", **options)
    got = final_of_tree(optimizer, stack)
    single = optim.shampoo(0.1, **options)
    for i in range(2):
        assert_trees_close(got["blocks"][i], final_of_tree(single, stack["blocks"][i]), 1e-12)
    assert_trees_close(got["head"], final_of_tree(single, stack["head"]), 1e-12)
    with pytest.raises(ValueError, match="a scalar is no stack"):
        optimizer.init({"blocks": 1.0})


def final_of_tree(optimizer, params):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for t in range(3):
        grads = jax.tree.map(lambda x, t=t: jnp.sin(3 * x + t), params)
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return params


def test_singular_statistics_stay_finite():
    """Gradients of rank one, and of zero."""
    g = {"one": jnp.outer(jnp.arange(1.0, 6), jnp.arange(1.0, 5)), "zero": jnp.zeros((3, 3))}
    optimizer = optim.shampoo(0.1, 0.9)
    state = optimizer.init(g)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(g, state, g)
        direction = g["one"] / jnp.linalg.norm(g["one"])
        np.testing.assert_allclose(updates["one"], -0.1 * direction, rtol=1e-2, atol=1e-3)
        np.testing.assert_array_equal(updates["zero"], 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.shampoo(-0.1), "shampoo: learning_rate must be finite and >= 0"),
        (lambda: optim.shampoo(0.1, 1.1), r"shampoo: b2 must be in \[0, 1\], got 1.1"),
        (lambda: optim.shampoo(0.1, eps=0.0), "shampoo: eps must be > 0"),
        (
            lambda: optim.shampoo(0.1, precondition_frequency=0),
            "shampoo: precondition_frequency must be an integer >= 1, got 0",
        ),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()
