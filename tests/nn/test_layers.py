"""Every layer and model of the catalogue × the properties that all of them have."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from jaxnets import gradients, models, nn
from tests.catalogue import LAYERS, MODELS, initial, thorough_beyond
from tests.numerics import assert_trees_close, relative_error

BATCH = 4
CASES = LAYERS + MODELS
SEPARATE = [case for case in CASES if not case.mixes_examples]


LONG = {
    "bidirectional",
    "cached_attention",
    "cnn/eval",
    "conv/1d_causal_dilated",
    "conv/2d_grouped",
    "conv/3d",
    "rnn/bidirectional",
    "unroll/gru_reverse_padded",
    "unroll/lstm_padded",
}


EAGER = {"dense", "conv/2d", "layer_norm", "batch_norm/train", "lstm_cell", "attention", "mlp"}
"""Which compute quickly without `jit`, and are made of what others are made of."""


def each(cases, thorough=False, few=None):
    """A test for each case. Of the long ones few properties are not exhaustive.

    Where `few` are named, all others are.
    """

    def marks(case):
        if few is not None:
            return [] if case.name in few else [pytest.mark.exhaustive]
        if case.heavy or (thorough and case.name in LONG):
            return [pytest.mark.exhaustive]
        return [pytest.mark.thorough] if thorough or case.name in LONG else []

    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name, marks=marks(case)) for case in cases]
    )


def params_and_input(case, dtype=np.float32):
    params = jax.tree.map(lambda p: p.astype(dtype), initial(case))
    rng = np.random.default_rng(0)
    if case.ids:
        return params, jnp.asarray(rng.integers(0, case.ids, (BATCH, *case.shape)))
    return params, jnp.asarray(rng.standard_normal((BATCH, *case.shape)), dtype)


def precision(case, tolerance):
    """`(dtype, tolerance)`: float32 does not tell a deep net's rounding from an error."""
    return (np.float64, 1e-10) if case.heavy else (np.float32, tolerance)


def pairing(case, apply, dtype=np.float32):
    """A scalar whose gradient sees every output differently, and is differentiable in `wrt`."""
    params, x = params_and_input(case, dtype)
    y = jax.eval_shape(apply, params, x)
    weights = np.random.default_rng(1).standard_normal(y.shape)

    def loss(wrt):
        params, x = wrt
        y = apply(params, x)
        return jnp.sum(y * weights.astype(y.dtype))

    return loss


def differentiable(case, params, x):
    """What a gradient is taken of: integer ids have none."""
    if case.ids:
        return params, lambda loss: lambda params: loss((params, x))
    return (params, x), lambda loss: loss


@each(CASES)
def test_agrees_with_linen_in_value_and_all_gradients(case):
    dtype, tolerance = precision(case, 1e-6)
    with jax.enable_x64(case.heavy):
        params, x = params_and_input(case, dtype)
        wrt, restrict = differentiable(case, params, x)

        def value_and_gradients(apply):
            gradients = jax.grad(restrict(pairing(case, apply, dtype)))
            return jax.jit(lambda params, x, wrt: (apply(params, x), gradients(wrt)))(
                params, x, wrt
            )

        ours = value_and_gradients(case.apply)
        assert_trees_close(ours, value_and_gradients(case.oracle), tolerance)


FEW = {"encoder", "resnet/group_norm", "seq2seq", "transformer", "two_tower", "vae"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.thorough if case.name in FEW else pytest.mark.exhaustive,
        )
        for case in CASES
        if case.heavy
    ],
)
def test_heavy_models_agree_with_linen_in_value(case, x64):
    params, x = params_and_input(case, np.float64)
    got, want = (jax.jit(f)(params, x) for f in (case.apply, case.oracle))
    assert got.dtype == np.float64
    assert relative_error(got, want) <= 1e-12


@each(CASES, few=EAGER)
def test_jit_equals_eager_and_traces_once(case):
    params, x = params_and_input(case)
    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(case.apply, n=1))
    with jax.checking_leaks():
        compiled = jitted(params, x)
        jitted(jax.tree.map(jnp.copy, params), x + 1)
    assert relative_error(compiled, case.apply(params, x)) <= 1e-6


def test_every_layer_and_model_has_a_row():
    rows = {case.name.split("/")[0] for case in CASES}
    not_layers = {
        "activations",
        "initializers",
        "scan_layers",
        "zero_carry",
        *nn.activations.__all__,
    }
    # of positions alone, and parts of multi-head attention
    not_layers |= {"alibi", "alibi_slopes", "rotary_angles", "sinusoidal"}
    not_layers |= {"attend_to", "attention_weights", "keys_and_values"}
    layers = {n for n in nn.__all__ if not n.startswith("init_")} - not_layers
    assert layers <= rows
    functions = {n.removeprefix("init_") for n in models.__all__ if n.startswith("init_")}
    assert functions <= rows


@each(SEPARATE)
def test_vmap_is_the_batch(case):
    params, x = params_and_input(case)
    apply = jax.jit(case.apply)
    batch = apply(params, x)
    mapped = jax.jit(jax.vmap(case.apply, (None, 0)))(params, x)
    one_by_one = jnp.stack([apply(params, example) for example in x])
    assert relative_error(mapped, batch) <= 1e-6
    assert relative_error(one_by_one, batch) <= 1e-6


@each(SEPARATE)
def test_leading_axes_broadcast(case):
    params, x = params_and_input(case)
    two_axes = x.reshape(2, BATCH // 2, *case.shape)
    apply = jax.jit(case.apply)
    want, got = apply(params, x), apply(params, two_axes)
    assert relative_error(got.reshape(want.shape), want) <= 1e-6


@each(
    [case for case in SEPARATE if jax.tree.leaves(jax.eval_shape(case.init, jax.random.key(0)))],
    # the others' factors are held to `vmap(grad)` by the tests of the engine
    few={"dense", "attention"},
)
def test_mean_of_per_example_gradients_is_the_batch_gradient(case):
    def loss(params, example):
        return jnp.mean(jnp.square(case.apply(params, example)))

    def batch_loss(params, x):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, x))

    @jax.jit
    def mean(params, x):
        _, factors = gradients.per_example_grad(loss)(params, x)
        return jax.tree.map(lambda g: g.mean(0), gradients.materialize(factors))

    dtype, tolerance = precision(case, 2e-6)
    with jax.enable_x64(case.heavy):
        params, x = params_and_input(case, dtype)
        want = jax.jit(jax.grad(batch_loss))(params, x)
        assert_trees_close(mean(params, x), want, tolerance)


@each(CASES, thorough=True)
def test_derivatives_agree_with_finite_differences_in_float64(case, x64):
    params, x = params_and_input(case, np.float64)
    wrt, restrict = differentiable(case, params, x)
    loss = jax.jit(restrict(pairing(case, case.apply)))
    check_grads(loss, (wrt,), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-5)


HAND_DERIVED = [
    "conv/2d",
    "conv/2d_strided",
    "conv/2d_depthwise",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "instance_norm",
    "unroll/lstm_padded",
    "unroll/gru_reverse_padded",
]


@each(
    [case for case in CASES if case.name in [*HAND_DERIVED, "batch_norm/train", "cnn/train"]],
    thorough=True,
)
def test_second_derivatives_agree_with_linen(case, x64):
    params, x = params_and_input(case, np.float64)
    tangent = jax.tree.map(lambda leaf: jnp.cos(3 + jnp.arange(leaf.size)).reshape(leaf.shape), x)

    def hessian_vector_product(apply):
        def loss(params, x):
            y = apply(params, x)
            weights = np.random.default_rng(1).standard_normal(y.shape)
            return jnp.sum(weights * jnp.sin(3 * y))

        def directional(params, x):
            return jax.jvp(lambda x: loss(params, x), (x,), (tangent,))[1]

        return jax.jit(jax.grad(directional, (0, 1)))(params, x)

    got = hessian_vector_product(case.apply)
    assert_trees_close(got, hessian_vector_product(case.oracle), 1e-10)


@each([case for case in CASES if not case.ids], few=EAGER)
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.exhaustive)], ids=str
)
def test_half_precision_in_and_out(case, dtype):
    params, x = params_and_input(case)
    x = x.astype(dtype)
    apply = jax.jit(case.apply)
    y = apply(params, x)
    assert y.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    assert relative_error(y, apply(params, x.astype(jnp.float32))) <= 4 * eps

    gradient = jax.jit(jax.grad(pairing(case, case.apply)))
    got, want = gradient((params, x)), gradient((params, x.astype(jnp.float32)))
    assert got[1].dtype == dtype
    assert {g.dtype for g in jax.tree.leaves(got[0])} <= {np.dtype("float32")}
    if case.heavy:
        # many roundings, which a leaf of nearly vanishing gradients shows as large
        got, want = (ravel_pytree(g)[0] for g in (got, want))
    # a few roundings a layer; a maximum may fall to another of two close values
    assert_trees_close(got, want, 64 * eps)


def keeps_shape(case):
    """Known from shapes alone: whoever collects the tests compiles nothing."""
    params = jax.eval_shape(case.init, jax.random.key(0))
    dtype = int if case.ids else jnp.float32
    x = jax.ShapeDtypeStruct((BATCH, *case.shape), jax.dtypes.canonicalize_dtype(dtype))
    return jax.eval_shape(case.apply, params, x).shape == x.shape and jax.tree.leaves(params)


STACKED = {case.name: (case,) for case in LAYERS if keeps_shape(case)}


@pytest.mark.parametrize("case", thorough_beyond({"dense"}, STACKED, pytest.mark.exhaustive))
def test_exact_under_a_stacked_depth_of_12(case):
    stacked = nn.init_stack(case.init, jax.random.key(0), 12)
    _, x = params_and_input(case)

    def block(params, x):
        return x + case.apply(params, x) / 4

    def one_by_one(stacked, x):
        for layer in range(12):
            x = block(jax.tree.map(lambda leaf, i=layer: leaf[i], stacked), x)
        return x

    def scanned(stacked, x, **options):
        return nn.scan_layers(block, stacked, x, **options)

    def value_and_gradient(function, **options):
        def loss(stacked, x):
            y = function(stacked, x, **options)
            return jnp.sum(jnp.square(y)), y

        (_, y), gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(stacked, x)
        return y, gradient

    want = value_and_gradient(one_by_one)
    assert_trees_close(value_and_gradient(scanned), want, 2e-6)
    assert_trees_close(value_and_gradient(scanned, remat=True), want, 2e-6)
    assert_trees_close(value_and_gradient(scanned, unroll=True), want, 2e-6)
