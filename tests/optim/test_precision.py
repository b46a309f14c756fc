"""Half precision, dtypes of states and updates, complex parameters."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxnets import optim
from jaxnets.optim.leaves import map_moments
from jaxnets.tree import flatten_with_paths
from tests.catalogue import OPTIMIZERS
from tests.numerics import assert_trees_close
from tests.optim.cases import core
from tests.optim.trajectories import gradients, make_params, run

pytestmark = pytest.mark.usefixtures("optimized")
CORE = {case.name for case in core.CASES}


def marks(case, dtype):
    if case.name in CORE:
        return ()
    return pytest.mark.thorough if dtype == jnp.float16 else pytest.mark.exhaustive


def dtypes(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{dtype.__name__}", marks=marks(case, dtype))
        for case in OPTIMIZERS
        for dtype in (jnp.float16, jnp.bfloat16)
    ],
)
def test_half_precision_steps(case, dtype):
    """Zero gradients do not move; others move as in float32, rounded once; dtypes stay."""
    params = case.params(dtype)
    if dtype == jnp.float16 and "tiny" in params:
        # float16 counts in steps of 6e-8 near 0
        del params["tiny"]
    optimizer = case.ours()
    state = optimizer.init(params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    wide_state = optimizer.init(wide)
    for t in range(2):
        grads = gradients(params, t)
        updates, new_state = optimizer.update(grads, state, params, **case.extra(params, grads))
        assert dtypes(updates) == dtypes(params)
        assert dtypes(new_state) == dtypes(state) == dtypes(wide_state)
        wide_grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        extra = case.extra(wide, wide_grads)
        want, wide_state = optimizer.update(wide_grads, wide_state, wide, **extra)
        if not (case.moves_at_zero or "decay" in case.name or "adamw" in case.name):
            np.testing.assert_array_equal(updates["still"], 0)
        assert_trees_close(updates, want, 3e-2)
        assert_trees_close(new_state, wide_state, 1e-2)
        state = new_state


@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float16, jnp.float16)],
)
@pytest.mark.parametrize(
    "name", ["sgd nesterov", "adagrad", "rmsprop momentum", "rmsprop centered", "adamw scheduled"]
)
def test_mixed_dtypes_stay_in_a_scan(name, param_dtype, grad_dtype):
    (optimizer,) = (case.ours() for case in OPTIMIZERS if case.name == name)
    params = make_params(param_dtype)
    last, state, updates = run(optimizer, params, steps=5, grad_dtype=grad_dtype)
    assert dtypes(last) == dtypes(params)
    assert dtypes(state) == dtypes(optimizer.init(params))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {
        jnp.dtype(jnp.promote_types(param_dtype, grad_dtype))
    }
    assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(last))


def test_float32_parameters_with_bfloat16_gradients_as_optax():
    params = make_params()
    for lib_name in ("adam", "adamw"):
        got = run(getattr(optim, lib_name)(0.01), params, 5, jnp.bfloat16)
        want = run(getattr(optax, lib_name)(0.01), params, 5, jnp.bfloat16)
        # Optax rounds (1 - b1) g to bfloat16
        assert_trees_close(got[0], want[0], 1e-3)


def test_small_second_moment_decays_in_bfloat16():
    """In bfloat16, `0.999 v` rounds back to `v`."""
    g = jnp.ones((2,), jnp.bfloat16)
    optimizer = optim.adam(0.1)
    state = optimizer.init(g)
    _, state = optimizer.update(g, state)
    before = state[0].nu
    for _ in range(10):
        _, state = optimizer.update(0 * g, state)
    np.testing.assert_allclose(state[0].nu, 0.999**10 * before, rtol=1e-5)


def test_mu_dtype():
    """The first moment is stored rounded, and used before it is rounded."""
    start, rate = np.array([1.0, -2.0, 3.0], np.float32), 0.1
    optimizer = optim.adam(rate, mu_dtype=jnp.bfloat16)
    params = jnp.asarray(start)
    state = optimizer.init(params)
    theta, m, v = np.float64(start), np.zeros(3), np.zeros(3)
    for t in range(1, 9):
        g = np.sin(np.arange(3.0) + t)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        theta = theta - rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = optim.apply_updates(params, updates)
        assert state[0].mu.dtype == jnp.bfloat16
        assert state[0].nu.dtype == jnp.float32
        np.testing.assert_allclose(np.float32(state[0].mu), m, rtol=4e-3, atol=1e-3)
        np.testing.assert_allclose(params, theta, rtol=2e-4)
        m = m.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


HESSIAN = {"hessian_diagonal_fn": optim.identity(), "clip_threshold": None}


@pytest.mark.parametrize(
    ("build", "steps"),
    [
        (optim.scale_by_adam, 1),
        (optim.scale_by_ademamix, 1),
        (optim.scale_by_adopt, 1),
        (optim.scale_by_novograd, 1),
        (partial(optim.scale_by_sophia, **HESSIAN), 1),
        (optim.scale_by_soap, 2),  # the first makes a basis only
    ],
)
def test_nu_dtype(build, steps):
    """The second moment is stored rounded, and used before it is; the first is not rounded."""
    params = jnp.array([[1.001, 0.3], [-0.7, 2.0]])
    exact, rounded = build(), build(nu_dtype=jnp.bfloat16)
    states = [tx.init(params) for tx in (exact, rounded)]
    for t in range(steps):
        pairs = zip((exact, rounded), states, strict=True)
        (want, state), (got, other) = (tx.update(jnp.sin(params + t), s, params) for tx, s in pairs)
        states = [state, other]
    np.testing.assert_array_equal(got, want)
    assert other.nu.dtype == jnp.bfloat16
    np.testing.assert_array_equal(other.nu, state.nu.astype(jnp.bfloat16))
    np.testing.assert_array_equal(*(s.m1 if hasattr(s, "m1") else s.mu for s in states))


@pytest.mark.parametrize(
    "alias",
    [
        optim.ademamix,
        optim.adopt,
        optim.sophia,
        optim.soap,
        optim.optimistic_adam,
        optim.optimistic_adam_v2,
        optim.muon,
    ],
    ids=lambda alias: alias.__name__,
)
def test_aliases_hand_on_the_dtype_of_nu(alias):
    state = alias(0.1, mu_dtype=jnp.float16, nu_dtype=jnp.bfloat16).init({"bias": jnp.ones(2)})
    leaves = flatten_with_paths(state).items()
    stored = {name: {x.dtype for path, x in leaves if f"/{name}/" in path} for name in ("nu", "mu")}
    assert stored["nu"] == {jnp.dtype("bfloat16")}
    assert stored["mu"] == (set() if alias is optim.ademamix else {jnp.dtype("float16")})
    assert inspect.signature(alias).parameters["nu_dtype"].kind == inspect.Parameter.KEYWORD_ONLY


def test_accumulator_dtype():
    optimizer = optim.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.bfloat16)
    params = jnp.ones(3)
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert state[0].trace.dtype == jnp.bfloat16


def test_new_mu_is_used_unrounded():
    g = jnp.float32(1.001)
    optimizer = optim.scale_by_adam(mu_dtype=jnp.bfloat16)
    update, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(update, 1, rtol=1e-4)
    optimizer = optim.trace(0.5, accumulator_dtype=jnp.bfloat16)
    update, _ = optimizer.update(g, optimizer.init(g))
    assert update == g


def test_weakly_typed_parameters():
    """Python numbers are parameters too; their states have one dtype from the start."""
    for case in OPTIMIZERS:
        optimizer = case.ours()
        other_params = case.by_path or case.params is not make_params
        if case.name == "adamw masked" or other_params:
            continue
        state = optimizer.init({"x": 1.0})
        extra = case.extra({"x": 1.0}, {"x": 0.5})
        updates, after = optimizer.update({"x": 0.5}, state, {"x": 1.0}, **extra)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        assert jnp.shape(updates["x"]) == ()


@pytest.mark.parametrize(
    "name",
    ["sgd nesterov", "rmsprop", "rmsprop centered", "adam", "adam nesterov", "clip by norm adamw"],
)
def test_complex_parameters(name, x64):
    """As Optax, whose second moments are complex numbers without imaginary part."""
    (case,) = (case for case in OPTIMIZERS if case.name == name)
    params = jnp.array([1 + 2j, -0.5j, 3.0], jnp.complex128)

    def trajectory(optimizer):
        z, state = params, optimizer.init(params)
        for t in range(5):
            updates, state = optimizer.update(jnp.sin(z + t) + 1j * t, state, z)
            z = z + updates
        return z, state

    got, state = trajectory(case.ours())
    want, _ = trajectory(case.theirs())
    np.testing.assert_allclose(got, want, rtol=1e-12)
    if "adam" in name:
        nu = state[-1][0].nu if "clip" in name else state[0].nu
        assert nu.dtype == jnp.float64


@pytest.mark.parametrize("integer", [jnp.arange(3), np.arange(3), jnp.array([True])])
def test_integers_are_refused(integer):
    """Where the first step would have rounded them; Python's own numbers are parameters."""
    params = {"a": jnp.ones(2), "layers": [{"kernel": integer}]}
    with pytest.raises(ValueError, match=r"parameters must be .* at 'layers/0/kernel'"):
        optim.adam(0.1).init(params)
    with pytest.raises(ValueError, match=r"gradients must be .* at 'layers/0/kernel'"):
        optim.sgd(0.1).update(params, optim.sgd(0.1).init(params), params)
    with pytest.raises(ValueError, match=r"at 'layers/0/kernel'"):
        jax.jit(optim.adam(0.1).init)(params)
    optim.adam(0.1).init({"a": 1})


def test_complex_adagrad():
    """Where Optax's fails: it compares a complex sum with 0."""
    g = jnp.array([3 + 4j], jnp.complex64)
    optimizer = optim.adagrad(1.0, 0.0, 0.0)
    updates, _ = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, -g / 5, rtol=1e-6)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
def test_centered_rmsprop_stays_finite(eps_in_sqrt):
    """Gradients of no variance; its estimate rounds below 0, and Optax's updates are NaN."""
    g = jnp.linspace(1.0, 200.0, 64)
    optimizer = optim.rmsprop(0.1, centered=True, eps_in_sqrt=eps_in_sqrt, bias_correction=True)
    step = jax.jit(optimizer.update)
    state = optimizer.init(g)
    for _ in range(8):
        updates, state = step(g, state)
        assert np.isfinite(updates).all()


def test_wide_gradients_of_narrow_parameters_in_float64(x64):
    params = make_params(jnp.float32)
    optimizer = optim.adamw(optim.cosine_decay_schedule(0.1, 10))
    last, state, _ = run(optimizer, params, steps=3)
    assert dtypes(last) == dtypes(params)
    assert dtypes(state) == dtypes(optimizer.init(params))


def test_arithmetic_of_half_precision_is_done_in_float32():
    """In float16 the square is 0."""
    g, moment = jnp.float16(1e-4), jnp.float16(1e-4)
    update, _ = map_moments(lambda g, m: (1e6 * g * g * m * 1e4, m), g, moment)
    np.testing.assert_allclose(update, 1e-2, rtol=1e-2)
