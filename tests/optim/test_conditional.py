"""Updates under conditions: finite gradients, certain steps, plateaus, lookahead's meetings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close, assert_trees_equal
from tests.optim.trajectories import STEPS, all_gradients, make_params, scanned

RNG = np.random.default_rng(0)
GRADIENTS = jnp.asarray(RNG.normal(size=(12, 5)), jnp.float32)
PARAMS = {"a": jnp.ones(5), "b": jnp.ones(())}


@partial(jax.jit, static_argnums=0)
def run(optimizer, gradients, params, **extra):
    """Parameters, state and updates of each step."""

    def step(carry, inputs):
        params, state = carry
        g, extra = inputs
        updates, state = optimizer.update(g, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state, updates)

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, (gradients, extra))[1]


def step_by_step(build, gradients, params, **extra):
    got, want = (run(build(lib), gradients, params, **extra) for lib in (optim, optax))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
        assert a.dtype == b.dtype
    return got


IF_FINITE = {
    (lib, most): lib.apply_if_finite(lib.adam(0.1), most)
    for lib in (optim, optax)
    for most in (0, 2)
}


@pytest.mark.parametrize("bad", [[], [0], [3, 4], [3, 4, 5, 6], [1, 2, 3, 5, 6, 7, 8, 10]])
@pytest.mark.parametrize("most", [0, 2])
def test_apply_if_finite_is_optax_at_every_step(bad, most):
    where = jnp.zeros(12, bool).at[jnp.array(bad, int)].set(True)
    gradients = {
        "a": GRADIENTS.at[:, 1].set(jnp.where(where, np.nan, GRADIENTS[:, 1])),
        "b": jnp.where(where, -np.inf, 1.0),
    }
    step_by_step(lambda lib: IF_FINITE[lib, most], gradients, PARAMS)


def test_gradients_left_out_reach_the_inner_update_as_zeros():
    """It runs at every step, and sees what is not finite only when that is let through."""
    seen = []

    def note(updates, state, params=None):
        jax.debug.callback(lambda g: seen.append(float(g)), updates)
        return updates, state

    optimizer = optim.apply_if_finite(optim.GradientTransformation(lambda params: (), note), 1)
    update, state = jax.jit(optimizer.update), optimizer.init(jnp.ones(()))
    for g in (1.0, np.nan, 2.0, np.inf, np.inf):
        _, state = update(jnp.float32(g), state)
        jax.effects_barrier()
    assert seen == [1.0, 0.0, 2.0, 0.0, np.inf]


@pytest.mark.parametrize(
    "wrap", [lambda tx: optim.apply_if_finite(tx, 2), optim.dynamic_loss_scale]
)
def test_left_out_gradients_leave_no_trace_in_derivatives(wrap):
    def moved(rate):
        optimizer = wrap(optim.adam(rate))
        params = jnp.ones(2)
        state = optimizer.init(params)
        for g in (1.0, np.nan, 1.0, np.inf):
            updates, state = optimizer.update(jnp.array([1.0, g]), state, params)
            params = optim.apply_updates(params, updates)
        return params.sum()

    assert jnp.isfinite(jax.jit(jax.grad(moved))(0.1))


def test_counts_what_is_not_finite():
    optimizer = optim.apply_if_finite(optim.adam(0.1), 2)
    update = jax.jit(optimizer.update)
    state = optimizer.init(jnp.ones(2))
    for g in (1.0, np.nan, 1.0, np.inf, np.inf, np.inf):
        _, state = update(jnp.array([1.0, g]), state)
    assert (state.notfinite_count, state.total_notfinite) == (3, 4)
    assert state.inner_state[0].count == 3
    assert not state.last_finite


def test_update_of_another_dtype_than_the_gradients():
    """Float32 parameters and half-precision gradients, where Optax's `cond` fails."""
    params, g = jnp.ones(3), jnp.ones(3, jnp.bfloat16)
    for build in (
        lambda tx: optim.apply_if_finite(tx, 2),
        lambda tx: optim.conditionally_mask(tx, lambda step: step > 0),
        lambda tx: optim.conditionally_transform(tx, lambda step: step > 0),
        lambda tx: optim.MultiSteps(tx, 2),
        optim.dynamic_loss_scale,
    ):
        optimizer = build(optim.adam(0.1))
        state = optimizer.init(params)
        for _ in range(2):
            updates, after = jax.jit(optimizer.update)(g, state, params)
            assert updates.dtype == jnp.float32
            assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
            state = after


def test_conditions_get_extra_arguments_on_request():
    g = jnp.ones(2)
    for wrap, otherwise in ((optim.conditionally_mask, 0.0), (optim.conditionally_transform, 1.0)):
        optimizer = wrap(optim.scale(2.0), lambda step, value: value < 1, forward_extra_args=True)
        state = optimizer.init(g)
        for value, want in ((0.5, 2.0), (1.5, otherwise)):
            updates, _ = jax.jit(optimizer.update)(g, state, value=value)
            np.testing.assert_array_equal(updates, want)


@pytest.mark.parametrize("reset_state", [False, True])
def test_lookahead(reset_state):
    def build(lib):
        return lib.lookahead(lib.adam(0.1), 3, slow_step_size=0.4, reset_state=reset_state)

    got, want = (
        run(build(lib), GRADIENTS, lib.LookaheadParams.init_synced(jnp.ones(5)))
        for lib in (optim, optax)
    )
    assert_trees_close(jax.tree.leaves(got), jax.tree.leaves(want), 2e-6)
    slow, fast = got[0].slow, got[0].fast
    np.testing.assert_array_equal(slow[:2], 1)
    np.testing.assert_allclose(slow[2], 1 + 0.4 * (fast[1] + _adam_step(3) - 1), rtol=1e-4)
    np.testing.assert_allclose(fast[2], slow[2], rtol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("reset_state", [False, True])
def test_lookahead_in_float64(reset_state, x64):
    """300 steps, with momenta that a meeting keeps or forgets."""
    params = make_params(jnp.float64)

    def final(lib):
        optimizer = lib.lookahead(lib.adam(0.01), 7, 0.4, reset_state=reset_state)
        start = lib.LookaheadParams.init_synced(params)
        (moved, state), _ = scanned(optimizer)(
            (start, optimizer.init(start)), all_gradients(params, STEPS)
        )
        return jax.tree.leaves((moved, state))

    assert_trees_close(final(optim), final(optax), 1e-12)


def _adam_step(t):
    """The `t`-th update of Adam (0.1) in float64."""
    g = np.float64(GRADIENTS[:t])
    weights = np.arange(t)[::-1, None]
    m = (0.1 * 0.9**weights * g).sum(0) / (1 - 0.9**t)
    v = (0.001 * 0.999**weights * g**2).sum(0) / (1 - 0.999**t)
    return -0.1 * m / (np.sqrt(v) + 1e-8)


def test_lookahead_without_a_gradient():
    optimizer = optim.lookahead(optim.adam(0.1), 1, 0.5)
    params = optim.LookaheadParams.init_synced(PARAMS)
    updates, _ = optimizer.update({"a": None, "b": jnp.ones(())}, optimizer.init(params), params)
    assert updates.fast["a"] is updates.slow["a"] is None
    moved = optim.apply_updates(params, updates)
    np.testing.assert_allclose(moved.fast["b"], 0.95, rtol=1e-6)
    assert_trees_equal(optimizer.init(PARAMS), optimizer.init(params))
    with pytest.raises(ValueError, match="lookahead: params must be LookaheadParams"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


PLATEAU = {"factor": 0.5, "patience": 2, "rtol": 1e-2, "cooldown": 2, "min_scale": 0.2}


@pytest.mark.parametrize(
    ("accumulation_size", "falls"),
    [
        # the best value is the twelfth's: 2 of patience, then each time 2 of cooling and 2 more
        (1, [13, 17, 21]),
        # the same in means of three, but that of the steps 42 to 44 is lower by a hundredth
        (3, [20, 32, 50]),
    ],
)
def test_reduce_on_plateau(accumulation_size, falls):
    values = 1.0 / jnp.arange(1.0, 61.0).at[12:].set(12.0) + 0.001 * jnp.sin(jnp.arange(60.0))

    def build(lib):
        contrib = lib if lib is optim else lib.contrib
        return lib.chain(
            lib.sgd(0.1),
            contrib.reduce_on_plateau(**PLATEAU, accumulation_size=accumulation_size),
        )

    _, state, _ = step_by_step(build, jnp.ones((60, 2)), jnp.ones(2), value=values)
    scales = np.asarray(state[-1].scale)
    assert (1 + np.flatnonzero(np.diff(scales))).tolist() == falls
    np.testing.assert_array_equal(scales[falls], np.float32([0.5, 0.25, 0.2]))


def test_plateau_of_means_in_float64(x64):
    """300 values that fall ever more slowly, and not always."""
    steps = jnp.arange(float(STEPS))
    values = 1 / (1 + steps) + 0.01 * jnp.sin(steps)

    def final(lib):
        contrib = lib if lib is optim else lib.contrib
        optimizer = contrib.reduce_on_plateau(0.7, 3, 1e-3, cooldown=2, accumulation_size=2)
        _, state, updates = run(optimizer, jnp.ones((STEPS, 2)), jnp.ones(2), value=values)
        return jax.tree.leaves((state, updates))

    got, want = final(optim), final(optax)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert len(np.unique(got[-1])) > 10


def test_plateau_by_hand():
    """Two values that do not improve halve the steps; two more are cooling down."""
    optimizer = optim.reduce_on_plateau(factor=0.5, patience=2, cooldown=2)
    state = optimizer.init(jnp.ones(2, jnp.float16))
    assert state.scale.dtype == jnp.float32
    scales = []
    for value in (1.0, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.1):
        updates, state = optimizer.update(jnp.ones(2, jnp.float16), state, value=value)
        scales.append(float(updates[0]))
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(("rtol", "atol"), [(0.1, 0.0), (0.0, 0.1)])
def test_plateau_of_small_improvements(rtol, atol):
    """0.95 and 0.92 are no improvement on 1 by a tenth, 0.85 is."""
    optimizer = optim.reduce_on_plateau(factor=0.5, patience=2, rtol=rtol, atol=atol)
    for last, scale in ((0.92, 0.5), (0.85, 1.0)):
        state = optimizer.init(jnp.ones(2))
        for value in (1.0, 0.95, last):
            updates, state = optimizer.update(jnp.ones(2), state, value=value)
        np.testing.assert_array_equal(updates, scale)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.reduce_on_plateau(factor=1.0), r"factor must be in \(0, 1\), got 1.0"),
        (lambda: optim.reduce_on_plateau(rtol=0.0), "one of rtol and atol must be > 0"),
        (lambda: optim.reduce_on_plateau(patience=-1), "patience must be an integer >= 0"),
        (lambda: optim.lookahead(optim.sgd(0.1), 0, 0.5), "sync_period must be an integer >= 1"),
        (lambda: optim.lookahead(optim.sgd(0.1), 2, -0.5), "slow_step_size must be"),
        (lambda: optim.apply_if_finite(optim.sgd(0.1), -1), "max_consecutive_errors must be"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_plateau_needs_a_value():
    optimizer = optim.reduce_on_plateau()
    with pytest.raises(ValueError, match=r"update\(gradients, state, params, value=loss\)"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def test_flatten_keeps_one_vector():
    optimizer = optim.flatten(optim.adam(0.1))
    params = PARAMS | {"half": jnp.ones((2, 3), jnp.bfloat16)}
    state = optimizer.init(params)
    assert state[0].mu.shape == (12,)
    updates, _ = optimizer.update(params, state)
    assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, params)
    with pytest.raises(ValueError, match="flatten: the size of a gradient of None"):
        optimizer.update(params | {"half": None}, state)


@pytest.mark.parametrize(
    "wrap", [lambda tx: optim.apply_if_finite(tx, 2), optim.dynamic_loss_scale]
)
def test_gradients_of_integers(wrap):
    params = {"w": jnp.ones(2), "n": jnp.arange(3)}
    optimizer = wrap(optim.freeze("n", optim.adam(0.1)))
    gradients = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    moved = optim.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["n"], params["n"])
    assert moved["w"][0] < 1
