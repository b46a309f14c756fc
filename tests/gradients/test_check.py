"""Gradients that are right pass, and the leaf that is wrong is named."""

import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses, models
from jaxnets.gradients import backprop, check_gradients

MLP = models.MLPConfig(3, 2, (4,), activation=jnp.tanh)
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
Y = np.array([0, 1, 1, 0, 1])


def _params():
    params = jax.jit(models.init_mlp)(jax.random.key(0), MLP)
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


def _loss(params, x, y):
    logits = models.mlp(params, MLP, x)
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))


def _plain(params, x):
    """Analytic, and made of what takes complex numbers."""
    h = jnp.tanh(x @ params["w"])
    return jnp.sum(h * h)


def test_a_right_gradient_is_right_at_every_leaf():
    checks = check_gradients(_loss, _params(), X, Y)
    assert [check.path for check in checks] == [
        f"layers/{layer}/{leaf}" for layer in (0, 1) for leaf in ("bias", "kernel")
    ]
    assert {check.verdict for check in checks} == {"right"}
    assert max(check.error for check in checks) < 1e-9


def test_the_complex_step_is_exact_to_rounding():
    (check,) = check_gradients(_plain, {"w": np.full((3, 2), 0.3)}, X)
    assert check.way == "complex step"
    assert check.error < 1e-14


def test_where_it_is_not_analytic_differences_measure():
    """`|w|²` by `w conj(w)` has no imaginary part."""
    (check,) = check_gradients(lambda w: jnp.sum(jnp.abs(w) ** 3), np.array([0.5, -2.0]))
    assert (check.way, check.verdict) == ("finite differences", "right")
    assert check.error < 1e-8


SPOILED = {
    "a hundredth too large": lambda g: g * 1.01,
    "turned around": lambda g: -g,
    "a mean for a sum": lambda g: g / 5,
    "nothing": lambda g: 0 * g,
    "axes exchanged": lambda g: g.T.reshape(g.shape) if g.ndim == 2 else g[::-1],
    "not a number": lambda g: g * jnp.nan,
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize(("layer", "leaf"), [(0, "kernel"), (1, "bias")])
def test_the_wrong_leaf_is_named_and_no_other(name, layer, leaf):
    def gradient(*args):
        g = jax.grad(_loss)(*args)
        g["layers"][layer][leaf] = SPOILED[name](g["layers"][layer][leaf])
        return g

    with pytest.raises(AssertionError, match=f"'layers/{layer}/{leaf}'") as raised:
        check_gradients(_loss, _params(), X, Y, gradient=gradient)
    assert len(re.findall("'layers/", str(raised.value))) == 1
    checks = check_gradients(_loss, _params(), X, Y, gradient=gradient, raises=False)
    assert [check.path for check in checks if check.verdict != "right"] == [
        f"layers/{layer}/{leaf}"
    ]


def test_the_worst_element_is_found():
    def gradient(w, x):
        return {"w": jax.grad(_plain)(w, x)["w"].at[1, 0].add(0.5)}

    with pytest.raises(AssertionError, match=r"furthest off at \[1, 0\]") as raised:
        check_gradients(_plain, {"w": np.full((3, 2), 0.3)}, X, gradient=gradient)
    predicted, measured = re.findall(r": (\S+) instead of (\S+)$", str(raised.value))[0]
    assert float(predicted) - float(measured) == pytest.approx(0.5, rel=1e-4)


def test_a_rule_of_the_users_own_is_checked():
    @jax.custom_vjp
    def swish(x):
        return x * jax.nn.sigmoid(x)

    def backward(x, error):
        # the term x σ'(x) is forgotten
        return (error * jax.nn.sigmoid(x),)

    swish.defvjp(lambda x: (swish(x), x), backward)
    with pytest.raises(AssertionError, match="'w'"):
        check_gradients(lambda p, x: jnp.sum(swish(x @ p["w"])), {"w": np.ones((3, 2))}, X)


def test_a_net_of_flax_and_backpropagation_written_out():
    net = flax.linen.Sequential([flax.linen.Dense(4), jnp.tanh, flax.linen.Dense(1)])
    params = jax.jit(net.init)(jax.random.key(0), X)

    def loss(params, x):
        return jnp.mean(net.apply(params, x) ** 2)

    def gradient(params, x):
        return backprop(loss)(params, x)[1]

    checks = check_gradients(loss, params, X, gradient=gradient)
    assert {check.verdict for check in checks} == {"right"}
    assert "params/layers_0/kernel" in {check.path for check in checks}


def test_a_kink_is_no_fault():
    """Of `max(w, 0)` at 0 no slope is the right one."""
    with pytest.warns(UserWarning, match="unsure:\nthe parameter"):
        (check,) = check_gradients(lambda w: jnp.sum(jax.nn.relu(w)), np.zeros(3))
    assert check.verdict == "unsure"


NARROW = [jnp.bfloat16, jnp.float16]


def _narrow_net(dtype):
    dense = [flax.linen.Dense(n, dtype=dtype) for n in (8, 1)]
    net = flax.linen.Sequential([dense[0], jnp.tanh, dense[1]])

    def loss(params, x):
        return jnp.mean(net.apply(params, x).astype(jnp.float32) ** 2)

    return loss, jax.jit(net.init)(jax.random.key(0), X)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_net_in_narrow_types_is_measured_as_sharply_as_any(dtype):
    loss, params = _narrow_net(dtype)
    checks = check_gradients(loss, params, X)
    assert {check.verdict for check in checks} == {"right"}
    assert max(check.error for check in checks) < 1e-9


@pytest.mark.parametrize("factors", [(2, 0, -1, 1.1), (0, 1.1, 2, -1)])
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_types_hide_no_fault(dtype, factors):
    loss, params = _narrow_net(dtype)

    def gradient(*args):
        leaves, structure = jax.tree.flatten(jax.grad(loss)(*args))
        spoiled = [factor * leaf for factor, leaf in zip(factors, leaves, strict=True)]
        return jax.tree.unflatten(structure, spoiled)

    checks = check_gradients(loss, params, X, gradient=gradient, raises=False)
    assert [check.verdict for check in checks] == ["wrong"] * 4


def _scaled(factor):
    """The identity, with a rule that says that its derivative is another."""

    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, None), lambda _, error: (factor * error,))
    return same


@pytest.mark.parametrize(("factor", "size"), [(0, 1), (2, 1e-5)])
def test_narrow_types_at_one_leaf_hide_no_fault_at_another(factor, size):
    def loss(p, x):
        narrow = 1e-3 * jnp.sum((x @ p["narrow"]).astype(jnp.bfloat16))
        part = jnp.sum(jnp.sin(_scaled(factor)(p["wrong"])).astype(jnp.float32))
        return narrow.astype(jnp.float32) + size * part

    params = {"narrow": np.ones((3, 2)), "wrong": np.ones(3)}
    checks = check_gradients(loss, params, X, raises=False)
    assert [check.verdict for check in checks] == ["right", "wrong"]


def test_numbers_rounded_to_narrow_types_make_no_right_gradient_wrong():
    """The derivative of erf has 2 / √π; JAX rounds it where it differentiates in bfloat16."""

    def loss(w, x):
        h = jax.nn.gelu(x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), approximate=False)
        return jnp.mean(h.astype(jnp.float32))

    w = np.linspace(-1, 1, 6).reshape(3, 2)
    (check,) = check_gradients(loss, w, X)
    assert check.verdict == "right"
    with pytest.warns(UserWarning, match="unsure"):
        check_gradients(loss, w, X, gradient=jax.grad(loss))
    (check,) = check_gradients(loss, w, X, gradient=lambda *a: 2 * jax.grad(loss)(*a), raises=False)
    assert check.verdict == "wrong"


@pytest.mark.parametrize(("factor", "verdict"), [(1, "unsure"), (1 + 1e-5, "unsure"), (2, "wrong")])
def test_what_cannot_be_raised_to_float64_is_not_called_right(factor, verdict):
    @jax.custom_vjp
    def sin(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    sin.defvjp(lambda x: (sin(x), x), lambda x, error: (factor * error * jnp.cos(x),))

    def loss(p):
        return jnp.sum(sin(p["far"].astype(jnp.float32))) + jnp.sum(p["near"] ** 2)

    far, near = check_gradients(loss, {"far": np.ones(2), "near": np.ones(2)}, raises=False)
    assert (far.verdict, near.verdict) == (verdict, "right")


def test_what_stops_in_narrow_types_is_meant_to_differ_and_wrong():
    def loss(w):
        narrow = w.astype(jnp.bfloat16)
        return jnp.sum((narrow * jax.lax.stop_gradient(narrow)).astype(jnp.float32))

    (check,) = check_gradients(loss, np.ones(2), raises=False)
    assert check.verdict == "wrong"


def test_a_gradient_that_cannot_be_traced_is_not_called_right_for_its_rounding():
    def loss(w):
        return jnp.sum(jnp.sin(w.astype(jnp.bfloat16)).astype(jnp.float32))

    def gradient(w):
        return np.asarray(jax.grad(loss)(np.asarray(w)))

    (check,) = check_gradients(loss, np.array([0.3, 1.2]), gradient=gradient, raises=False)
    assert check.verdict == "unsure"
    (check,) = check_gradients(
        loss, np.array([0.3, 1.2]), gradient=lambda w: 2 * gradient(w), raises=False
    )
    assert check.verdict == "wrong"


def test_a_loss_in_single_precision_is_measured_as_sharply_as_any():
    def loss(w):
        return jnp.sum(jnp.sin(w.astype(jnp.float32))).astype(jnp.float64)

    (check,) = check_gradients(loss, np.array([0.3, 1.2]))
    assert check.verdict == "right"
    (check,) = check_gradients(loss, np.array([0.3, 1.2]), gradient=lambda w: w, raises=False)
    assert check.verdict == "wrong"


def test_what_a_loss_returns_beside_its_value_is_left_alone():
    def loss(w, x):
        return jnp.sum(jnp.sin(x @ w)), {"inputs": x}

    (check,) = check_gradients(loss, np.full((3, 2), 0.3), X, has_aux=True)
    assert check.verdict == "right"

    def gradient(w, x):
        return 2 * jax.grad(loss, has_aux=True)(w, x)[0]

    with pytest.raises(AssertionError, match="wrong gradient"):
        check_gradients(loss, np.full((3, 2), 0.3), X, has_aux=True, gradient=gradient)


def test_a_loss_that_is_not_a_number_is_not_called_right():
    (check,) = check_gradients(lambda w: jnp.sum(jnp.log(w)), np.array([-1.0, 2.0]), raises=False)
    assert check.verdict != "right"


def test_the_precision_that_was_set_is_left_as_it_was():
    check_gradients(_loss, _params(), X, Y)
    assert jnp.ones(1).dtype == jnp.float32


PENALTIES = {
    "absolute": lambda w: 1e-4 * jnp.sum(jnp.abs(w["w"])),
    "norm": lambda w: 1e-4 * jnp.linalg.norm(w["w"]) ** 2,
    "variance": lambda w: 1e-4 * jnp.var(w["w"]),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_small_part_that_is_not_analytic_is_not_lost(name):
    """The complex step would say that the gradient without it is the right one."""
    w = {"w": np.linspace(-1, 2, 6).reshape(3, 2)}

    def loss(w, x):
        return _plain(w, x) + PENALTIES[name](w)

    (check,) = check_gradients(loss, w, X)
    assert check.verdict == "right"
    (check,) = check_gradients(loss, w, X, gradient=jax.grad(_plain), raises=False)
    assert check.verdict == "wrong"


@pytest.mark.parametrize("function", [jnp.tanh, jnp.sin])
@pytest.mark.parametrize("steepness", [1e2, 1e4, 1e6])
def test_what_is_steep_and_right_is_not_called_wrong(function, steepness):
    (check,) = check_gradients(
        lambda w: jnp.sum(function(steepness * w)), np.array([0.0, 1e-7]), raises=False
    )
    assert check.verdict != "wrong"


def test_a_loss_may_assert_what_it_takes():
    def loss(w):
        assert jnp.issubdtype(w.dtype, jnp.floating)
        return jnp.sum(w**2)

    (check,) = check_gradients(loss, np.ones(2))
    assert check.verdict == "right"


def test_narrow_types_beside_the_parameters_hide_no_fault():
    def loss(w):
        nothing = jnp.sum(jnp.zeros(3, jnp.bfloat16)).astype(w.dtype)
        return 100 + jnp.sum(jnp.sin(w)) + nothing

    (check,) = check_gradients(loss, np.ones(2), gradient=lambda w: 1.5 * jnp.cos(w), raises=False)
    assert check.verdict == "wrong"


def test_a_slope_that_is_0_but_for_rounding_is_right():
    """A bias that softmax takes away again."""

    def loss(p, x):
        return -jnp.mean(jax.nn.log_softmax(x @ p["w"] + p["shift"])[:, 0])

    params = {"shift": np.ones(()), "w": np.linspace(-1, 1, 6).reshape(3, 2)}
    checks = check_gradients(loss, params, X)
    assert {check.verdict for check in checks} == {"right"}


def test_arguments_may_be_any_objects():
    def loss(w, train, scale=None):
        return jnp.sum(w**2) * (2 if train else 1)

    (check,) = check_gradients(loss, np.ones(2), True, None)
    assert check.predicted == pytest.approx(check.measured)


def test_what_cannot_be_computed_in_float64_is_said():
    def loss(w, x):
        return jnp.sum(jax.lax.scan(lambda h, x: (h * w + x, None), jnp.zeros(3, "float32"), x)[0])

    with pytest.raises(TypeError, match=r"first carry, must follow their dtype"):
        check_gradients(loss, np.ones(3), X)


def test_bad_input_is_named():
    w = np.ones(2)
    with pytest.raises(ValueError, match="directions must be positive, got 0"):
        check_gradients(jnp.sum, w, directions=0)
    with pytest.raises(TypeError, match="must be floating, got int64 at 'n'"):
        check_gradients(lambda p: jnp.sum(p["w"]), {"n": np.arange(2), "w": w})
    with pytest.raises(TypeError, match="loss must return one floating number"):
        check_gradients(jnp.sin, w)
    with pytest.raises(ValueError, match="with has_aux loss must return a pair"):
        check_gradients(jnp.sum, w, has_aux=True)
    with pytest.raises(ValueError, match="must be like params, but differs in"):
        check_gradients(jnp.sum, w, gradient=lambda w: w[:1])
