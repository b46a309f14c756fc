import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, losses, models
from tests.numerics import assert_trees_close, normal, relative_error

KEY = jax.random.key(0)
CONFIG = models.MLPConfig(n_in=6, n_out=4, hidden=(8,))
PARAMS = jax.jit(models.init_mlp)(KEY, CONFIG)
BATCH = 5
X = normal(0, (BATCH, 6))
Y = jnp.arange(BATCH) % 4


def loss(params, x, y):
    logits = models.mlp(params, CONFIG, x)
    return losses.softmax_cross_entropy_with_integer_labels(logits, y)


def one_by_one():
    """Each example's gradient by a Python loop: `[B, parameters]` in float64."""
    rows, gradient = [], jax.jit(jax.grad(loss))
    for x, y in zip(X, Y, strict=True):
        leaves = jax.tree.leaves(gradient(PARAMS, x, y))
        rows.append(np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves]))
    return np.stack(rows)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def factors():
    return gradients.per_example_grad(loss)(PARAMS, X, Y)[1]


def test_losses_and_gradients_are_those_of_each_example_alone(factors):
    values, _ = gradients.per_example_grad(loss)(PARAMS, X, Y)
    np.testing.assert_allclose(
        values, [loss(PARAMS, x, y) for x, y in zip(X, Y, strict=True)], rtol=1e-6
    )
    materialized = gradients.materialize(factors)
    assert jax.tree.structure(materialized) == jax.tree.structure(PARAMS)
    rows = np.stack([flat(jax.tree.map(lambda g, i=i: g[i], materialized)) for i in range(BATCH)])
    assert relative_error(rows, one_by_one()) <= 1e-6


def test_what_is_read_from_factors_is_what_the_rows_give(factors):
    rows = one_by_one()
    weights = jnp.array([1.0, -2.0, 0.0, 0.5, 3.0])
    tangent = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS
    )
    assert relative_error(gradients.sq_norms(factors), (rows**2).sum(1)) <= 1e-6
    assert relative_error(gradients.gram(factors), rows @ rows.T) <= 1e-6
    assert relative_error(gradients.dot(factors, tangent), rows @ flat(tangent)) <= 1e-6
    total = gradients.weighted_sum(factors, weights)
    assert relative_error(flat(total), np.asarray(weights) @ rows) <= 1e-6
    assert relative_error(flat(gradients.second_moment(factors)), (rows**2).mean(0)) <= 1e-6


def test_gram_against_another_batch(factors):
    _, others = gradients.per_example_grad(loss)(PARAMS, X[:2] + 1, Y[:2])
    cross = gradients.gram(factors, others)
    assert cross.shape == (BATCH, 2)
    for i in range(2):
        g = jax.tree.map(lambda leaf, i=i: leaf[i], gradients.materialize(others))
        assert relative_error(cross[:, i], gradients.dot(factors, g)) <= 1e-6


def test_norms():
    norms = gradients.per_example_norms(loss)(PARAMS, X, Y)
    assert relative_error(norms, np.linalg.norm(one_by_one(), axis=1)) <= 1e-6


def test_unclipped_is_the_gradient_of_the_mean():
    gradient, metrics = gradients.clipped_grad(loss, jnp.inf)(PARAMS, X, Y)
    mean = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0, 0))(p, X, Y)))(PARAMS)
    assert_trees_close(gradient, mean, 1e-6)
    assert not metrics.clipped.any()
    assert metrics.aux is None


def test_clipping_scales_each_example_to_the_bound():
    rows = one_by_one()
    norms = np.linalg.norm(rows, axis=1)
    bound = float(np.mean(norms))
    gradient, metrics = gradients.clipped_grad(loss, bound)(PARAMS, X, Y)
    want = (rows * np.minimum(1, bound / norms)[:, None]).mean(0)
    assert relative_error(flat(gradient), want) <= 1e-6
    np.testing.assert_array_equal(metrics.clipped, norms > bound)
    np.testing.assert_allclose(metrics.norms, norms, rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_example_that_is_not_finite_contributes_nothing(bad):
    x = X.at[2].set(bad)
    gradient, metrics = gradients.clipped_grad(loss, 0.1)(PARAMS, x, Y)
    keep = jnp.array([0, 1, 3, 4])
    without, _ = gradients.clipped_grad(loss, 0.1)(PARAMS, X[keep], Y[keep])
    assert_trees_close(gradient, jax.tree.map(lambda g: g * 4 / 5, without), 1e-6)
    assert metrics.clipped[2]


def test_zero_gradients_stay_zero():
    gradient, metrics = gradients.clipped_grad(lambda p, x: 0.0 * jnp.sum(p * x), 1.0)(
        jnp.ones(3), jnp.ones((2, 3))
    )
    np.testing.assert_array_equal(gradient, jnp.zeros(3))
    np.testing.assert_array_equal(metrics.norms, [0, 0])


def test_aux_keys_and_pytree_batches():
    def noisy(params, example, key):
        prediction = jnp.dot(example["x"], params)
        return jnp.square(prediction + jax.random.normal(key)), {"prediction": prediction}

    keys = jax.random.split(KEY, BATCH)
    params = jnp.arange(6.0)
    per_example = gradients.per_example_grad(noisy, has_aux=True)
    (values, aux), factors = jax.jit(per_example)(params, {"x": X}, keys)
    assert aux["prediction"].shape == values.shape == (BATCH,)
    for i in range(BATCH):
        want = jax.grad(noisy, has_aux=True)(params, {"x": X[i]}, keys[i])[0]
        assert relative_error(gradients.materialize(factors)[i], want) <= 1e-6


def test_keep_batch_dim_serves_losses_written_for_batches(factors):
    def batch_loss(params, x, y):
        assert x.shape == (1, 6)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(
            models.mlp(params, CONFIG, x), y))  # fmt: skip

    _, kept = gradients.per_example_grad(batch_loss, keep_batch_dim=True)(PARAMS, X, Y)
    assert_trees_close(gradients.materialize(kept), gradients.materialize(factors), 1e-6)


def test_factors_cross_jit_and_scan():
    def body(total, batch):
        _, factors = gradients.per_example_grad(loss)(PARAMS, *batch)
        return total + gradients.sq_norms(factors).sum(), factors

    total, stacked = jax.jit(lambda b: jax.lax.scan(body, 0.0, b))((X[:, None], Y[:, None]))
    assert relative_error(total, (one_by_one() ** 2).sum()) <= 1e-6
    assert isinstance(stacked, gradients.Factors)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("function", [jnp.dot, jnp.multiply])
def test_the_norm_of_a_gradient_of_zero_is_zero(function, dtype):
    """Squares that vanish are computed once more, scaled up: in half precision to infinity."""
    x = jnp.array([[3, 0], [0, 0]], dtype)
    norms = gradients.per_example_norms(lambda w, x: jnp.sum(1e3 * function(w, x)))(
        jnp.ones(2, dtype), x
    )
    assert norms[1] == 0
    assert norms[0] > 2e3


@pytest.mark.parametrize("size", [1e20, 1e-23])
def test_clipping_holds_where_squares_over_or_underflow(size):
    def linear(params, x):
        return jnp.dot(params, x)

    x = jnp.array([[size, 0.0], [0.0, -size]])
    gradient, metrics = gradients.clipped_grad(linear, size / 100)(jnp.ones(2), x)
    np.testing.assert_allclose(metrics.norms, [size, size], rtol=1e-6)
    np.testing.assert_allclose(gradient, [size / 200, -size / 200], rtol=1e-6)


def test_second_moments_of_half_precision_do_not_overflow():
    _, factors = gradients.per_example_grad(lambda p, x: jnp.sum(p) * x)(
        jnp.ones(2, jnp.float16), jnp.full(3, 300, jnp.float16)
    )
    np.testing.assert_allclose(gradients.second_moment(factors), [9e4, 9e4], rtol=1e-3)


def test_directional_derivatives_of_complex_parameters():
    def modulus(params, x):
        return jnp.sum(jnp.abs(params * x) ** 2)

    params, tangent = jnp.array([1 + 2j, 3 - 1j]), jnp.array([0.5 - 1j, 2 + 1j])
    x = jnp.array([1.0, 2.0])
    _, factors = gradients.per_example_grad(modulus)(params, x)
    want = [jax.jvp(lambda p, s=s: modulus(p, s), (params,), (tangent,))[1] for s in x]
    np.testing.assert_allclose(gradients.dot(factors, tangent), want, rtol=1e-6)


def test_half_precision_norms_accumulate_in_float32():
    params = jnp.ones(4096, jnp.bfloat16)
    norms = gradients.per_example_norms(lambda p, x: jnp.sum(p) * x)(
        params, jnp.ones(2, jnp.bfloat16)
    )
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, 64, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((PARAMS, X, Y[:3]), ValueError, r"same leading size, got shapes \[\(5, 6\), \(3,\)\]"),
        ((PARAMS, X[:0], Y[:0]), ValueError, "batch is empty"),
        ((PARAMS, X, jnp.int32(1)), ValueError, "leading batch axis, got a scalar"),
        ((PARAMS,), ValueError, "needs a batch after params"),
        ((jnp.arange(3), X, Y), TypeError, r"params must be floating, got int32\[3\] as a whole"),
    ],
)
def test_bad_input_is_named(args, error, message):
    with pytest.raises(error, match=message):
        gradients.per_example_grad(loss)(*args)


@pytest.mark.parametrize("kind", [jnp.int32, bool, jnp.complex64])
def test_a_loss_that_is_not_a_real_number_is_refused(kind):
    with pytest.raises(TypeError, match="loss must be real and floating, got "):
        gradients.per_example_grad(lambda p, x: jnp.sum(p * x).astype(kind))(jnp.ones(6), X)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"must return a scalar for one example, got shape \(6,\)"):
        gradients.per_example_grad(lambda p, x: p * x)(jnp.ones(6), X)
    with pytest.raises(ValueError, match="clip_norm must be positive, got 0"):
        gradients.clipped_grad(loss, 0)
    factors = gradients.per_example_grad(loss)(PARAMS, X, Y)[1]
    with pytest.raises(ValueError, match=r"weights must be \[5\]"):
        gradients.weighted_sum(factors, jnp.ones(4))
    for bad in (jnp.float32(-1), np.float32(-1)):
        with pytest.raises(ValueError, match="clip_norm must be positive"):
            gradients.clipped_grad(loss, bad)
    with pytest.raises(ValueError, match=r"clip_norm must be a scalar, got shape \(2,\)"):
        gradients.clipped_grad(loss, jnp.ones(2))
    turned = jax.tree.map(jnp.transpose, PARAMS)
    with pytest.raises(ValueError, match=r"tangent must be shaped as params; 'layers/0/kernel'"):
        gradients.dot(factors, turned)
    with pytest.raises(ValueError, match="params has no leaves"):
        gradients.per_example_grad(lambda p, x: x)({}, jnp.ones(3))
