"""Every row of the catalogue against the same call of Optax, and inside Optax's combinators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.catalogue import OPTIMIZERS, optimizers
from tests.numerics import assert_trees_close, relative_error
from tests.optim.cases.case import FLOAT32
from tests.optim.trajectories import STEPS, all_gradients, gradients, run, scanned

cases = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)


# the first row of each optimizer: its numbers do not change how it nests
FIRST = {case.name.split()[0]: case for case in reversed(OPTIMIZERS) if case.theirs}
each = optimizers(FIRST.values(), pytest.mark.exhaustive)

with_optax = optimizers([case for case in OPTIMIZERS if case.theirs])

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


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def runs_close(ours, theirs, rtol, params, steps=STEPS, extra=None):
    got, want = run(ours, params, steps, extra=extra), run(theirs, params, steps, extra=extra)
    for a, b in zip(got, want, strict=True):
        leaves_close(a, b, rtol)
        assert dtypes(a) == dtypes(b)


def cut(tree, middle=STEPS // 2):
    return jax.tree.map(lambda x: x[:middle], tree), jax.tree.map(lambda x: x[middle:], tree)


@with_optax
def test_trajectory(case, x64):
    """300 steps beside Optax's in float64; the last 150 also from where Optax is."""
    params = case.params(jnp.float64)
    first, second = cut(all_gradients(params, STEPS))
    ours, theirs = case.ours(), case.theirs()
    scan, their_scan = scanned(ours, case.extra), scanned(theirs, case.extra)

    middle, updates = scan((params, ours.init(params)), first)
    (got, state), more_updates = scan(middle, second)
    their_middle, their_updates = their_scan((params, theirs.init(params)), first)
    (want, their_state), their_more_updates = their_scan(their_middle, second)
    assert_trees_close(got, want, case.rtol64)
    if case.same_updates:
        assert_trees_close(updates, their_updates, case.rtol64)
        assert_trees_close(more_updates, their_more_updates, case.rtol64)
    if case.same_state:
        leaves_close(state, their_state, case.rtol64)
        assert dtypes(state) == dtypes(their_state)
        taken_over = jax.tree.unflatten(jax.tree.structure(middle), jax.tree.leaves(their_middle))
        (got, state), _ = scan(taken_over, second)
        assert_trees_close(got, want, case.rtol64)
        leaves_close(state, their_state, case.rtol64)


@optimizers([case for case in OPTIMIZERS if case.theirs], pytest.mark.exhaustive)
def test_float32(case):
    """300 steps beside Optax's.

    Float32 itself is off by more: `1 - 0.999ᵗ` has lost three digits at the first step.
    """
    params = case.params()
    got, _, _ = run(case.ours(), params, extra=case.extra)
    want, _, _ = run(case.theirs(), params, extra=case.extra)
    assert_trees_close(got, want, case.rtol32)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case", [case for case in OPTIMIZERS if case.rtol32 > FLOAT32], ids=lambda case: case.name
)
def test_float32_is_as_near_to_float64_as_that_of_optax(case):
    """Where the two differ by more than they should, ours is not the one that is off."""
    ours, theirs = (
        run(make(), case.params(), extra=case.extra)[0] for make in (case.ours, case.theirs)
    )
    with jax.enable_x64(True):
        exact, _, _ = run(case.theirs(), case.params(jnp.float64), extra=case.extra)
    got, want = (
        max(map(relative_error, jax.tree.leaves(moved), jax.tree.leaves(exact)))
        for moved in (ours, theirs)
    )
    assert got <= want + FLOAT32


@optimizers(beyond=pytest.mark.exhaustive)
def test_jit_equals_eager(case):
    params = case.params()
    optimizer = case.ours()
    grads = gradients(params, 0)
    extra = case.extra(params, grads)
    updates, state = optimizer.update(grads, optimizer.init(params), params, **extra)
    jitted_updates, jitted_state = jax.jit(
        lambda grads, state, params: optimizer.update(grads, state, params, **extra)
    )(grads, optimizer.init(params), params)
    # the corrected variance of a first gradient is the rounding error of g² - g²
    rtol = 1e-2 if "centered corrected" in case.name else 1e-6
    assert_trees_close(jitted_updates, updates, rtol)
    assert_trees_close(jitted_state, state, 1e-6)


@cases
def test_one_trace_for_equal_optimizers(case):
    """An optimizer is a static argument: made again from the same arguments, nothing compiles."""
    chex.clear_trace_counter()
    params = case.params()

    @chex.assert_max_traces(n=1)
    def step(optimizer, grads, state, params):
        return optimizer.update(grads, state, params, **case.extra(params, grads))

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
    runs_close(combine(case.ours()), combine(case.theirs()), 5e-7, case.params(), steps=8)


@each
def test_nested_with_optax(case):
    """Ours inside Optax's chain, mask and MultiSteps, and that inside a chain of ours."""

    def nest(tx):
        # Optax hands extra arguments to this class only
        extra_args = optax.GradientTransformationExtraArgs
        every_third = extra_args(*optax.MultiSteps(extra_args(*tx), 3).gradient_transformation())
        masked = optax.masked(every_third, _by_rank)
        return optim.chain(optim.scale(2.0), optax.chain(masked, optax.scale(0.5)))

    ours, theirs = nest(case.ours()), nest(case.theirs())
    if case.same_state and case.same_updates:
        runs_close(ours, theirs, 2e-6, case.params(), steps=7, extra=case.extra)
    else:
        got = run(ours, case.params(), 7, extra=case.extra)
        want = run(theirs, case.params(), 7, extra=case.extra)
        assert_trees_close(got[0], want[0], 2e-6)


@few
def test_optax_inside_ours(case):
    ours = optim.chain(optim.scale(2.0), case.theirs(), optim.trace(0.5))
    theirs = optax.chain(optax.scale(2.0), case.theirs(), optax.trace(0.5))
    runs_close(ours, theirs, 5e-7, case.params(), steps=8)


@optimizers(beyond=pytest.mark.exhaustive)
def test_gradients_of_none_pass(case):
    """Their updates are None, and the state keeps its structure."""
    params = case.params()
    whole = gradients(params, 0)
    absent = {name: None for name in ("still", "empty") if name in params}
    grads = whole | absent
    optimizer = case.ours()
    state = optimizer.init(params)
    updates, after = optimizer.update(grads, state, params, **case.extra(params, whole))
    assert all(updates[name] is None for name in absent)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    moved = optim.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["still"], params["still"])
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    # the gradient of `still` is 0, so that all others move as if it were there
    all_updates, _ = optimizer.update(whole, state, params, **case.extra(params, whole))
    zeros = dict.fromkeys(absent, 0)
    assert_trees_close(updates | zeros, all_updates | zeros, 0.0)


@cases
def test_no_leaves(case):
    optimizer = case.ours()
    updates, _ = optimizer.update({}, optimizer.init({}), {}, **case.extra({}, {}))
    assert updates == {}


@cases
def test_params_of_another_structure_are_refused(case):
    params = case.params()
    optimizer = case.ours()
    state = optimizer.init(params)
    extra = case.extra(params, params)
    if not [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf)]:
        pytest.skip("keeps no moments")
    with pytest.raises(ValueError, match=r"same structure; in .*: added '"):
        optimizer.update({"dense": params["dense"]}, state, params, **extra)
    wrong = params | {"dense": {"kernel": jnp.ones((5, 1))}}
    with pytest.raises(ValueError, match=r"\(5, 1\).*\(5, 3\) at 'dense/kernel'"):
        optimizer.update(wrong, state, params, **extra)
