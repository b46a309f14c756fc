"""Adam's and Adagrad's families: dtypes of moments, complex parameters, Rprop, bad values."""

import inspect

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxnets import optim

START = np.array([1.0, -2.0, 3.0])
GRADIENTS = np.sin(3 * np.arange(18.0)).reshape(6, 3)

MU = [optim.scale_by_adam, optim.scale_by_nadam, optim.scale_by_amsgrad, optim.scale_by_novograd]
NU = [optim.scale_by_adam, optim.scale_by_nadam, optim.scale_by_amsgrad]


@pytest.mark.parametrize(
    ("build", "moment"),
    [(build, "mu") for build in MU] + [(build, "nu") for build in NU],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_moments_are_stored_rounded_and_used_unrounded(build, moment):
    params = {"w": jnp.float32(START)}
    rounding = build(b2=0.9, **{f"{moment}_dtype": jnp.bfloat16})
    plain = build(b2=0.9)
    state = rounding.init(params)
    for g in GRADIENTS:
        grads = {"w": jnp.float32(g)}
        # from the same stored moments, the step is that of float32
        wide = jax.tree.map(lambda x, y: x.astype(y.dtype), state, plain.init(params))
        want, wide = plain.update(grads, wide, params)
        updates, state = rounding.update(grads, state, params)
        np.testing.assert_allclose(updates["w"], want["w"], rtol=1e-6)
        stored = np.asarray(getattr(state, moment)["w"])
        assert stored.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(
            stored, np.asarray(getattr(wide, moment)["w"]).astype(ml_dtypes.bfloat16)
        )
        other = "nu" if moment == "mu" else "mu"
        assert getattr(state, other)["w"].dtype == jnp.float32


def test_moments_of_complex_parameters_are_not_stored_as_real_numbers():
    optimizer = optim.adam(0.1, mu_dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"moments of complex64 .* cannot be stored in bfloat16"):
        optimizer.init(jnp.ones(2, jnp.complex64))


ALIASES = [optim.adam, optim.adamw, optim.nadam, optim.nadamw, optim.amsgrad]


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: alias.__name__)
def test_aliases_hand_on_the_dtypes(alias):
    state = alias(0.1, mu_dtype=jnp.float16, nu_dtype=jnp.bfloat16).init(jnp.ones(2))[0]
    assert state.mu.dtype == jnp.float16
    assert state.nu.dtype == jnp.bfloat16
    assert inspect.signature(alias).parameters["nu_dtype"].kind == inspect.Parameter.KEYWORD_ONLY


def test_constant_momentum_of_nadam_is_adams():
    assert optim.nadam(0.1) != optim.nadam(0.1, momentum_decay=0.0)
    g = jnp.float32(START)
    got, want = optim.nadam(0.1), optim.adam(0.1, nesterov=True)
    np.testing.assert_array_equal(got.update(g, got.init(g))[0], want.update(g, want.init(g))[0])
    with pytest.raises(ValueError, match="momentum_decay is of Nesterov momentum"):
        optim.nadam(0.1, nesterov=False, momentum_decay=4e-3)


def test_rprop_is_not_late():
    """The first step is that of the first gradient; Optax's is 0."""
    # the second one times an update is no normal number
    g = jnp.array([3.0, -2e-38])
    optimizer = optim.rprop(0.1)
    updates, state = optimizer.update(g, optimizer.init(g))
    np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=1e-6)
    updates, state = optimizer.update(g, state)
    np.testing.assert_allclose(updates, [-0.12, 0.12], rtol=1e-6)
    updates, state = optimizer.update(-g, state)
    np.testing.assert_array_equal(updates, 0.0)
    updates, _ = optimizer.update(-g, state)
    np.testing.assert_allclose(updates, [0.06, -0.06], rtol=1e-6)


def test_rprop_keeps_the_state_of_optax(x64):
    """Which returns the updates one step late, and not those that a change of sign undoes."""
    ours, theirs = optim.rprop(0.1), optax.rprop(0.1)
    params = jnp.asarray(START)
    state, their_state = ours.init(params), theirs.init(params)
    before = jnp.zeros(3)
    for g in map(jnp.asarray, GRADIENTS):
        got, state = ours.update(g, state)
        want, their_state = theirs.update(g, their_state)
        np.testing.assert_array_equal(jnp.where(g * before > 0, 0, before), want)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(their_state), strict=True):
            np.testing.assert_array_equal(a, b)
        before = got


def test_first_step_sizes_of_rprop_are_swept_by_vmap():
    g = jnp.float32(START)

    def first(learning_rate):
        optimizer = optim.rprop(learning_rate)
        return optimizer.update(g, optimizer.init(g))[0]

    swept = jax.vmap(first)(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(swept, [-0.1 * jnp.sign(g), -0.2 * jnp.sign(g)], rtol=1e-6)


def test_rprop_refuses_what_has_no_sign_and_schedules():
    with pytest.raises(ValueError, match=r"rprop: .* must be real, got complex64 at 'a/b'"):
        optim.rprop(0.1).init({"a": {"b": jnp.ones(2, jnp.complex64)}})
    with pytest.raises(ValueError, match="rprop: learning_rate is the first step size only"):
        optim.rprop(optim.constant_schedule(0.1))


def test_novograd_needs_params():
    optimizer = optim.novograd(0.1)
    g = jnp.ones(2)
    with pytest.raises(ValueError, match=r"scale_by_novograd: .* needs the parameters"):
        optimizer.update(g, optimizer.init(g))


def test_derivative_through_radam_is_finite():
    """Where the rectification is not used, its root is of a negative number."""
    g = jnp.float32(START)

    def loss(b2):
        optimizer = optim.radam(0.1, b2=b2)
        state = optimizer.init(g)
        # of a negative number at the third step only
        for _ in range(3):
            updates, state = optimizer.update(g, state)
        return jnp.sum(updates)

    assert np.isfinite(jax.grad(loss)(0.9))


COMPLEX = {
    "nadam": lambda: optim.nadam(0.1, momentum_decay=4e-3),
    "amsgrad": lambda: optim.amsgrad(0.1),
    "adamax": lambda: optim.adamax(0.1),
    "adabelief": lambda: optim.adabelief(0.1),
    "radam": lambda: optim.radam(0.1, b2=0.9),
    "adan": lambda: optim.adan(0.1),
    "adadelta": lambda: optim.adadelta(1.0),
    "novograd": lambda: optim.novograd(0.1),
    "scale_by_yogi": lambda: optim.scale_by_yogi(initial_accumulator_value=0.0),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_parameters(name, x64):
    """Second moments are of `|g|²`: turning all gradients in the plane turns all updates."""
    optimizer = COMPLEX[name]()
    turn = np.exp(0.7j)
    zero = jnp.zeros(3, jnp.complex128)
    real, turned = optimizer.init(zero), optimizer.init(zero)
    step = jax.jit(optimizer.update)
    for g in GRADIENTS:
        want, real = step(jnp.asarray(g + 0j), real, zero)
        got, turned = step(jnp.asarray(turn * g), turned, zero)
        np.testing.assert_allclose(got, turn * np.asarray(want), rtol=1e-9, atol=1e-15)
    # averages of squares are real, and as wide
    for field in ("nu", "nu_max", "n", "e_g", "e_x"):
        leaves = optax.tree_utils.tree_get_all_with_path(real, field)
        assert {x.dtype for _, x in leaves} <= {jnp.dtype("float64")}
    assert {x.dtype for x in jax.tree.leaves(real) if x.ndim} <= {
        jnp.dtype("complex128"),
        jnp.dtype("float64"),
    }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.nadam(0.1, momentum_decay=-1.0), "nadam: momentum_decay must be finite"),
        (lambda: optim.nadamw(0.1, weight_decay=-1.0), "nadamw: weight_decay"),
        (lambda: optim.amsgrad(0.1, b2=1.0), r"amsgrad: b2 must be in \[0, 1\), got 1.0"),
        (lambda: optim.adamax(-0.1), "adamax: learning_rate must be finite and >= 0"),
        (lambda: optim.adamaxw(0.1, weight_decay=-0.1), "adamaxw: weight_decay"),
        (lambda: optim.adabelief(0.1, eps_root=-1.0), "adabelief: eps_root"),
        (lambda: optim.radam(0.1, threshold=float("nan")), "radam: threshold must be a number"),
        (lambda: optim.adan(0.1, b3=1.0), r"adan: b3 must be in \[0, 1\)"),
        (lambda: optim.yogi(0.1, eps=-1.0), "yogi: eps"),
        (lambda: optim.scale_by_yogi(initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: optim.adadelta(1.0, rho=1.0), r"adadelta: rho must be in \[0, 1\)"),
        (lambda: optim.rprop(-0.1), "rprop: learning_rate"),
        (lambda: optim.rprop(0.1, eta_minus=1.5), r"rprop: eta_minus must be in \[0, 1\]"),
        (lambda: optim.rprop(0.1, eta_plus=0.5), "rprop: eta_plus must be finite and >= 1"),
        (lambda: optim.rprop(0.1, max_step_size=0.0), "rprop: max_step_size must be > 0"),
        (lambda: optim.novograd(0.1, b1=1.0), r"novograd: b1 must be in \[0, 1\)"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()
