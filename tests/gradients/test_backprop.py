"""Backpropagation written out: equal to `jax.grad`, to derivations by hand, and to what it says."""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxnets import gradients, losses, models, nn, optim
from jaxnets.gradients import RULES, backprop, backward, descend, describe, record
from tests.catalogue import LAYERS, MODELS
from tests.numerics import integers, normal

A = np.array([[0.5, -1.5, 2.0], [1.5, 0.25, -0.75]])
B = np.array([[1.25, 0.5, -2.0], [0.75, 3.0, 1.0]])
POSITIVE = np.abs(A) + 0.5
SMALL = A / 4
IMAGE = np.random.default_rng(0).normal(size=(2, 7, 6, 4))
KERNEL = np.random.default_rng(1).normal(size=(3, 2, 4, 6))
GROUPED = np.random.default_rng(2).normal(size=(3, 2, 2, 6))


def _conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": ((1, 1), (0, 1))} | options
    layout = options.pop("layout", ("NHWC", "HWIO", "NHWC"))
    return lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **options)


def _batched_product(a, b):
    return jnp.einsum("bij,kbj->ikb", a, b)


def _ragged_product(a, b):
    numbers = (([3, 1], [0, 2]), ([2], [1]))
    return lax.dot_general(a, b, numbers)


def _gathered(table, rows):
    return jnp.take(table, rows, 0) ** 2


def _pooled(reducer, initial, x, window=(2, 3), **options):
    options = {"window_strides": (2, 1), "padding": ((1, 0), (0, 2))} | options
    return lax.reduce_window(x, initial, reducer, window, **options)


SUM, MAX, MIN = (
    partial(_pooled, *pair) for pair in ((lax.add, 0.0), (lax.max, -np.inf), (lax.min, np.inf))
)
PLANE = np.random.default_rng(4).permutation(42).reshape(7, 6) / 10
GAPS = {"base_dilation": (2, 1), "window_dilation": (1, 2), "window_strides": (1, 2)}
WITH_ZEROS = np.array([[2.0, 0.0, -1.5], [0.5, 3.0, 0.0], [0.0, 2.5, 0.0]])

CASES = {
    "abs": (jnp.abs, np.array([0.5, 0.0, -2.0])),
    "acos": (jnp.arccos, SMALL),
    "acosh": (jnp.arccosh, 1 + POSITIVE),
    "asin": (jnp.arcsin, SMALL),
    "asinh": (jnp.arcsinh, A),
    "atan": (jnp.arctan, A),
    "atanh": (jnp.arctanh, SMALL),
    "ceil": (lambda a: jnp.ceil(a) * a, A),
    "device_put": (jax.device_put, A),
    "floor": (lambda a: jnp.floor(a) * a, A),
    "rem": (lax.rem, A, B),
    "round": (lambda a: jnp.round(a) * a, A),
    "scatter-add": (lambda a, b, i: a.at[:, i].add(b), A, B[:, :2], np.array([1, 1])),
    "scatter-add/dropped": (lambda a, b, i: a.at[i].add(b), A, B, np.array([1, 5])),
    "cumprod": (lambda a: jnp.cumprod(a, 1), A),
    "cumprod/zeros": (lambda a: lax.cumprod(a, 1, reverse=True), WITH_ZEROS),
    "reduce_prod": (lambda a: jnp.prod(a, 1), A),
    "reduce_prod/axes": (lambda a: jnp.prod(a, (0, 2)), IMAGE[:, :2, :3, 0]),
    "reduce_window_max": (MAX, PLANE),
    "reduce_window_max/equal": (MAX, np.ones((7, 6))),
    "reduce_window_min": (MIN, PLANE),
    "reduce_window_sum": (SUM, PLANE),
    "reduce_window_sum/cropped": (partial(SUM, padding=((-1, 0), (0, -1))), PLANE),
    "reduce_window_sum/gaps": (partial(SUM, **GAPS), PLANE),
    "scatter": (lambda a, b: a.at[:, 1:].set(b), A, B[:, 1:]),
    "scatter/rows": (lambda a, b, i: a.at[:, i].set(b), A, B[:, :2], np.array([2, 0])),
    "scatter/twice": (lambda a, b, i: a.at[:, i].set(b), A, B[:, :2], np.array([1, 1])),
    "scatter/dropped": (lambda a, b, i: a.at[i].set(b), A, B, np.array([1, 5])),
    "scatter/points": (lambda a, b, i: a.at[i, i + 1].set(b), A, B[0, :2], np.array([0, 1])),
    "scatter-sub": (lambda a, b, i: a.at[:, i].subtract(b), A, B[:, :2], np.array([1, 1])),
    "sort": (lambda a: jnp.sort(a, 1), A),
    "sort/equal": (lambda a: jnp.sort(a, 0), WITH_ZEROS),
    "sort/several": (lambda a, b: lax.sort((a, b), 1, num_keys=1)[1], A, B),
    "sort/descending": (lambda a: jnp.sort(a, descending=True), A),
    "top_k": (lambda a: lax.top_k(a, 2)[0], A),
    "add": (jnp.add, A, B),
    "add/number": (lambda a, b: a + b, A, 2.0),
    "add/row": (lambda a, b: lax.add(*jnp.broadcast_arrays(a, b)), A, B[:1]),
    "mul/row": (lax.mul, A, B[:1]),
    "select_n/row": (lambda a, b: jnp.where(a > 0, a, b), A, B[:, :1]),
    "atan2": (jnp.arctan2, A, B),
    "broadcast_in_dim": (lambda a: jnp.broadcast_to(a, (4, 2, 3)), A),
    "broadcast_in_dim/of_one": (lambda a: jnp.broadcast_to(a, (2, 3)), A[:, :1]),
    "cbrt": (jnp.cbrt, POSITIVE),
    "clamp": (lambda low, a, high: lax.clamp(low, a, high), A - 1, A**3, A + 1),
    "concatenate": (lambda a, b: jnp.concatenate([a, b], 1), A, B[:, :2]),
    "conv_general_dilated": (_conv, IMAGE, KERNEL),
    "conv_general_dilated/strided": (partial(_conv, window_strides=(2, 3)), IMAGE, KERNEL),
    "conv_general_dilated/dilated": (
        partial(_conv, rhs_dilation=(2, 1), padding=((2, 0), (1, 3))), IMAGE, KERNEL,
    ),
    "conv_general_dilated/gaps": (partial(_conv, lhs_dilation=(2, 3)), IMAGE, KERNEL),
    "conv_general_dilated/cropped": (partial(_conv, padding=((-1, 2), (0, -1))), IMAGE, KERNEL),
    "conv_general_dilated/groups": (
        partial(_conv, feature_group_count=2, window_strides=(1, 2)), IMAGE, GROUPED,
    ),
    "conv_general_dilated/layout": (
        partial(_conv, layout=("CHNW", "IOWH", "HCWN"), window_strides=(1, 2)),
        IMAGE.transpose(3, 1, 0, 2), KERNEL.transpose(2, 3, 1, 0),
    ),
    "convert_element_type": (lambda a: a.astype(jnp.float32).astype(jnp.float64), A),
    "cos": (jnp.cos, A),
    "cosh": (jnp.cosh, A),
    "cumsum": (lambda a: jnp.cumsum(a, 1), A),
    "cumsum/reverse": (lambda a: lax.cumsum(a, 0, reverse=True), A),
    "copy": (lambda a: jnp.array(a, copy=True), A),
    "div": (jnp.divide, A, B),
    "dot_general": (jnp.matmul, A, B.T),
    "dot_general/batch": (_batched_product, IMAGE[0], np.ones((5, 7, 4)) + IMAGE[1, :5, :1, :1]),
    "dot_general/two_axes": (
        _ragged_product, IMAGE, np.random.default_rng(3).normal(size=(4, 6, 7, 3)),
    ),
    "dot_general/vectors": (jnp.dot, A[0], B[0]),
    "dynamic_slice": (lambda a, i: lax.dynamic_slice(a, (0, i), (2, 2)), A, 1),
    "dynamic_update_slice": (
        lambda a, b, i: lax.dynamic_update_slice(a, b, (i, 0)), A, B[:1, :2], 1,
    ),
    "erf": (jax.scipy.special.erf, A),
    "erfc": (jax.scipy.special.erfc, A),
    "exp": (jnp.exp, A),
    "exp2": (jnp.exp2, A),
    "expm1": (jnp.expm1, A),
    "gather": (_gathered, A, np.array([1, 0, 1, 1])),
    "gather/points": (lambda a, i: a[i, i + 1], A, np.array([0, 1, 1])),
    "integer_pow": (lambda a: a**3, A),
    "integer_pow/negative": (lambda a: a**-2, A),
    "log": (jnp.log, POSITIVE),
    "log1p": (jnp.log1p, SMALL),
    "logistic": (jax.nn.sigmoid, A),
    "max": (jnp.maximum, A, B),
    "max/equal": (jnp.maximum, A, A),
    "min": (jnp.minimum, A, B),
    "mul": (jnp.multiply, A, B),
    "name": (lambda a: checkpoint_name(a, "kept"), A),
    "neg": (jnp.negative, A),
    "optimization_barrier": (lambda a: lax.optimization_barrier(a), A),
    "pad": (lambda a, b: lax.pad(a, b, ((1, 2, 0), (0, 1, 2))), A, 2.0),
    "pad/cropped": (lambda a, b: lax.pad(a, b, ((-1, 2, 0), (1, -2, 1))), A, 2.0),
    "pow": (jnp.power, POSITIVE, B),
    "pow/of_negative": (lambda a: jnp.power(a, 2.0), A),
    "pow/integers": (lambda a, n: lax.pow(a, n), A, np.array([[1, 2, 3], [0, 4, 2]])),
    "reduce_max": (lambda a: jnp.max(a, 1), A),
    "reduce_max/equal": (lambda a: jnp.max(a, 0), np.ones((3, 2))),
    "reduce_min": (lambda a: jnp.min(a), A),
    "reduce_precision": (lambda a: lax.reduce_precision(a, 8, 10), A),
    "reduce_sum": (lambda a: jnp.sum(a, 0), A),
    "reshape": (lambda a: a.reshape(3, 2), A),
    "rev": (lambda a: jnp.flip(a, 1), A),
    "rsqrt": (lax.rsqrt, POSITIVE),
    "select_n": (lambda a, b: jnp.where(a > 0, a, b), A, B),
    "sign": (lambda a: jnp.sign(a) * a, A),
    "sin": (jnp.sin, A),
    "sinh": (jnp.sinh, A),
    "slice": (lambda a: a[:, 1:], A),
    "slice/strided": (lambda a: a[0, :3:2], A),
    "split": (lambda a: jnp.split(a, [1], 1)[1] * 2, A),
    "sqrt": (jnp.sqrt, POSITIVE),
    "square": (jnp.square, A),
    "squeeze": (lambda a: jnp.squeeze(a, 0), A[:1]),
    "expand_dims": (lambda a: jnp.expand_dims(a, 0), A),
    "stack": (lambda a, b: jnp.stack([a, b]), A, B),
    "stack/last": (lambda a, b: jnp.stack([a, b], -1), A, B),
    "stop_gradient": (lambda a: a * lax.stop_gradient(a), A),
    "sub": (jnp.subtract, A, B),
    "tan": (jnp.tan, SMALL),
    "tanh": (jnp.tanh, A),
    "transpose": (lambda a: jnp.transpose(a, (2, 0, 3, 1)), IMAGE),
    "unstack": (lambda a: jnp.unstack(a, axis=1)[::2], A),
    "scan": (lambda a: lax.scan(lambda c, x: (jnp.sin(c) + x, c * x), a[0], a), A),
    "scan/reverse": (
        lambda a: lax.scan(lambda c, x: (c * x, jnp.cos(c)), a[0], a, reverse=True), A,
    ),
    "scan/empty": (lambda a: lax.scan(lambda c, x: (c * x, c), a[0], a[:0]), A),
    "cond": (lambda a: lax.cond(a[0, 0] > 0, jnp.sin, jnp.cos, a), A),
    "switch": (lambda a, i: lax.switch(i, [jnp.sin, jnp.cos, jnp.exp], a), A, 7),
    "checkpoint": (jax.checkpoint(lambda a: jnp.sin(jnp.sin(a))), A),
    "relu": (jax.nn.relu, np.array([-1.0, 0.0, 2.0])),
    "stored": (nn.stored.stored_gradient, A),
}  # fmt: skip
CHOSEN = ("cond", "switch")
"""Cases whose numbers must be known, as they say which way to go."""


def _weighted(outputs):
    """A number that weighs every element of what a function returns differently."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(outputs)]
    return sum(jnp.sum(leaf * jnp.cos(jnp.arange(1.0, leaf.size + 1))) for leaf in leaves)


def _floating(args):
    return [i for i, x in enumerate(args) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]


@pytest.mark.parametrize("name", CASES)
def test_each_rule_is_the_derivative(name):
    function, *args = CASES[name]
    with jax.enable_x64(True):
        args = [jnp.asarray(x) for x in args]
        floating = _floating(args)

        def loss(*chosen):
            given = dict(zip(floating, chosen, strict=True))
            return _weighted(function(*(given.get(i, x) for i, x in enumerate(args))))

        def both(chosen):
            wanted = jax.value_and_grad(loss, tuple(range(len(floating))))(*chosen)
            return wanted, backprop(lambda params: loss(*params))(chosen)

        chosen = [args[i] for i in floating]
        # one compilation stands for dozens
        compiled = both if name in CHOSEN else jax.jit(both)
        (want_value, want), (value, found) = compiled(chosen)
        np.testing.assert_allclose(value, want_value, rtol=1e-14)
        for one, other in zip(found, want, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-14)


def test_every_rule_is_tested():
    """By a case of its name, in whose tape it stands."""
    seen = set()
    with jax.enable_x64(True):
        for name, (function, *args) in CASES.items():

            def names(*args, function=function):
                _, tape = record(function, *args)
                seen.update(operation.name for operation in tape.operations)

            args = [jnp.asarray(x) for x in args]
            names(*args) if name in CHOSEN else jax.eval_shape(names, *args)
    # `expand_dims` and `copy` are what some versions of JAX call a reshape and nothing; a sum of
    # error signals is only in programs that derivatives are of
    assert set(RULES) - seen <= {"add_any", "copy", "expand_dims", "stop_gradient"}


def _initial(case, dtype):
    params = jax.jit(case.init)(jax.random.key(0))
    # of two, no relu of the small MLP is above 0
    shape = (5, *case.shape)
    x = integers(1, case.ids, shape) if case.ids else normal(1, shape, dtype)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params), x


NETS = {case.name: case for case in [*LAYERS, *MODELS]}
CORE = ("dense", "conv/2d_strided", "layer_norm", "lstm_cell", "attention", "mlp", "cnn/eval")
# others of their kind are thorough
LONG = (
    "efficientnet/eval", "recurrent_seq2seq", "resnet/group_norm", "seq2seq", "unet",
    "unet/one_level",
)  # fmt: skip


def _mark(name):
    return pytest.mark.exhaustive if name in LONG else () if name in CORE else pytest.mark.thorough


def _assert_equals_grad(case, dtype, rtol):
    """By the parameters and the input, relative to the largest derivative of each leaf alone."""
    with jax.enable_x64(dtype == "float64"):
        params, x = _initial(case, dtype)

        def loss(of, ids=None):
            params, x = (of, ids) if case.ids else of
            return _weighted(jnp.cos(case.apply(params, x)))

        of = (params, x) if case.ids else ((params, x),)
        value, found = jax.jit(backprop(loss))(*of)
        want_value, want = jax.jit(jax.value_and_grad(loss))(*of)
        np.testing.assert_allclose(value, want_value, rtol=rtol)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            size = float(jnp.max(jnp.abs(other)))
            assert size > 0
            np.testing.assert_allclose(one, other, rtol=0, atol=rtol * size)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=_mark(name)) for name, case in NETS.items()]
)
def test_equals_grad_on_layers_and_models(case):
    """Of feedforward, convolutional and recurrent nets, and attention."""
    _assert_equals_grad(case, "float64", 1e-13)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in NETS.items() if not case.heavy]
)
def test_equals_grad_in_single_precision(case):
    _assert_equals_grad(case, "float32", 1e-6)


def test_error_signals_are_those_derived_by_hand():
    """Of `softmax cross-entropy(tanh(x W₁ + b₁) W₂ + b₂)`, at every operation of the layers."""
    with jax.enable_x64(True):
        config = models.MLPConfig(3, 4, (5,), activation=jnp.tanh, param_dtype=jnp.float64)
        params = jax.jit(models.init_mlp)(jax.random.key(0), config)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(6, 3)), rng.integers(0, 4, 6)

        def loss(params):
            logits = models.mlp(params, config, x)
            return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

        _, tape = record(loss, params)
        signals = backward(tape)
        first, second = (jax.tree.map(np.asarray, layer) for layer in params["layers"])
        h = np.tanh(x @ first["kernel"] + first["bias"])
        logits = h @ second["kernel"] + second["bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        d_logits = (p - np.eye(4)[y]) / 6
        d_h = d_logits @ second["kernel"].T
        d_sums = d_h * (1 - h**2)
        want = [
            ("dot_general", x @ first["kernel"], d_sums), ("tanh", h, d_h),
            ("dot_general", h @ second["kernel"], d_logits),
        ]  # fmt: skip
        found = [o for o in tape.operations if o.name in ("dot_general", "tanh")]
        for operation, (name, value, signal) in zip(found, want, strict=True):
            assert operation.name == name
            (place,) = operation.results
            np.testing.assert_allclose(tape.values[place], value, rtol=1e-13)
            np.testing.assert_allclose(signals[place], signal, rtol=1e-12, atol=1e-15)
        _, gradient = backprop(loss)(params)
        np.testing.assert_allclose(
            gradient["layers"][0]["kernel"], x.T @ d_sums, rtol=1e-12, atol=1e-15
        )


def test_backpropagation_through_time_is_by_turns():
    """Of `h_t = tanh(w h_{t-1} + x_t)` the error signals are products of `w (1 - h²)`."""
    with jax.enable_x64(True):
        x, w = np.array([0.3, -0.2, 0.5, 0.1]), jnp.asarray(0.9)

        def loss(w):
            return lax.scan(lambda h, x: (jnp.tanh(w * h + x), None), jnp.zeros(()), x)[0]

        _, tape = record(loss, w)
        signals = backward(tape)
        turns = [o for o in tape.operations if o.name == "tanh"]
        assert [o.inside[-1] for o in turns] == ["turn 0", "turn 1", "turn 2", "turn 3"]
        want = 1.0
        for operation in reversed(turns):
            (place,) = operation.results
            np.testing.assert_allclose(signals[place], want, rtol=1e-14)
            want *= float(w) * (1 - float(tape.values[place]) ** 2)


def test_what_is_used_twice_adds_up_and_what_is_unused_is_zero():
    params = {"used": jnp.array([2.0, 3.0]), "unused": jnp.ones(3)}
    value, gradient = backprop(lambda p: jnp.sum(p["used"] * p["used"] + p["used"]))(params)
    assert value == 18
    np.testing.assert_array_equal(gradient["used"], [5, 7])
    np.testing.assert_array_equal(gradient["unused"], [0, 0, 0])


def test_aux_is_handed_through():
    def loss(w, x):
        return jnp.sum(w * x), {"seen": x + 1}

    (value, aux), gradient = backprop(loss, has_aux=True)(jnp.ones(2), jnp.array([1.0, 2.0]))
    assert value == 3
    np.testing.assert_array_equal(aux["seen"], [2, 3])
    np.testing.assert_array_equal(gradient, [1, 2])


def test_a_loop_whose_turns_only_the_run_shows_has_a_gradient_here():
    """`w` is squared until it is above 100: w → w^8, where reverse mode of JAX gives up."""

    def loss(w):
        return lax.while_loop(lambda v: v < 100, jnp.square, w)

    value, gradient = backprop(loss)(jnp.asarray(2.0))
    assert (value, gradient) == (256, 8 * 2.0**7)
    with pytest.raises(ValueError, match=r"which way a while goes must be known.*outside of jit"):
        jax.jit(backprop(loss))(jnp.asarray(2.0))


def test_a_rule_that_a_function_brings_is_kept():
    @jax.custom_vjp
    def rounded(x, n):
        return jnp.round(x * n) / n

    rounded.defvjp(lambda x, n: (rounded(x, n), None), lambda _, error: (error, None))
    _, gradient = backprop(lambda w: jnp.sum(rounded(w, 4) ** 2))(jnp.array([0.3, 1.1]))
    np.testing.assert_allclose(gradient, [0.5, 2.0])


def test_a_rule_is_kept_whatever_its_functions_name():
    """As that of our own convolution, which is for speed alone."""

    @jax.custom_vjp
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )

    def backward(kept, error):
        x, kernel = kept
        return jnp.zeros_like(x), jnp.zeros_like(kernel)

    convolve.defvjp(lambda *args: (convolve(*args), args), backward)
    x = jnp.ones((1, 4, 1))
    _, gradient = backprop(lambda kernel: jnp.sum(convolve(x, kernel)))(jnp.ones((3, 1, 1)))
    assert not np.any(gradient)


def test_what_hangs_on_data_alone_needs_no_rule():
    def loss(w, key):
        noise = jax.random.normal(key, w.shape)
        return jnp.sum((w + noise) ** 2 * jnp.sort(noise))

    w, key = jnp.ones(4), jax.random.key(0)
    np.testing.assert_allclose(backprop(loss)(w, key)[1], jax.grad(loss)(w, key), rtol=1e-6)


def test_a_program_inside_an_operation_is_no_call():
    def loss(w):
        return lax.reduce(w, jnp.float32(0), lambda a, b: a + 1.5 * b - 0.5 * b, (0,))

    value, _ = record(loss, jnp.array([1.0, -2.0, 4.0]))
    np.testing.assert_allclose(value, loss(jnp.array([1.0, -2.0, 4.0])))
    with pytest.raises(NotImplementedError, match="no rule for 'reduce'"):
        backprop(loss)(jnp.ones(3))


def test_arguments_may_be_any_objects():
    def loss(w, train, name=None):
        return jnp.sum(w) * (2 if train else 1)

    np.testing.assert_array_equal(backprop(loss)(jnp.ones(2), True, "x")[1], [2, 2])


def test_a_kernel_in_half_precision_may_be_summed_in_single():
    def loss(kernel, x):
        y = lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        return jnp.sum(y**2)

    kernel, x = jnp.ones((3, 1, 1), jnp.bfloat16), jnp.ones((1, 4, 1), jnp.bfloat16)
    _, gradient = backprop(loss)(kernel, x)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        gradient.astype("float32"), jax.grad(loss)(kernel, x).astype("float32"), rtol=1e-2
    )


def test_more_rules_may_be_given_and_are_what_is_used():
    def loss(w):
        return jnp.sum(lax.erf_inv(w) * jnp.array([1.0, 2.0, 3.0]))

    w = jnp.array([0.3, 0.1, -0.2])
    with pytest.raises(NotImplementedError, match="no rule for 'erf_inv'; pass rules="):
        backprop(loss)(w)

    def erf_inv(x, y, error, /, **params):
        return [error * jnp.sqrt(jnp.pi) / 2 * jnp.exp(y**2)]

    found = backprop(loss, rules={**RULES, "erf_inv": erf_inv})(w)[1]
    np.testing.assert_allclose(found, jax.grad(loss)(w), rtol=1e-5)
    wrong = {**RULES, "erf_inv": erf_inv, "mul": lambda x, y, error, /, **params: [error, error]}
    assert not np.allclose(backprop(loss, rules=wrong)(w)[1], found)


def test_pooling_of_flax_has_rules():
    """In a small convolutional net, strided, padded and with windows that overlap."""
    image = jnp.asarray(IMAGE[:1], jnp.float32)

    def loss(kernel):
        y = lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = linen.max_pool(jnp.tanh(y), (3, 3), strides=(2, 2), padding="SAME")
        return jnp.sum(jnp.sin(linen.avg_pool(y, (2, 2), count_include_pad=False)))

    kernel = jnp.asarray(KERNEL, jnp.float32)
    _, found = jax.jit(backprop(loss))(kernel)
    np.testing.assert_allclose(found, jax.jit(jax.grad(loss))(kernel), rtol=1e-4, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="parameters must be floating, got int32"):
        backprop(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match=r"loss must return one number, got float32\[2\]"):
        backprop(jnp.sin)(jnp.ones(2))
    with pytest.raises(TypeError, match=r"loss must return one number, got \{'a': "):
        backprop(lambda w: {"a": jnp.sum(w)})(jnp.ones(2))
    with pytest.raises(TypeError, match="loss must return one number, got None"):
        backprop(lambda w: None)(jnp.ones(2))
    with pytest.raises(NotImplementedError, match="complex values, which have no rules here"):
        backprop(lambda w: jnp.sum(jnp.abs(w * (1 + 2j))))(jnp.ones(2))
    with pytest.raises(TypeError, match=r"first result must be floating, got int32\[\]"):
        backward(record(jnp.argmax, jnp.ones(2))[1])


def test_training_by_the_three_steps_is_training_by_sgd():
    config = models.MLPConfig(2, 2, (8,))
    mine = theirs = jax.jit(models.init_mlp)(jax.random.key(0), config)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 2)), jnp.float32)
    y = jnp.asarray(x[:, 0] * x[:, 1] > 0, jnp.int32)

    def loss(params):
        logits = models.mlp(params, config, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    step = jax.jit(backprop(loss))
    optimizer = optim.sgd(0.5)

    @jax.jit
    def their_step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optim.apply_updates(params, updates), state

    state, seen = optimizer.init(theirs), []
    for _ in range(20):
        value, gradient = step(mine)
        mine = descend(mine, gradient, 0.5)
        theirs, state = their_step(theirs, state)
        seen.append(float(value))
    assert seen[-1] < 0.8 * seen[0]
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_tape_can_be_read():
    def hidden(w, x):
        return jnp.tanh(x @ w)

    _, tape = record(
        lambda w, x: jnp.sum(jax.jit(hidden)(w, x)), jnp.ones((2, 3)), jnp.ones((4, 2))
    )
    text = describe(tape, backward(tape))
    assert [line.split()[0] for line in text.splitlines()] == [
        "operation", "dot_general", "tanh", "reduce_sum",
    ]  # fmt: skip
    assert "float32[4, 3]" in text
    assert text.splitlines()[2].endswith("hidden")
    assert gradients.Tape is type(tape)


def test_a_choice_by_platform_is_known_inside_jit():
    params = nn.init_conv(jax.random.key(0), (3, 3), 4, 4, groups=4)
    x = jnp.linspace(-1, 1, 300).reshape(3, 5, 5, 4)

    def loss(params, x):
        return jnp.sum(jnp.tanh(nn.conv(params, x, groups=4)))

    value, found = jax.jit(backprop(loss))(params, x)
    want_value, want = jax.jit(jax.value_and_grad(loss))(params, x)
    np.testing.assert_allclose(value, want_value, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
