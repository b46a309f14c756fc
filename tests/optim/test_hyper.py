"""Hyper-parameters as numbers, traced arrays and schedules."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.catalogue import thorough_beyond
from tests.numerics import assert_trees_close, assert_trees_equal
from tests.optim.cases import adam, adaptive_rates, matrices, norms_and_signs
from tests.optim.trajectories import gradients, make_params, run

# each numeric hyper-parameter with a range to sweep, and a constructor that takes only it
CORE = {
    "learning_rate": (lambda x: optim.adam(x), [1e-3, 1e-2]),
    "momentum": (lambda x: optim.sgd(0.1, momentum=x), [0.5, 0.9]),
    "momentum nesterov": (lambda x: optim.sgd(0.1, momentum=x, nesterov=True), [0.5, 0.9]),
    "initial_accumulator_value": (lambda x: optim.adagrad(0.1, x), [0.1, 1.0]),
    "adagrad eps": (lambda x: optim.adagrad(0.1, eps=x), [1e-7, 1e-2]),
    "decay": (lambda x: optim.rmsprop(0.1, decay=x), [0.5, 0.9]),
    "decay corrected": (lambda x: optim.rmsprop(0.1, x, bias_correction=True), [0.5, 0.9]),
    "decay centered": (lambda x: optim.rmsprop(0.1, x, centered=True, eps=1e-3), [0.5, 0.9]),
    "rmsprop eps": (lambda x: optim.rmsprop(0.1, eps=x), [1e-8, 1e-3]),
    "initial_scale": (lambda x: optim.rmsprop(0.1, initial_scale=x), [0.1, 1.0]),
    "b1": (lambda x: optim.adam(0.1, b1=x), [0.5, 0.9]),
    "b1 nesterov": (lambda x: optim.adam(0.1, b1=x, nesterov=True), [0.5, 0.9]),
    "b2": (lambda x: optim.adam(0.1, b2=x), [0.9, 0.99]),
    "adam eps": (lambda x: optim.adam(0.1, eps=x), [1e-8, 1e-3]),
    "eps_root": (lambda x: optim.adam(0.1, eps_root=x), [1e-8, 1e-3]),
    "weight_decay": (lambda x: optim.adamw(0.1, weight_decay=x, mask="kernel$"), [0.0, 0.1]),
    "step_size": (lambda x: optim.scale(x), [-0.1, 0.1]),
    "max_delta": (lambda x: optim.clip(x), [0.1, 1.0]),
    "max_norm": (lambda x: optim.clip_by_global_norm(x), [0.1, 1.0]),
}
SWEEPS = CORE | adam.SWEEPS | norms_and_signs.SWEEPS | matrices.SWEEPS | adaptive_rates.SWEEPS
sweeps = pytest.mark.parametrize(
    ("build", "values"), thorough_beyond(CORE, SWEEPS, pytest.mark.exhaustive)
)


@sweeps
def test_sweep(build, values, x64):
    """A `vmap` is a loop, a constant schedule is its number, and stairs take effect at their step.

    On a matrix and a vector: what hyper-parameters do is done in each leaf alike. In float64, where
    a few still compute a rate or a decay in float32, as Optax does.
    """
    params = make_params(jnp.float64)
    params = {"dense": params["dense"], "bias": params["tiny"]}
    grads = [gradients(params, t) for t in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)

    def scanned_updates(hyper):
        optimizer = build(hyper)

        def step(state, g):
            updates, state = optimizer.update(g, state, params)
            return state, updates

        return jax.lax.scan(step, optimizer.init(params), stacked)[1]

    def eager_steps(optimizer):
        state, steps = optimizer.init(params), []
        for g in grads:
            updates, state = optimizer.update(g, state, params)
            steps.append((updates, state))
        return steps

    loop = [eager_steps(build(value)) for value in values]
    constant = build(optim.constant_schedule(values[1]))
    assert constant == build(optim.constant_schedule(values[1]))
    for (got, _), (want, _) in zip(eager_steps(constant), loop[1], strict=True):
        assert_trees_close(got, want, 1e-6)

    assert values[0] != values[1]
    swept, on_stairs = jax.jit(
        lambda values: (
            jax.vmap(scanned_updates)(values),
            scanned_updates(lambda step: jnp.where(step < 1, *values)),
        )
    )(jnp.asarray(values))
    for i, steps in enumerate(loop):
        for t, (want, _) in enumerate(steps):
            assert_trees_close(jax.tree.map(lambda x, at=(i, t): x[at], swept), want, 1e-6)

    if build in [build for name, (build, _) in SWEEPS.items() if "initial" in name]:
        return  # used at init only
    # the first step sees 0, the next one 1
    first, state = loop[0][0]
    second, _ = build(values[1]).update(grads[1], state, params)
    for t, want in enumerate((first, second)):
        assert_trees_close(jax.tree.map(lambda x, t=t: x[t], on_stairs), want, 1e-6)


def test_scheduled_momentum_against_inject_hyperparams():
    params = make_params()
    ours = optim.sgd(0.1, momentum=optim.linear_schedule(0.5, 0.95, 10))
    theirs = optax.inject_hyperparams(optax.sgd)(0.1, momentum=optax.linear_schedule(0.5, 0.95, 10))
    got, _, _ = run(ours, params, steps=15)
    want, _, _ = run(theirs, params, steps=15)
    assert_trees_close(got, want, 1e-6)


def test_inside_inject_hyperparams():
    params = make_params()
    runs = [
        run(optax.inject_hyperparams(lib.adamw)(0.1, b1=0.8, weight_decay=0.1), params, steps=5)
        for lib in (optim, optax)
    ]
    assert_trees_close(runs[0][0], runs[1][0], 1e-6)
    assert float(runs[0][1].hyperparams["learning_rate"]) == np.float32(0.1)


def test_sweep_is_traced_once():
    chex.clear_trace_counter()
    params = make_params()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def train(learning_rate, b1):
        return run(optim.adam(learning_rate, b1=b1), params, steps=3)[0]

    train(1e-3, 0.9)
    train(1e-2, 0.8)


def test_derivative_with_respect_to_the_learning_rate():
    params = make_params()

    def loss(learning_rate):
        optimizer = optim.adam(learning_rate)
        updates, _ = optimizer.update(gradients(params, 0), optimizer.init(params), params)
        return sum(jnp.sum(u) for u in jax.tree.leaves(updates))

    np.testing.assert_allclose(jax.grad(loss)(0.1), loss(1.0), rtol=1e-5)


def test_numpy_scalars_are_numbers(x64):
    """They do not make float32 parameters' updates float64."""
    params = make_params(jnp.float32)
    plain, numpy = optim.adam(0.01, b1=0.5), optim.adam(np.float64(0.01), b1=np.array(0.5))
    assert plain == numpy
    updates, _ = numpy.update(params, numpy.init(params), params)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("float32")}


def test_not_cast_to_bfloat16():
    """In bfloat16, 0.999 is 1 and `v̂` is 0 / 0."""
    params = jnp.ones((3,), jnp.bfloat16)
    for b2 in (0.999, jnp.float32(0.999), lambda step: 0.999):
        optimizer = optim.adam(0.1, b2=b2)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(np.float32(updates), -0.1, rtol=1e-2)


def test_equal_only_when_all_is_equal():
    assert optim.adam(1e-3) == optim.adam(learning_rate=1e-3)
    assert optim.adam(1e-3) == optim.adam(1e-3, 0.9)
    different = {
        optim.adam(1e-3),
        optim.adam(1e-2),
        optim.adam(1e-3, b1=0.8),
        optim.adam(1e-3, nesterov=True),
        optim.adam(1e-3, mu_dtype=jnp.bfloat16),
        optim.adamw(1e-3),
        optim.adamw(1e-3, mask="kernel$"),
        optim.adamw(1e-3, mask={"kernel": True}),
        optim.chain(optim.adam(1e-3)),
        optim.scale(1),
        optim.scale(1.0),
        optim.adam(optim.constant_schedule(1e-3)),
        optim.adam(1e-3, b1=optim.constant_schedule(0.9)),
    }
    assert len(different) == 13
    assert optim.identity().init != optim.identity().update


def test_arrays_are_equal_only_to_themselves():
    rate = jnp.float32(1e-3)
    optimizer = optim.adam(rate)
    assert optimizer == optimizer
    assert optimizer != optim.adam(rate)
    params = make_params()
    state = optimizer.init(params)
    step = jax.jit(lambda tx, g, s: tx.update(g, s), static_argnums=0)
    want = jax.jit(optim.adam(1e-3).update)(params, state)
    assert_trees_equal(step(optimizer, params, state), want)


def test_jitted_updates_of_different_optimizers_are_not_confused():
    g = jnp.ones(())
    for rate in (0.1, 0.2, 0.1):
        optimizer = optim.sgd(rate)
        updates, _ = jax.jit(optimizer.update)(g, optimizer.init(g))
        assert float(updates) == -np.float32(rate)


def test_names():
    assert repr(optim.identity().init) == "<identity.init>"
    assert jax.jit(optim.adam(1e-3).update).__name__ == "chain.update"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.adam(-1e-3), "adam: learning_rate must be finite and >= 0, got -0.001"),
        (lambda: optim.sgd(float("nan")), "sgd: learning_rate must be finite and >= 0, got nan"),
        (lambda: optim.sgd(float("inf")), "sgd: learning_rate must be finite"),
        (lambda: optim.sgd(np.float32(-1)), "sgd: learning_rate must be finite and >= 0"),
        (lambda: optim.sgd(None), "sgd: learning_rate must be a number, an array or a schedule"),
        (lambda: optim.sgd("0.1"), "sgd: learning_rate must be a number.*got '0.1'"),
        (lambda: optim.sgd(jnp.ones(3)), r"must be a scalar, got shape \(3,\).*vmap"),
        (lambda: optim.sgd(np.ones(3)), r"must be a scalar, got shape \(3,\).*vmap"),
        (lambda: optim.sgd(0.1, momentum=1.5), r"sgd: momentum must be in \[0, 1\], got 1.5"),
        (lambda: optim.adam(0.1, b1=1.0), r"adam: b1 must be in \[0, 1\), got 1.0"),
        (lambda: optim.adam(0.1, b2=-0.1), r"adam: b2 must be in \[0, 1\), got -0.1"),
        (lambda: optim.adam(0.1, eps=-1e-8), "adam: eps must be finite and >= 0, got -1e-08"),
        (lambda: optim.adam(0.1, eps_root=-1.0), "eps_root"),
        (lambda: optim.adamw(0.1, weight_decay=-0.1), "adamw: weight_decay"),
        (lambda: optim.adagrad(0.1, -0.1), "adagrad: initial_accumulator_value"),
        (lambda: optim.rmsprop(0.1, decay=1.0), r"rmsprop: decay must be in \[0, 1\)"),
        (lambda: optim.rmsprop(0.1, momentum=-0.5), r"rmsprop: momentum"),
        (lambda: optim.rmsprop(0.1, initial_scale=-0.5), r"rmsprop: initial_scale"),
        (lambda: optim.clip(0.0), "clip: max_delta must be > 0, got 0.0"),
        (lambda: optim.clip_by_global_norm(-1.0), "clip_by_global_norm: max_norm must be > 0"),
        (lambda: optim.clip_by_global_norm(0), "clip_by_global_norm: max_norm must be > 0, got 0"),
        (lambda: optim.scale(float("nan")), "scale: step_size must be a number, got nan"),
        (lambda: optim.trace(None), "trace: decay must be a number"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("rate", [jnp.float32(-1), np.float32(-1), jnp.float32(np.nan)])
def test_bad_values_of_arrays_that_are_not_traced(rate):
    with pytest.raises(ValueError, match=r"adam: learning_rate must be finite and >= 0, got"):
        optim.adam(rate)


def test_a_list_is_no_transformation():
    with pytest.raises(TypeError, match=r"must be a transformation, .* got list"):
        optim.chain([optim.adam(0.1), optim.clip(1.0)])


def test_bad_value_of_a_schedule():
    optimizer = optim.adam(0.1, b1=lambda step: 1.0)
    with pytest.raises(ValueError, match=r"scale_by_adam: b1 must be in \[0, 1\), got 1.0"):
        optimizer.init(jnp.ones(2))


def test_no_learning_rate():
    """As in Optax, no scaling: not even the sign."""
    updates, _ = optim.scale_by_learning_rate().update(jnp.ones(2), optim.EmptyState())
    np.testing.assert_array_equal(updates, 1.0)
    up = optim.scale_by_learning_rate(0.5, flip_sign=False)
    np.testing.assert_array_equal(up.update(jnp.ones(2), up.init(None))[0], 0.5)
    up = optim.scale_by_learning_rate(optim.constant_schedule(0.5), flip_sign=False)
    np.testing.assert_array_equal(up.update(jnp.ones(2), up.init(None))[0], 0.5)
