"""L-BFGS and the line searches, on functions that are their own judges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close


def rosenbrock(params):
    x = jnp.concatenate([params["a"].ravel(), params["b"][None]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(params):
    x = jnp.concatenate([params["a"].ravel(), params["b"][None]])
    return 0.5 * jnp.sum(jnp.logspace(0, 3, x.size) * x**2)


def styblinski(params):
    x = jnp.concatenate([params["a"].ravel(), params["b"][None]])
    return jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2


FUNCTIONS = {"rosenbrock": rosenbrock, "quadratic": quadratic, "styblinski": styblinski}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def start(dtype=jnp.float64):
    a = jnp.array([[-1.2, 1.0, 0.5], [0.3, -0.7, 1.1]], dtype)
    return {"a": a, "b": jnp.asarray(0.4, dtype), "empty": jnp.zeros((0, 2), dtype)}


def minimized(lib, optimizer, function, steps, params=None, reuse=True):
    """Parameters and loss after each step, and the last state."""
    params = start() if params is None else params
    value_and_grad = lib.value_and_grad_from_state(function)

    def step(carry, _):
        params, state = carry
        if reuse:
            value, grad = value_and_grad(params, state=state)
        else:
            value, grad = jax.value_and_grad(function)(params)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=function
        )
        params = lib.apply_updates(params, updates)
        return (params, state), (params, value)

    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)

    (_, state), (path, values) = jax.jit(run)(params)
    return path, values, state


@functions
def test_lbfgs_against_optax(function, x64):
    path, values, state = minimized(optim, optim.lbfgs(), function, 35)
    want, their_values, their_state = minimized(optax, optax.lbfgs(), function, 35)
    assert_trees_close(path, want, 1e-9)
    assert_trees_close(values, their_values, 1e-9)
    # once it has converged, the remembered differences are rounding errors
    got, want = jax.tree.leaves(state), jax.tree.leaves(their_state)
    assert [x.shape for x in got] == [x.shape for x in want]
    assert [x.dtype.kind for x in got] == [x.dtype.kind for x in want]


OPTIONS = {
    "lbfgs short memory": (
        lambda lib: lib.lbfgs(0.5, 3, False, lib.scale_by_zoom_linesearch(15, tol=1e-3)),
        8,
    ),
    "lbfgs backtracking": (
        lambda lib: lib.lbfgs(linesearch=lib.scale_by_backtracking_linesearch(20, store_grad=True)),
        30,
    ),
    "lbfgs alone": (lambda lib: lib.lbfgs(0.1, linesearch=None), 15),
    "zoom": (lambda lib: lib.chain(lib.sgd(1.0), lib.scale_by_zoom_linesearch(20)), 40),
    "zoom strict": (
        lambda lib: lib.chain(
            lib.sgd(0.01),
            lib.scale_by_zoom_linesearch(
                12,
                max_learning_rate=3.0,
                tol=1e-6,
                increase_factor=1.5,
                slope_rtol=0.01,
                curv_rtol=0.1,
                approx_dec_rtol=None,
                stepsize_precision=1e-3,
                initial_guess_strategy="one",
            ),
        ),
        40,
    ),
    "backtracking": (
        lambda lib: lib.chain(
            lib.sgd(1.0),
            lib.scale_by_backtracking_linesearch(30, 0.1, 0.5, np.inf, 2.0, store_grad=True),
        ),
        40,
    ),
    "backtracking tolerant": (
        lambda lib: lib.chain(
            lib.sgd(0.01),
            lib.scale_by_backtracking_linesearch(
                3, 0.5, 0.7, 1.2, 0.5, atol=0.1, rtol=0.01, store_grad=True
            ),
        ),
        40,
    ),
}
options = pytest.mark.parametrize(("build", "steps"), OPTIONS.values(), ids=OPTIONS)


@options
def test_options_against_optax(build, steps, x64):
    reuse = "alone" not in str(build) and build is not OPTIONS["lbfgs alone"][0]
    path, _, state = minimized(optim, build(optim), rosenbrock, steps, reuse=reuse)
    want, _, their_state = minimized(optax, build(optax), rosenbrock, steps, reuse=reuse)
    assert_trees_close(path, want, 1e-9)
    assert_trees_close(jax.tree.leaves(state), jax.tree.leaves(their_state), 1e-7)
