import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import nn
from tests.numerics import assert_trees_close, normal

KEY = jax.random.key(0)


def test_dense_accumulates_half_precision_in_float32():
    """4,096 terms of 1/64 each: bfloat16 partial sums would stop growing at 4."""
    params = {"kernel": jnp.full((4096, 1), 1 / 64, jnp.bfloat16)}
    np.testing.assert_array_equal(nn.dense(params, jnp.ones(4096, jnp.bfloat16)), [64.0])


@pytest.mark.parametrize(
    "init", [nn.init_dense, lambda k, *a, **kw: nn.init_conv(k, (1,), *a, **kw)]
)
def test_kernel_and_bias_are_drawn_independently(init):
    draw = nn.initializers.normal(1.0)
    params = init(KEY, 1, 8, kernel_init=draw, bias_init=draw)
    assert not np.allclose(params["kernel"].ravel(), params["bias"])


def test_dense_computes_in_the_dtype_of_x():
    params = nn.init_dense(KEY, 3, 4)
    assert nn.dense(params, jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert nn.dense(half, jnp.ones(3)).dtype == jnp.float32


def test_dense_names_what_does_not_fit():
    params = nn.init_dense(KEY, 3, 4)
    with pytest.raises(ValueError, match=r"dense: x must be \[..., 3\].*\[3, 4\], got \[2, 5\]"):
        nn.dense(params, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"got \[\]"):
        nn.dense(params, jnp.float32(1))
    with pytest.raises(TypeError, match="dense: x must be of a floating dtype, got int32"):
        nn.dense(params, jnp.ones((2, 3), jnp.int32))


def test_embedding_checks_ids_eagerly_and_gives_nan_under_jit():
    params = nn.init_embedding(KEY, 5, 3)
    for bad in ([0, 5], [-1, 2]):
        with pytest.raises(ValueError, match=r"ids must be in \[0, 5\)"):
            nn.embedding(params, jnp.array(bad))
        rows = jax.jit(nn.embedding)(params, jnp.array(bad))
        inside = np.array([0 <= i < 5 for i in bad])
        np.testing.assert_array_equal(jnp.isnan(rows).all(-1), ~inside)
    with pytest.raises(TypeError, match="ids must be integers, got float32"):
        nn.embedding(params, jnp.ones(2))


def test_embedding_checks_ids_that_a_jitted_function_closes_over():
    params, ids = nn.init_embedding(KEY, 5, 3), jnp.array([0, 4])
    assert jax.jit(lambda p: nn.embedding(p, ids))(params).shape == (2, 3)
    with pytest.raises(ValueError, match="ids must be in"):
        jax.jit(lambda p: nn.embedding(p, np.array([7])))(params)


def test_gelu_is_exact_and_its_approximation_has_its_own_name():
    x = jnp.linspace(-4, 4, 101)
    exact = x * jax.scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(nn.gelu(x), exact, atol=2e-7)
    assert 1e-5 < float(jnp.abs(nn.gelu_tanh(x) - exact).max()) < 1e-3


def phi(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def logistic(x):
    return 1 / (1 + np.exp(-x))


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: LAMBDA * np.where(x > 0, x, ALPHA * np.expm1(x)),
    "gelu": lambda x: x * phi(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * logistic(x),
    "swish": lambda x: x * logistic(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "sigmoid": logistic,
    "log_sigmoid": lambda x: np.log(logistic(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "tanh": np.tanh,
    "soft_sign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum()),
    "glu": lambda x: x[:8] * logistic(x[8:]),
}


@pytest.mark.parametrize("name", nn.activations.__all__)
def test_activations_are_their_formulas(name):
    x = np.linspace(-7, 7, 16)
    got = getattr(nn, name)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, FORMULAS[name](x), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", nn.activations.__all__)
def test_activations_are_finite_with_finite_gradients_at_extremes(name):
    activation = getattr(nn, name)
    x = jnp.array([-1e4, -1.0, -0.0, 0.0, 1.0, 1e4])
    y, pullback = jax.vjp(activation, x)
    assert jnp.all(jnp.isfinite(y))
    assert jnp.all(jnp.isfinite(pullback(jnp.ones_like(y))[0]))


def test_positions_may_be_split_over_devices():
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Explicit,))
    params = nn.init_dense(KEY, 3, 4)
    x = normal(0, (2, 5, 3))
    want = jax.grad(lambda p: jnp.sum(nn.dense(p, x) ** 2))(params)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P(None, "devices")))
        got = jax.jit(jax.grad(lambda p: jnp.sum(nn.dense(p, split) ** 2)))(params)
    assert_trees_close(got, want, 1e-6)


def test_no_features_are_a_sum_of_nothing():
    y = nn.dense({"kernel": jnp.zeros((0, 4)), "bias": jnp.ones(4)}, jnp.zeros((2, 3, 0)))
    np.testing.assert_array_equal(y, jnp.ones((2, 3, 4)))
