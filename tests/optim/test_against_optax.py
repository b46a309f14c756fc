"""Every row of the catalogue against the same call of Optax, and inside Optax's combinators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.catalogue import OPTIMIZERS
from tests.numerics import assert_trees_close
from tests.optim.trajectories import STEPS, gradients, make_params, run

cases = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)


# one row for each way that updates and states can be made
few = pytest.mark.parametrize(
    "case",
    [
        case
        for case in OPTIMIZERS
        if case.name in {"sgd cosine", "rmsprop centered", "adamw masked", "clip by norm adamw"}
    ],
    ids=lambda case: case.name,
)


def leaves_close(got, want, rtol):
    """Leaf by leaf in order: the classes of the states are not the same, what they hold is."""
    assert_trees_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype


def runs_close(ours, theirs, rtol, dtype=jnp.float32, steps=STEPS):
    params = make_params(dtype)
    got, want = run(ours, params, steps), run(theirs, params, steps)
    for a, b in zip(got, want, strict=True):
        leaves_close(a, b, rtol)


@cases
def test_float32_trajectory(case):
    runs_close(case.ours(), case.theirs(), rtol=5e-7)


@cases
def test_float64_trajectory(case, x64):
    runs_close(case.ours(), case.theirs(), rtol=1e-12, dtype=jnp.float64)


@cases
def test_continues_from_a_state_of_optax(case):
    params = make_params()
    ours, theirs = case.ours(), case.theirs()
    their_state = theirs.init(params)
    _, their_state = theirs.update(gradients(params, 0), their_state, params)
    state = jax.tree.unflatten(jax.tree.structure(ours.init(params)), jax.tree.leaves(their_state))
    grads = gradients(params, 1)
    got = ours.update(grads, state, params)
    want = theirs.update(grads, their_state, params)
    leaves_close(got, want, rtol=1e-6)


@cases
def test_jit_equals_eager(case):
    params = make_params()
    optimizer = case.ours()
    grads = gradients(params, 0)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    jitted_updates, jitted_state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    # the corrected variance of a first gradient is the rounding error of g² - g²
    rtol = 1e-2 if "centered corrected" in case.name else 1e-6
    assert_trees_close(jitted_updates, updates, rtol)
    assert_trees_close(jitted_state, state, 1e-6)


@cases
def test_one_trace_for_equal_optimizers(case):
    """An optimizer is a static argument: made again from the same arguments, nothing compiles."""
    chex.clear_trace_counter()
    params = make_params()

    @chex.assert_max_traces(n=1)
    def step(optimizer, grads, state, params):
        return optimizer.update(grads, state, params)

    jitted = jax.jit(step, static_argnums=0)
    state = case.ours().init(params)
    for _ in range(3):
        assert case.ours() == case.ours()
        assert hash(case.ours()) == hash(case.ours())
        jitted.eval_shape(case.ours(), params, state, params)


def _by_rank(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def _labels(params):
    return jax.tree.map(lambda x: "a" if x.ndim > 1 else "b", params)


COMBINATORS = {
    "chain": lambda tx: optax.chain(optax.scale(2.0), tx, optax.ema(0.5)),
    "masked": lambda tx: optax.masked(tx, _by_rank),
    "multi_transform": lambda tx: optax.multi_transform({"a": tx, "b": optax.sgd(0.1)}, _labels),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 3).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
}


@few
@pytest.mark.parametrize("combinator", COMBINATORS)
def test_inside_optax(case, combinator):
    combine = COMBINATORS[combinator]
    runs_close(combine(case.ours()), combine(case.theirs()), rtol=5e-7, steps=8)


@few
def test_optax_inside_ours(case):
    ours = optim.chain(optim.scale(2.0), case.theirs(), optim.trace(0.5))
    theirs = optax.chain(optax.scale(2.0), case.theirs(), optax.trace(0.5))
    runs_close(ours, theirs, rtol=5e-7, steps=8)


@cases
def test_gradients_of_none_pass(case):
    """Their updates are None, and the state keeps its structure."""
    params = make_params()
    whole = gradients(params, 0)
    grads = whole | {"still": None, "empty": None}
    optimizer = case.ours()
    state = optimizer.init(params)
    updates, after = optimizer.update(grads, state, params)
    assert updates["still"] is None
    assert updates["empty"] is None
    assert jax.tree.structure(after) == jax.tree.structure(state)
    moved = optim.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["still"], params["still"])
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    # the gradient of `still` is 0, so that all others move as if it were there
    all_updates, _ = optimizer.update(whole, state, params)
    assert_trees_close(
        updates | {"still": 0, "empty": 0}, all_updates | {"still": 0, "empty": 0}, 0.0
    )


@cases
def test_no_leaves(case):
    optimizer = case.ours()
    updates, _ = optimizer.update({}, optimizer.init({}), {})
    assert updates == {}


@cases
def test_params_of_another_structure_are_refused(case):
    params = make_params()
    optimizer = case.ours()
    state = optimizer.init(params)
    if not [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf)]:
        pytest.skip("keeps no moments")
    with pytest.raises(ValueError, match="same structure"):
        optimizer.update({"dense": params["dense"]}, state, params)
    wrong = params | {"dense": {"kernel": jnp.ones((5, 1))}}
    with pytest.raises(ValueError, match=r"\(5, 1\).*\(5, 3\) at 'dense/kernel'"):
        optimizer.update(wrong, state, params)
