"""The zoom line search on many curves at once, beside Optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close

SETTINGS = {
    "steep demand": {"slope_rtol": 0.3, "curv_rtol": 0.35, "approx_dec_rtol": None},
    "near a minimum": {"slope_rtol": 0.3, "curv_rtol": 0.4, "approx_dec_rtol": 0.5},
    "bounded": {"max_learning_rate": 1.7, "approx_dec_rtol": None},
    "fails": {"curv_rtol": 0.01, "max_linesearch_steps": 3, "approx_dec_rtol": None},
    "tolerant": {"tol": 0.05, "increase_factor": 3.0},
}


def curve(parameters, x):
    a, b, c = parameters
    return a * jnp.sum((x - 3.0) ** 2) + b * jnp.sum(jnp.sin(c * x)) + 0.1 * jnp.sum(x**4)


def searched(lib, settings, parameters, x):
    """What one search leaves behind."""
    optimizer = lib.scale_by_zoom_linesearch(**{"max_linesearch_steps": 12} | settings)
    value, grad = jax.value_and_grad(curve, 1)(parameters, x)
    updates, state = optimizer.update(
        -0.2 * grad, optimizer.init(x), x,
        value=value, grad=grad, value_fn=lambda x: curve(parameters, x),
    )  # fmt: skip
    return updates, state.learning_rate, state.value, state.grad, state.info


@pytest.mark.thorough
@pytest.mark.parametrize("name", SETTINGS)
def test_many_curves(name, x64):
    keys = jax.random.split(jax.random.key(0), 4)
    a, b, c = (jax.random.uniform(key, (300,), minval=0.05) for key in keys[:3])
    curves, x = (3 * a, 2 * b, 6 * c), 2 * jax.random.normal(keys[3], (300, 2))

    def all_curves(lib):
        search = jax.vmap(lambda parameters, x: searched(lib, SETTINGS[name], parameters, x))
        return jax.jit(search)(curves, x)

    got, want = all_curves(optim), all_curves(optax)
    # the settings are met: searches end at different numbers of points
    assert len(np.unique(got[-1].num_linesearch_steps)) > 1
    assert_trees_close(jax.tree.leaves(got), jax.tree.leaves(want), 1e-7)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        # too steep at 1, too high at 8, and no more points: the one that went down is taken
        ({"max_linesearch_steps": 2, "increase_factor": 8.0}, 1.0),
        # too steep at the largest rate as well
        ({"max_linesearch_steps": 9, "max_learning_rate": 0.5}, 0.5),
    ],
    ids=["out of points", "bounded"],
)
def test_where_a_search_ends(settings, rate, x64):
    """On `x² / 2` from 1 along -0.3, where the slope is to be 0."""
    optimizer = optim.scale_by_zoom_linesearch(**settings, curv_rtol=0.0, approx_dec_rtol=None)
    x = jnp.array(1.0)
    updates, state = optimizer.update(
        jnp.array(-0.3), optimizer.init(x), x, value=0.5, grad=x, value_fn=lambda x: x**2 / 2
    )
    end = 1 - 0.3 * rate
    np.testing.assert_allclose(updates, -0.3 * rate)
    np.testing.assert_allclose([*state[:3]], [rate, end**2 / 2, end])
