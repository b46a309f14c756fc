"""Everything that factors give, beside its definition by `vmap(grad)`, over the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients
from tests.catalogue import LAYERS, MODELS, thorough_beyond
from tests.gradients.zoo import CASES

B = 5


def flat(tree, axes=1):
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([x.reshape(*x.shape[:axes], -1) for x in leaves], axes)


def everything(loss, params, batch):
    """What is asked of factors."""
    losses, factors = gradients.per_example_grad(loss)(params, batch)
    some = jax.tree.map(lambda x: x[:2], batch)
    _, others = gradients.per_example_grad(loss)(params, some)
    weights = jnp.arange(1.0, B + 1)
    tangent = jax.tree.map(jnp.cos, params)
    return {
        "losses": losses,
        "gradients": flat(gradients.materialize(factors)),
        "squares": gradients.sq_norms(factors),
        "squares by leaf": jnp.stack(jax.tree.leaves(gradients.sq_norms_by_leaf(factors)), 1),
        "norms": gradients.norms(factors),
        "weighted sum": flat(gradients.weighted_sum(factors, weights), 0),
        "dot": gradients.dot(factors, tangent),
        "gram": gradients.gram(factors),
        "gram with others": gradients.gram(factors, others),
        "second moment": flat(gradients.second_moment(factors), 0),
    }


def by_definition(loss, params, batch):
    losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batch)
    g = flat(grads)
    by_leaf = [jnp.sum(x.reshape(B, -1) ** 2, 1) for x in jax.tree.leaves(grads)]
    return {
        "losses": losses,
        "gradients": g,
        "squares": jnp.sum(g**2, 1),
        "squares by leaf": jnp.stack(by_leaf, 1),
        "norms": jnp.sqrt(jnp.sum(g**2, 1)),
        "weighted sum": jnp.arange(1.0, B + 1) @ g,
        "dot": g @ flat(jax.tree.map(jnp.cos, params), 0),
        "gram": g @ g.T,
        "gram with others": g @ g[:2].T,
        "second moment": jnp.mean(g**2, 0),
    }


def assert_as_defined(loss, params, batch, rtol):
    got, want = (
        jax.jit(f, static_argnums=0)(loss, params, batch) for f in (everything, by_definition)
    )
    for name in want:
        scale = np.max(np.abs(want[name]), initial=1e-30)
        np.testing.assert_allclose(
            got[name], want[name], rtol=rtol, atol=rtol * scale, err_msg=name
        )


def drawn(case, dtype):
    keys = jax.random.split(jax.random.key(0), len(case.params) + 1)
    params = {
        name: 0.7 * jax.random.normal(key, shape, dtype)
        for key, (name, shape) in zip(keys, case.params.items(), strict=False)
    }
    if case.ids:
        return params, jax.random.randint(keys[-1], (B, *case.example), 0, case.ids)
    return params, jax.random.normal(keys[-1], (B, *case.example), dtype)


FEW = {
    "vector",
    "wide",
    "tied to the embedding",
    "in loops within loops",
    "conv, grouped",
    "sliced",
}
zoo = pytest.mark.parametrize("case", thorough_beyond(FEW, {case.name: (case,) for case in CASES}))


@zoo
def test_float64(case, x64):
    params, batch = drawn(case, jnp.float64)
    assert_as_defined(case.loss, params, batch, 1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32(case):
    params, batch = drawn(case, jnp.float32)
    assert_as_defined(case.loss, params, batch, 1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.way], ids=lambda case: case.name)
def test_ways(case):
    params, batch = drawn(case, jnp.float32)
    first = next(iter(case.params))
    ways = {row.path: row.way for row in gradients.plan(case.loss, params, batch)}
    assert ways[first] == case.way


def of_layer(case):
    def loss(params, x):
        return jnp.sum(jnp.tanh(case.apply(params, x)) ** 2)

    return loss


LAYERS_AND_MODELS = [case for case in (*LAYERS, *MODELS) if not case.mixes_examples]


def batch_of(case, dtype):
    key = jax.random.key(1)
    if case.ids:
        return jax.random.randint(key, (B, *case.shape), 0, case.ids)
    return jax.random.normal(key, (B, *case.shape), dtype)


@pytest.mark.thorough
@pytest.mark.parametrize("case", LAYERS_AND_MODELS, ids=lambda case: case.name)
def test_layers_and_models(case, x64):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), case.init(jax.random.key(0)))
    if not jax.tree.leaves(params):
        pytest.skip("has no parameters")
    assert_as_defined(of_layer(case), params, batch_of(case, jnp.float64), 1e-10)


@pytest.mark.parametrize("case", LAYERS_AND_MODELS, ids=lambda case: case.name)
def test_no_layer_falls_back(case):
    params = case.init(jax.random.key(0))
    if not jax.tree.leaves(params):
        pytest.skip("has no parameters")
    for row in gradients.plan(of_layer(case), params, batch_of(case, jnp.float32)):
        assert row.fallback in ("", "is cheaper than the products"), row
