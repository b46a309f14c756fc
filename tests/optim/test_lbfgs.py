"""L-BFGS and the line searches, on functions that are their own judges."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxnets import optim
from tests.catalogue import thorough_beyond
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
functions = pytest.mark.parametrize(
    "function",
    thorough_beyond({"styblinski"}, {name: (function,) for name, function in FUNCTIONS.items()}),
)


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
        300,
    ),
    "backtracking": (
        lambda lib: lib.chain(
            lib.sgd(1.0),
            lib.scale_by_backtracking_linesearch(30, 0.1, 0.5, np.inf, 2.0, store_grad=True),
        ),
        300,
    ),
    "backtracking tolerant": (
        lambda lib: lib.chain(
            lib.sgd(0.01),
            lib.scale_by_backtracking_linesearch(
                3, 0.5, 0.7, 1.2, 0.5, atol=0.1, rtol=0.01, store_grad=True
            ),
        ),
        300,
    ),
}
options = pytest.mark.parametrize(
    ("build", "steps"), thorough_beyond({"backtracking tolerant", "zoom strict"}, OPTIONS)
)


@options
def test_options_against_optax(build, steps, x64):
    """As long as neither chaos nor, at the minimum, rounding decides."""
    reuse = build is not OPTIONS["lbfgs alone"][0]
    path, _, state = minimized(optim, build(optim), rosenbrock, steps, reuse=reuse)
    want, _, their_state = minimized(optax, build(optax), rosenbrock, steps, reuse=reuse)
    assert_trees_close(path, want, 1e-9)
    assert_trees_close(jax.tree.leaves(state), jax.tree.leaves(their_state), 1e-7)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["lbfgs", *OPTIONS])
def test_300_steps(name, x64):
    """To a minimum, and staying there."""
    build = (lambda lib: lib.lbfgs()) if name == "lbfgs" else OPTIONS[name][0]
    (path, values, _), (want, their_values, _) = (
        minimized(lib, build(lib), styblinski, 300, reuse=name != "lbfgs alone")
        for lib in (optim, optax)
    )
    assert_trees_close(path, want, 1e-12)
    assert_trees_close(values, their_values, 1e-12)


def two_loops(gradient, S, Y, scaling):
    """Nocedal's recursion, from the newest step to the oldest and back; lists, oldest first."""
    q, alphas = gradient, []
    for s, y in zip(S[::-1], Y[::-1], strict=True):
        alphas.append(s @ q / (s @ y))
        q = q - alphas[-1] * y
    r = scaling * q
    for s, y, alpha in zip(S, Y, alphas[::-1], strict=True):
        r = r + s * (alpha - y @ r / (s @ y))
    return r


def test_two_loops(x64):
    """Seven steps with a memory of three; the third step's gradient change is orthogonal to it."""
    optimizer = optim.scale_by_lbfgs(memory_size=3)
    update = jax.jit(optimizer.update)
    rng = np.random.default_rng(0)
    points, gradients = rng.normal(size=(2, 7, 5))
    gradients[3] = gradients[2]
    state = optimizer.init(jnp.zeros(5))
    S, Y = [], []
    for t, (x, g) in enumerate(zip(points, gradients, strict=True)):
        got, state = update(jnp.asarray(g), state, jnp.asarray(x))
        scaling = 1 / max(1, np.linalg.norm(g))
        if t > 0:
            S, Y = [*S, x - points[t - 1]][-3:], [*Y, g - gradients[t - 1]][-3:]
            scaling = S[-1] @ Y[-1] / (Y[-1] @ Y[-1]) if Y[-1].any() else 1.0
        known = [(s, y) for s, y in zip(S, Y, strict=True) if s @ y != 0]
        want = two_loops(g, [s for s, _ in known], [y for _, y in known], scaling)
        np.testing.assert_allclose(got, want, rtol=1e-11)
        if t > 0:
            memory = state.diff_params_memory, state.diff_updates_memory
            np.testing.assert_array_equal([m[(t - 1) % 3] for m in memory], [S[-1], Y[-1]])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rosenbrock", "quadratic", "styblinski"])
def test_scipy(name, x64):
    """As few steps and evaluations as SciPy's L-BFGS-B, within a half, from the same start."""
    function = FUNCTIONS[name]

    def flat(x):
        return function({"a": x[:-1], "b": x[-1]})

    begin = np.random.default_rng(1).normal(size=20)
    value_and_grad = jax.jit(jax.value_and_grad(flat))
    theirs = minimize(
        lambda x: tuple(map(np.asarray, value_and_grad(x))),
        begin,
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 10, "gtol": 1e-5, "ftol": 0},
    )

    def step(carry, _):
        x, state, evaluations = carry
        value, grad = optim.value_and_grad_from_state(flat)(x, state=state)
        updates, state = optimizer.update(grad, state, x, value=value, grad=grad, value_fn=flat)
        evaluations += state[-1].info.num_linesearch_steps
        return (x + updates, state, evaluations), (jnp.abs(state[-1].grad).max(), evaluations)

    optimizer = optim.lbfgs()
    carry = (jnp.asarray(begin), optimizer.init(jnp.asarray(begin)), 1)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=200))
    (x, _, _), (sizes, evaluations) = run(carry)
    steps = int(np.argmax(sizes <= 1e-5)) + 1
    assert sizes[steps - 1] <= 1e-5
    assert steps <= 1.5 * theirs.nit + 2
    assert evaluations[steps - 1] <= 1.5 * theirs.nfev + 2
    if name != "styblinski":
        # that one has a minimum in every orthant
        np.testing.assert_allclose(flat(x), theirs.fun, atol=1e-8)


@pytest.mark.thorough
def test_float32_and_half_precision():
    """States are float32, updates of the parameters' dtype, and the loss falls."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = start(dtype)
        path, values, state = minimized(optim, optim.lbfgs(), styblinski, 12, params)
        kinds = {leaf.dtype for leaf in jax.tree.leaves(state)}
        assert kinds == {jnp.dtype("int32"), jnp.dtype("float32")}
        assert path["a"].dtype == dtype
        assert values[-1] < values[0] - 50


@pytest.mark.thorough
def test_gradients_of_none():
    """Their parameters stay, and nothing of them enters."""
    params = start(jnp.float32)
    still = {"fixed": jnp.ones(3)}

    def function(p):
        return rosenbrock(p) + jnp.sum(p["fixed"] ** 2)

    optimizer = optim.lbfgs()
    whole, state = params | still, optimizer.init(params | still)
    want, other = params, optimizer.init(params)
    for _ in range(4):
        value, grad = jax.value_and_grad(function)(whole)
        grad = grad | {"fixed": None}
        updates, state = optimizer.update(
            grad, state, whole, value=value, grad=grad, value_fn=function
        )
        assert updates["fixed"] is None
        whole = optim.apply_updates(whole, updates)
        value, grad = jax.value_and_grad(rosenbrock)(want)
        updates, other = optimizer.update(
            grad, other, want, value=value, grad=grad, value_fn=rosenbrock
        )
        want = optim.apply_updates(want, updates)
    np.testing.assert_array_equal(whole["fixed"], 1)
    assert_trees_close({k: whole[k] for k in params}, want, 1e-3)


@pytest.mark.thorough
def test_complex_parameters(x64):
    """As Optax, with conjugated gradients."""

    def function(z):
        return jnp.sum(jnp.abs(z - (1 + 2j)) ** 2 * jnp.array([1.0, 7.0]))

    def final(lib, optimizer):
        z = jnp.array([0.5 - 1j, 2j])
        state = optimizer.init(z)
        for _ in range(5):
            value, grad = jax.value_and_grad(function)(z)
            grad = jnp.conj(grad)
            updates, state = optimizer.update(
                grad, state, z, value=value, grad=grad, value_fn=function
            )
            z = z + updates
        return z

    got = final(optim, optim.lbfgs())
    np.testing.assert_allclose(got, final(optax, optax.lbfgs()), rtol=1e-9)
    np.testing.assert_allclose(got, 1 + 2j, rtol=1e-3)


@pytest.mark.thorough
def test_vmap_over_starts(x64):
    def final(scale):
        params = jax.tree.map(lambda x: scale * x, start())
        return minimized(optim, optim.lbfgs(), rosenbrock, 8, params)[1]

    scales = jnp.array([0.5, 1.0])
    np.testing.assert_allclose(
        jax.vmap(final)(scales), jnp.stack([final(s) for s in scales]), rtol=1e-6
    )


def test_conditions_hold(x64):
    """Wolfe's two, at the rates found for directions that are too short, and too long."""
    optimizer = optim.scale_by_zoom_linesearch(
        30, slope_rtol=0.3, curv_rtol=0.5, approx_dec_rtol=None
    )
    params = jnp.array([-1.2, 1.0, 0.5])

    def function(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    value, grad = jax.value_and_grad(function)(params)

    def searched(length):
        updates, state = optimizer.update(
            -length * grad,
            optimizer.init(params),
            params,
            value=value,
            grad=grad,
            value_fn=function,
        )
        return updates, state, jax.value_and_grad(function)(params + updates)

    lengths = np.logspace(-5, 1, 40)
    updates, state, (values, grads) = jax.jit(jax.vmap(searched))(lengths)
    np.testing.assert_allclose(updates, -np.outer(state.learning_rate * lengths, grad))
    np.testing.assert_allclose(state.value, values, rtol=1e-12)
    np.testing.assert_allclose(state.grad, grads, rtol=1e-12)
    assert (values <= value + 0.3 * updates @ grad).all()
    assert (abs(grads @ grad) <= 0.5 * grad @ grad).all()
    assert not state.info.decrease_error.any()
    assert not state.info.curvature_error.any()
    assert len(np.unique(state.info.num_linesearch_steps)) > 5


def test_slopes_decide_where_values_are_rounded(x64):
    """A parabola on a high plateau: its values are equal, its slopes are not."""

    def function(x):
        return 1e8 + x**2 / 2

    x = jnp.array(1e-5)
    errors = []
    for tolerance in (1e-6, None):
        optimizer = optim.scale_by_zoom_linesearch(5, approx_dec_rtol=tolerance)
        search = jax.jit(partial(optimizer.update, value_fn=function))
        updates, state = search(-x, optimizer.init(x), x, value=function(x), grad=x)
        errors.append(float(state.info.decrease_error))
        if tolerance is not None:
            assert updates == -x
            assert state.info.num_linesearch_steps == 1
    assert errors[0] == 0 < errors[1]


def test_backtracking_shrinks_until_the_loss_falls(x64):
    """On `x²` from 1 along `-2`: `η (1 - c) ≤ 1 - ...`, by hand `(1 - 2η)² ≤ 1 - 4 c η`."""
    optimizer = optim.scale_by_backtracking_linesearch(
        10, slope_rtol=0.5, decrease_factor=0.5, increase_factor=4.0, max_learning_rate=4.0
    )
    params = jnp.array(1.0)
    updates, state = optimizer.update(
        -2 * params,
        optimizer.init(params),
        params,
        value=1.0,
        grad=2 * params,
        value_fn=lambda x, power: x**power,
        power=2,
    )
    # 4, 2, 1 are too long; at ½ both sides are 0
    assert state.learning_rate == 0.5
    assert state.info.num_linesearch_steps == 4
    assert updates == -1.0
    assert state.value == 0
    assert state.grad is None


@pytest.mark.thorough
def test_the_search_begins_again_after_no_finite_loss():
    """Optax's next rate is a multiple of 0."""
    for optimizer in (
        optim.scale_by_backtracking_linesearch(3),
        optim.scale_by_zoom_linesearch(3),
    ):
        params = jnp.array(1.0)
        state = optimizer.init(params)
        keywords = {"value": 1.0, "grad": params}
        updates, state = optimizer.update(
            -params, state, params, value_fn=lambda x: x * jnp.nan, **keywords
        )
        assert updates == 0
        updates, state = optimizer.update(
            -params, state, params, value_fn=lambda x: x**2 / 2, **keywords
        )
        assert updates < 0


def test_values_are_computed_where_the_state_has_none():
    value_and_grad = optim.value_and_grad_from_state(lambda x, scale: scale * jnp.sum(x**2))
    optimizer = optim.lbfgs()
    state = optimizer.init(jnp.ones(2))
    value, grad = value_and_grad(jnp.ones(2), state=state, scale=3.0)
    assert value == 6
    np.testing.assert_array_equal(grad, 6)
    kept = (*state[:-1], state[-1]._replace(value=jnp.float32(1.5)))
    value, grad = value_and_grad(jnp.ones(2), state=kept, scale=3.0)
    assert value == 1.5
    np.testing.assert_array_equal(grad, 0)
    for state in (
        optim.adam(0.1).init(jnp.ones(2)),
        optim.scale_by_backtracking_linesearch(3).init(jnp.ones(2)),
    ):
        with pytest.raises(ValueError, match="one value and gradient of a line search, got 0"):
            value_and_grad(jnp.ones(2), state=state, scale=3.0)


def test_the_loss_is_traced_once():
    """Both phases of the zoom share one evaluation of value and gradient."""
    traces = []

    def function(x):
        traces.append(x)
        return jnp.sum(x**2)

    optimizer = optim.lbfgs()
    x = jnp.ones(2)
    jax.jit(
        lambda x, state: optimizer.update(x, state, x, value=2.0, grad=2 * x, value_fn=function)
    ).lower(x, optimizer.init(x))
    assert len(traces) == 1


def test_equal_calls_make_equal_optimizers():
    assert optim.lbfgs() == optim.lbfgs()
    assert hash(optim.lbfgs()) == hash(optim.lbfgs())
    assert optim.lbfgs() != optim.lbfgs(memory_size=3)
    assert optim.scale_by_zoom_linesearch(3) == optim.scale_by_zoom_linesearch(3)


@pytest.mark.thorough
def test_a_failed_search_is_printed(capfd):
    for optimizer in (
        optim.scale_by_zoom_linesearch(2, verbose=True),
        optim.scale_by_backtracking_linesearch(2, verbose=True),
    ):
        x = jnp.array(1.0)
        uphill = optimizer.update(
            x, optimizer.init(x), x, value=1.0, grad=2 * x, value_fn=lambda x: x**2
        )
        jax.block_until_ready(uphill)
        jax.effects_barrier()
        assert "slope 2.0" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.lbfgs(memory_size=0), "memory_size must be >= 1, got 0"),
        (lambda: optim.lbfgs(-1.0), "lbfgs: learning_rate"),
        (lambda: optim.scale_by_zoom_linesearch(0), "max_linesearch_steps must be >= 1, got 0"),
        (lambda: optim.scale_by_zoom_linesearch(5, 0.0), "max_learning_rate must be > 0"),
        (lambda: optim.scale_by_zoom_linesearch(5, increase_factor=0.0), "increase_factor"),
        (
            lambda: optim.scale_by_zoom_linesearch(5, initial_guess_strategy="two"),
            "'one' or 'keep', got 'two'",
        ),
        (lambda: optim.scale_by_backtracking_linesearch(-1), "must be >= 0, got -1"),
        (lambda: optim.scale_by_backtracking_linesearch(5, decrease_factor=2.0), "decrease_factor"),
        (lambda: optim.scale_by_backtracking_linesearch(5, increase_factor=0.0), "increase_factor"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


SWEEPS = {
    "tol": (lambda x: optim.scale_by_zoom_linesearch(20, tol=x), [0.0, 1e5]),
    "max_learning_rate": (lambda x: optim.scale_by_zoom_linesearch(20, x), [0.5, 2.0]),
    "growth": (lambda x: optim.scale_by_zoom_linesearch(20, increase_factor=x), [1.5, 3.0]),
    "slope_rtol": (
        lambda x: optim.scale_by_zoom_linesearch(
            20, slope_rtol=x, curv_rtol=0.01, approx_dec_rtol=None
        ),
        [1e-4, 0.9],
    ),
    "curv_rtol": (lambda x: optim.scale_by_zoom_linesearch(20, curv_rtol=x), [0.01, 0.9]),
    "precision": (
        lambda x: optim.scale_by_zoom_linesearch(20, curv_rtol=1e-3, stepsize_precision=x),
        [1e-5, 1e3],
    ),
    "slope": (lambda x: optim.scale_by_backtracking_linesearch(50, x), [1e-4, 0.9]),
    "decrease_factor": (
        lambda x: optim.scale_by_backtracking_linesearch(50, decrease_factor=x),
        [0.5, 0.8],
    ),
    "increase_factor": (
        lambda x: optim.scale_by_backtracking_linesearch(50, 1e-4, 0.8, x, 9.0),
        [1.1, 3.0],
    ),
    "largest": (
        lambda x: optim.scale_by_backtracking_linesearch(50, max_learning_rate=x),
        [1e-4, 1.0],
    ),
    "atol": (lambda x: optim.scale_by_backtracking_linesearch(50, atol=x), [0.0, 1e4]),
    "rtol": (lambda x: optim.scale_by_backtracking_linesearch(50, rtol=x), [0.0, 1e4]),
}


@pytest.mark.thorough
@pytest.mark.parametrize(("build", "values"), SWEEPS.values(), ids=SWEEPS)
def test_sweeps(build, values):
    """Traced hyper-parameters and schedules do as numbers, and each of them matters."""
    params = start(jnp.float32)
    value, grad = jax.value_and_grad(rosenbrock)(params)
    optimizer = build(values[0])
    # too short a step for the zoom, too long a one to backtrack
    scale = -1e-5 if hasattr(optimizer.init(params).info, "curvature_error") else -1.0
    down = jax.tree.map(lambda g: scale * g, grad)

    def updates(value_or_schedule):
        optimizer = build(value_or_schedule)
        return optimizer.update(
            down, optimizer.init(params), params, value=value, grad=grad, value_fn=rosenbrock
        )[0]["b"]

    one_by_one = [updates(x) for x in values]
    assert one_by_one[0] != one_by_one[1]
    np.testing.assert_allclose(jax.vmap(updates)(jnp.array(values)), one_by_one, rtol=1e-5)
    np.testing.assert_allclose(updates(lambda step: values[1] + step), one_by_one[1], rtol=1e-5)


@pytest.mark.thorough
def test_missing_arguments():
    x = jnp.ones(2)
    for optimizer in (optim.lbfgs(), optim.scale_by_backtracking_linesearch(3)):
        state = optimizer.init(x)
        with pytest.raises(ValueError, match="value_fn=value_fn"):
            optimizer.update(x, state, x)
        with pytest.raises(ValueError, match="params"):
            optimizer.update(x, state)
        keywords = {"value": 1.0, "grad": x, "value_fn": jnp.sum}
        with pytest.raises(TypeError, match="value_fn takes no argument batch"):
            optimizer.update(x, state, x, batch=3, **keywords)
        with pytest.raises(ValueError, match="same structure"):
            optimizer.update({"x": x}, state, x, **keywords)


def test_memories_are_written_in_place():
    # as a result of fusions with their products they were copied, which took five times as long
    m, shape = 3, (16, 8)
    params = {name: jnp.ones(shape) for name in "ab"}
    optimizer = optim.lbfgs(0.1, memory_size=m, linesearch=None)

    def step(state, params, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return state, optim.apply_updates(params, updates)

    state = optimizer.init(params)
    program = jax.jit(step, donate_argnums=(0, 1)).lower(state, params, params).compile()
    _, entry = program.as_text().split("ENTRY")
    memory = re.escape(f"f32[{m},{shape[0]},{shape[1]}]")
    assert re.search(memory, entry)
    assert not re.search(memory + r"\S* copy\(", entry)
