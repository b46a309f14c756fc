"""Statistics from factors, beside their definitions by `vmap(grad)` in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, models
from tests.catalogue import thorough_beyond
from tests.gradients.zoo import CASES, drawn
from tests.numerics import assert_trees_close, integers, normal, relative_error

B = 6


def tied_language_model(params, tokens):
    """An embedding that is also the output layer, and layers in a scan."""
    x, _ = lax.scan(
        lambda x, p: (x + jnp.tanh(x @ p["kernel"] + p["bias"][None]), None),
        params["embedding"][tokens[:-1]],
        params["layers"],
    )
    logits = x @ params["embedding"].T
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], 1))


def language_model(dtype):
    params = {
        "embedding": normal(0, (7, 4), dtype),
        "layers": {
            "kernel": 0.5 * normal(1, (3, 4, 4), dtype),
            "bias": jnp.zeros((3, 4), dtype),
        },
    }
    return tied_language_model, params, integers(2, 7, (B, 5))


def convolutional(dtype):
    config = models.CNNConfig((6, 6, 1), 3, channels=(2,), hidden=(4,), batch_norm=False,
                              param_dtype=dtype)  # fmt: skip
    params, state = jax.jit(models.init_cnn)(jax.random.key(0), config)

    def loss(params, x):
        return jax.nn.logsumexp(models.cnn(params, config, x, state=state)[0])

    return loss, params, normal(1, (B, 6, 6, 1), dtype)


def of_zoo(name):
    (case,) = (case for case in CASES if case.name == name)

    def make(dtype):
        return case.loss, *drawn(case, B, dtype, scale=1)

    return make


NETS = {
    "tied language model": language_model,
    "convolutional net": convolutional,
    **{name: of_zoo(name) for name in ("adapter", "not used", "in a recurrence", "wide")},
    **{name: of_zoo(name) for name in ("embedding", "tied to the embedding twice", "sliced")},
}


def statistics(loss, params, batch):
    _, factors = gradients.per_example_grad(loss)(params, batch)
    _, others = gradients.per_example_grad(loss)(params, jax.tree.map(lambda x: x[:2], batch))
    seen = gradients.moments(factors)
    return {
        "examples": seen.examples,
        "mean": seen.mean,
        "sq_norms": seen.sq_norms,
        "noise scale": tuple(gradients.noise_scale(seen)),
        "scale": gradients.noise_scale(seen).scale,
        "signal to noise": tuple(gradients.signal_to_noise(seen)),
        "diversity": tuple(gradients.diversity(seen)),
        "tracin": gradients.tracin(factors, others, 0.1),
        "self-influence": gradients.self_influence(factors, 0.1),
        "hardest": gradients.hardest(factors, 3),
    }


def by_definition(loss, params, batch):
    """In float64, from the covariance matrix itself."""
    own = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
    own = jax.tree.map(lambda g: np.asarray(g, np.float64).reshape(B, -1), own)
    all_of = np.concatenate(jax.tree.leaves(own), 1)

    def parts(g):
        sigma = np.atleast_2d(np.cov(g, rowvar=False))
        # of the products of different examples, whose expectation is ‖G‖²
        products = g @ g.T
        return (products.sum() - np.trace(products)) / (B * (B - 1)), np.trace(sigma)

    norms = np.linalg.norm(all_of, axis=1)
    order = np.argsort(-norms, kind="stable")[:3]
    sq_norm, trace = parts(all_of)
    ratio = np.sum(norms**2) / np.sum(all_of.sum(0) ** 2)
    return {
        "examples": B,
        "mean": jax.tree.map(lambda g, p: g.mean(0).reshape(p.shape), own, params),
        "sq_norms": jax.tree.map(lambda g: np.mean(np.sum(g**2, 1)), own),
        "noise scale": (sq_norm, trace),
        "scale": trace / sq_norm if sq_norm > 0 else np.inf,
        "signal to noise": (
            jax.tree.map(lambda g: parts(g)[0], own),
            jax.tree.map(lambda g: parts(g)[1] / B, own),
        ),
        "diversity": (ratio, B * ratio),
        "tracin": 0.1 * all_of @ all_of[:2].T,
        "self-influence": 0.1 * norms**2,
        "hardest": (order, norms[order]),
    }


def assert_as_defined(net, dtype, rtol):
    loss, params, batch = net(dtype)
    got = jax.jit(statistics, static_argnums=0)(loss, params, batch)
    want = by_definition(loss, params, batch)
    assert float(got["scale"]) == pytest.approx(want.pop("scale"), rel=100 * rtol)
    assert_trees_close({name: got[name] for name in want}, want, rtol)


FEW = {"not used"}


@pytest.mark.parametrize(
    "net", thorough_beyond(FEW, {name: (make,) for name, make in NETS.items()})
)
def test_float64(net, x64):
    assert_as_defined(net, jnp.float64, 1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_float32(net):
    # estimates of ‖G‖² are differences of larger numbers
    assert_as_defined(net, jnp.float32, 1e-4)


def linear(params, x):
    """Its gradient is `x` itself, for `{"a": [2], "b": [3]}`."""
    return jnp.dot(params["a"], x[:2]) + jnp.dot(params["b"], x[2:])


ZEROS = {"a": jnp.zeros(2), "b": jnp.zeros(3)}


def factors_of(x):
    return _factors_of(jnp.asarray(x))


@jax.jit
def _factors_of(x):
    return gradients.per_example_grad(linear)(ZEROS, x)[1]


@jax.jit
def everything(x):
    """All that is asked of one batch, whose gradients are `x`."""
    factors = factors_of(x)
    parts = gradients.noise_scale(factors)
    snr = gradients.signal_to_noise(factors)
    return parts, parts.scale, snr, snr.ratio, gradients.diversity(factors)


def test_estimates_are_unbiased(x64):
    """Over many batches drawn from a population whose `G` and `Σ` are known."""
    rng = np.random.default_rng(0)
    population = rng.normal(0.3, [1.0, 2.0, 0.5, 0.1, 3.0], (40, 5)) ** 3
    mean, sigma = population.mean(0), np.cov(population, rowvar=False, bias=True)
    n, batches = 4, 40_000
    drawn = jnp.asarray(population[rng.integers(0, 40, (batches, n))])
    whole, _, by_leaf, _, _ = jax.jit(jax.vmap(everything))(drawn)

    def assert_unbiased(estimates, truth):
        off = np.mean(estimates) - truth
        assert abs(off) < 4 * np.std(estimates) / np.sqrt(batches)

    variances = np.diag(sigma)
    assert_unbiased(whole.sq_norm, mean @ mean)
    assert_unbiased(whole.trace, variances.sum())
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 5))):
        assert_unbiased(by_leaf.signal[name], mean[part] @ mean[part])
        assert_unbiased(by_leaf.noise[name], variances[part].sum() / n)
    # what is corrected is seen at this number of batches: without it the test would fail
    plain = np.asarray(jnp.sum(drawn.mean(1) ** 2, -1))
    assert plain.mean() - mean @ mean > 20 * plain.std() / np.sqrt(batches)
    # and the ratio of averages is the noise scale, which the average of ratios is not
    scale = variances.sum() / (mean @ mean)
    average = jax.tree.map(jnp.mean, whole)
    assert float(average.scale) == pytest.approx(scale, rel=0.1)
    assert not np.mean(whole.scale) < 2 * scale


def test_factors_and_moments_serve_alike_and_the_mean_is_the_gradient():
    x = normal(0, (B, 5))
    factors = factors_of(x)
    seen = gradients.moments(factors)
    for statistic in (gradients.noise_scale, gradients.signal_to_noise, gradients.diversity):
        assert_trees_close(statistic(seen), statistic(factors), 1e-6)
    want = jax.grad(lambda p: jnp.mean(jax.vmap(linear, (None, 0))(p, x)))(ZEROS)
    assert_trees_close(seen.mean, want, 1e-6)


def test_a_running_average_of_the_parts_keeps_its_scale():
    seen = gradients.noise_scale(factors_of(np.eye(5)[:2]))
    average = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, seen, seen)
    assert float(seen.sq_norm) == 0
    assert float(seen.trace) == 1
    assert np.isinf(average.scale)
    assert float(average._replace(sq_norm=jnp.array(-0.5)).scale) == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_examples_that_are_not_finite_are_left_out(bad):
    x = np.random.default_rng(1).normal(1, 1, (4, 5))
    with_bad = np.insert(x, 2, [1, bad, 0, 0, 0], axis=0)
    assert_trees_close(everything(with_bad), everything(x), 1e-6)
    assert float(gradients.moments(factors_of(with_bad)).examples) == 4
    influence = gradients.tracin(factors_of(with_bad), factors_of(x))
    np.testing.assert_allclose(np.delete(influence, 2, 0), x @ x.T, rtol=1e-5, atol=1e-6)
    indices, norms = gradients.hardest(factors_of(with_bad), 2)
    largest = np.argmax(np.linalg.norm(x, axis=1))
    np.testing.assert_array_equal(indices, [2, largest + (largest >= 2)])
    assert float(norms[1]) == pytest.approx(np.linalg.norm(x, axis=1).max())


def test_none_finite_is_nan():
    found = everything(np.full((3, 5), np.nan))
    assert all(np.isnan(leaf) for leaf in jax.tree.leaves(found))


def test_one_example_has_no_noise_to_be_seen():
    one = factors_of(np.ones((1, 5)))
    for statistic in (gradients.noise_scale, gradients.signal_to_noise):
        with pytest.raises(ValueError, match=f"{statistic.__name__}: needs a batch of at least 2"):
            statistic(one)
        found = jax.tree.leaves(statistic(gradients.moments(one)))
        assert all(np.isnan(leaf) for leaf in found)
    assert gradients.diversity(one) == (1, 1)
    # whichever way the square and the norm are rounded
    matrix, x = jnp.ones((3, 3)), normal(0, (20, 1, 3))
    each = jax.vmap(
        lambda x: gradients.moments(
            gradients.per_example_grad(lambda w, x: jnp.sum(jnp.tanh(w @ x)))(matrix, x)[1]
        )
    )(x)
    assert np.all(np.isnan(jax.vmap(gradients.noise_scale)(each).trace))
    # nor of one that is finite
    beside = np.stack([np.ones(5), np.full(5, np.inf)])
    assert np.isnan(gradients.noise_scale(factors_of(beside)).scale)


def test_the_extremes():
    parts, scale, snr, ratio, diversity = everything(np.zeros((3, 5)))
    assert parts == (0, 0)
    assert all(np.isnan(x) for x in jax.tree.leaves((scale, ratio, diversity)))
    # all alike
    parts, scale, snr, ratio, diversity = everything(np.full((4, 5), 3.0))
    assert parts == (45, 0)
    assert scale == 0
    assert snr.signal == {"a": 18, "b": 27}
    assert ratio == {"a": np.inf, "b": np.inf}
    assert diversity == (0.25, 1)
    # nothing in common
    parts, scale, _, _, diversity = everything(np.eye(5))
    assert parts.sq_norm == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(diversity, (1, 5), rtol=1e-6)
    # against each other
    parts, scale, _, _, diversity = everything(np.array([[1.0], [-1.0]]) * np.ones(5))
    assert parts == (-5, 10)
    assert (scale, *diversity) == (np.inf, np.inf, np.inf)


def test_half_precision_is_summed_in_float32():
    """In bfloat16, 1 added to 256 is lost."""

    def loss(params, x):
        return jnp.sum(params * x)

    # exact in bfloat16, as is their mean; the squares are not
    mean = 1 + 2**-7
    x = jnp.full((1000, 4), mean - 0.5, jnp.bfloat16).at[::2].set(mean + 0.5)
    _, factors = gradients.per_example_grad(loss)(jnp.ones(4, jnp.bfloat16), x)
    seen = gradients.moments(factors)
    assert seen.mean.dtype == jnp.bfloat16
    parts = gradients.noise_scale(seen)
    assert {leaf.dtype for leaf in (*parts, seen.sq_norms)} == {jnp.dtype("float32")}
    trace = 4 * 0.25 * 1000 / 999
    assert float(seen.sq_norms) == pytest.approx(4 * (mean**2 + 0.25), rel=1e-6)
    assert float(parts.trace) == pytest.approx(trace, rel=1e-5)
    assert float(parts.sq_norm) == pytest.approx(4 * mean**2 - trace / 1000, rel=1e-5)


def test_influence_is_what_a_step_takes_off_the_loss(x64):
    def loss(params, x):
        return jnp.sum(jnp.tanh(params @ x) ** 2)

    params, x = (0.3 * normal(i, (4, 3)) for i in range(2))
    rate = 1e-5

    @jax.jit
    def both(train, test):
        gradient = gradients.per_example_grad(loss)
        found = gradients.tracin(gradient(params, train)[1], gradient(params, test)[1], rate)
        stepped = jax.vmap(lambda x: params - rate * jax.grad(loss)(params, x))(train)
        before = jax.vmap(loss, (None, 0))(params, test)
        return found, before[None] - jax.vmap(lambda p: jax.vmap(loss, (None, 0))(p, test))(stepped)

    found, taken_off = both(x[:2], x[2:])
    assert relative_error(found, taken_off) < 1e-3


def test_a_self_influence_is_the_diagonal_of_the_influences():
    factors = factors_of(np.random.default_rng(0).normal(0, 1, (B, 5)))
    itself = gradients.tracin(factors, factors, jnp.array(0.5))
    assert relative_error(gradients.self_influence(factors, 0.5), np.diag(itself)) < 1e-6


def test_they_cross_jit_and_scan_beside_training():
    """One program: the gradient that trains, and what is seen of it at each step."""
    x = jax.random.normal(jax.random.key(0), (20, B, 5))

    def loss(params, x):
        return 0.5 * jnp.sum(jnp.square(params - x))

    @jax.jit
    def run(params):
        def step(params, batch):
            _, factors = gradients.per_example_grad(loss)(params, batch)
            seen = gradients.moments(factors)
            return params - 0.5 * seen.mean, gradients.noise_scale(seen)

        return lax.scan(step, params, x)

    params, seen = run(jnp.full(5, 100.0))
    assert seen.scale.shape == (20,)
    want = np.full(5, 100.0)
    for batch in np.asarray(x):
        want = want - 0.5 * (want - batch.mean(0))
    np.testing.assert_allclose(params, want, rtol=1e-5)
    # far from the minimum all examples say the same; there, little
    assert (
        float(seen.scale[0]) < 1e-3 < 1 < float(jax.tree.map(lambda s: s[10:].mean(), seen).scale)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: gradients.tracin(f, f, jnp.ones(2)), r"tracin: learning_rate must be a scalar"),
        (lambda f: gradients.self_influence(f, jnp.ones(2)), "self_influence: learning_rate must"),
        (lambda f: gradients.hardest(f, 0), "hardest: count must be from 1 to 3, got 0"),
        (lambda f: gradients.hardest(f, 4), "hardest: count must be from 1 to 3, got 4"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(factors_of(np.ones((3, 5))))
