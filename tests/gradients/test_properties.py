"""Factors of random small nets, beside their definition; and norms that are never too small."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxnets import gradients
from tests.catalogue import thorough_beyond
from tests.gradients.nets import nets
from tests.gradients.test_engine import assert_as_defined, flat

EXAMPLES = st.integers(1, 5)
SEEDS = st.integers(0, 99)


def drawn(count):
    """The same at each run; not shrunk, since each new shape is compiled."""
    return hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def holds_its_definition(net, examples, seed):
    with jax.enable_x64(True):
        assert_as_defined(net.loss, *net.drawn(examples, seed, jnp.float64), 1e-10)


@drawn(1)
@hypothesis.given(nets(), EXAMPLES, SEEDS)
def test_random_nets(net, examples, seed):
    holds_its_definition(net, examples, seed)


@pytest.mark.thorough
@drawn(15)
@hypothesis.given(nets(), EXAMPLES, SEEDS)
def test_more_random_nets(net, examples, seed):
    holds_its_definition(net, examples, seed)


def leaves_the_others_exact(net, examples, seed, bad):
    """In place of one example, numbers that are not finite."""
    with jax.enable_x64(True):
        params, batch = net.drawn(examples, seed, jnp.float64)
        last = examples - 1
        spoiled = batch.at[last].set(bad)

        @jax.jit
        def ours(params, batch):
            _, factors = gradients.per_example_grad(net.loss)(params, batch)
            weights = jnp.arange(1.0, examples + 1).at[last].set(0)
            clipped, metrics = gradients.clipped_grad(net.loss, 1.0)(params, batch)
            squares = gradients.sq_norms(factors)
            return gradients.weighted_sum(factors, weights), squares, clipped, metrics

        sums, squares, clipped, metrics = ours(params, spoiled)
        own = flat(jax.jit(jax.vmap(jax.grad(net.loss), (None, 0)))(params, batch))[:last]
        exact = jnp.sum(own**2, 1)
        scale = jnp.max(jnp.abs(own), initial=1e-30)
        np.testing.assert_allclose(squares[:last], exact, rtol=1e-10, atol=1e-20)
        want = jnp.arange(1.0, examples) @ own
        np.testing.assert_allclose(flat(sums, 0), want, rtol=1e-10, atol=1e-10 * scale)
        # not every net lets a number that is not finite reach its gradient
        if not np.isfinite(metrics.norms[last]):
            want = jnp.minimum(1, 1 / jnp.maximum(jnp.sqrt(exact), 1e-30)) @ own / examples
            np.testing.assert_allclose(flat(clipped, 0), want, rtol=1e-10, atol=1e-10 * scale)


NOT_FINITE = st.sampled_from([math.nan, math.inf])


@drawn(2)
@hypothesis.given(nets(ids=False), st.integers(2, 4), SEEDS, NOT_FINITE)
def test_an_example_that_is_not_finite(net, examples, seed, bad):
    leaves_the_others_exact(net, examples, seed, bad)


@pytest.mark.thorough
@drawn(12)
@hypothesis.given(nets(ids=False), st.integers(2, 4), SEEDS, NOT_FINITE)
def test_more_examples_that_are_not_finite(net, examples, seed, bad):
    leaves_the_others_exact(net, examples, seed, bad)


def _nowhere(w, x):
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x[None], w, (1,), "VALID", dimension_numbers=layout)


@pytest.mark.parametrize(
    ("apply", "shape", "example"),
    [
        (_nowhere, (3, 2, 4), (2, 2)),
        (lambda w, x: x @ w, (2, 3), (0, 2)),
        (lambda w, x: jnp.moveaxis(w @ x, -1, 0), (3, 2), (2, 0)),
    ],
    ids=["a window that fits nowhere", "an empty sequence", "an empty sequence, on the right"],
)
def test_results_without_elements(apply, shape, example, x64):
    def loss(w, x):
        return jnp.sum(apply(w, x))

    assert_as_defined(loss, jnp.ones(shape), jnp.ones((2, *example)), 1e-10)


# losses linear in their parameter, so that x and δ are the numbers given, and their exact gradients
def _dense(w, x, signal):
    return jnp.sum((x @ w) * signal)


def _rows(w, rows, signal):
    return jnp.sum(w[rows] * signal)


def _tied(w, x, signal):
    return jnp.sum((x @ w) * signal) - jnp.sum((signal @ w.T) * x[::-1])


def _in_turns(w, x, signal):
    """As a layer in a loop over time."""

    def step(total, now):
        x, signal = now
        return total + jnp.sum((x @ w) * signal), None

    return jax.lax.scan(step, 0.0, (x[:, None], signal[:, None]))[0]


def _one_hot(rows, height):
    return np.eye(height)[rows]


SHAPES = [(2, 30, 40), (16, 128, 256)]
LINEAR = {
    "gram": (_dense, lambda x: x),
    "tied": (_tied, lambda x: x - x[:, ::-1]),
    "rows": (_rows, None),
    "gram in a loop": (_in_turns, lambda x: x),
}


@jax.jit(static_argnums=0)
def _squares_and_norms(loss, w, x, signal):
    _, factors = gradients.per_example_grad(loss)(w, x, signal)
    return gradients.sq_norms(factors), gradients.norms(factors)


@pytest.mark.thorough
@drawn(60)
@hypothesis.given(
    st.sampled_from(SHAPES),
    st.sampled_from(sorted(LINEAR)),
    st.floats(0, 5),
    st.floats(-5, 0),
    st.sampled_from(["as drawn", "sums to nearly 0", "alternates"]),
    st.integers(0, 2**32 - 1),
)
def test_norms_by_products_are_never_too_small(shape, kind, offset, apart, signals, seed):
    """Inputs and signals that are alike, so that products cancel: float32 beside float64."""
    (t, d, k), (loss, matrix) = shape, LINEAR[kind]
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, t, d)) + 10**offset * rng.standard_normal(d)).astype(np.float32)
    signal = rng.standard_normal((2, t, k))
    if signals == "sums to nearly 0":
        signal -= signal.mean(1, keepdims=True) * (1 - 10**apart)
    if signals == "alternates":
        signal = signal[:, :1] * np.where(np.arange(t) % 2, 1, -1)[:, None] + 10**apart * signal
    signal = signal.astype(np.float32)
    w = np.zeros((d, k), np.float32)
    if kind == "rows":
        x = rng.integers(0, min(3, d), (2, t))
        left = _one_hot(x, d)
    else:
        left = matrix(x.astype(np.float64))
    want = np.sum(np.einsum("btd,btk->bdk", left, signal.astype(np.float64)) ** 2, (1, 2))
    (row,) = gradients.plan(loss, w, x, signal)
    assert row.way == kind.partition(" ")[0]
    squares, norms = _squares_and_norms(loss, w, x, signal)
    assert np.all(np.asarray(squares, np.float64) >= (1 - 1e-5) * want)
    assert np.all(np.asarray(norms, np.float64) >= (1 - 1e-5) * np.sqrt(want))


ZEROS = {
    "rank one": ((40, 50), lambda w, x, s: jnp.sum((x[0] @ w) * s[0]), 1),
    "rank one, in groups": (
        (2, 40, 50),
        lambda w, x, s: jnp.sum(jnp.einsum("gi,gij->gj", x, w) * s),
        math.sqrt(2),
    ),
    "gram": ((40, 50), lambda w, x, s: jnp.sum((x @ w) * s), 2),
    "tied": ((40, 50), lambda w, x, s: jnp.sum((x @ w) * s) + jnp.sum((s @ w.T) * x), 4),
    "direct": ((2, 3), lambda w, x, s: jnp.sum((x[:, :2] @ w) * s[:, :3]), 2),
    "sum": ((50,), lambda w, x, s: 3 * jnp.sum(w * s[1]), 1),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    thorough_beyond(
        {"rank one, float32", "gram, float32", "sum, float16"},
        {
            f"{name}, {dtype}": (name, dtype)
            for name in ZEROS
            for dtype in ("float16", "bfloat16", "float32")
        },
    ),
)
def test_norms_of_an_example_whose_gradient_is_zero(name, dtype):
    """Its products are of 0 and something else, which no scaling may make infinite."""
    x = jnp.full((3, 2, 40), 3, dtype).at[1, 0].set(0)
    signal = jnp.full((3, 2, 50), 2, dtype).at[1, 1].set(0)
    shape, loss, times = ZEROS[name]
    w = jnp.ones(shape, dtype)
    (row,) = gradients.plan(loss, w, x, signal)
    assert row.way == name.partition(",")[0]
    norms = gradients.per_example_norms(loss)(w, x, signal)
    one = times * 6 * math.sqrt(math.prod(shape[-2:]))
    np.testing.assert_allclose(norms, [one, 0, one], rtol=1e-5)
