import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxnets import losses, models, optim
from jaxnets.gradients import clipped_grad, per_example_norms, privacy
from tests.numerics import assert_trees_close, assert_trees_equal, normal, relative_error

pytestmark = pytest.mark.usefixtures("optimized")
KEY = jax.random.key(0)
CONFIG = models.MLPConfig(n_in=6, n_out=4, hidden=(8,))
PARAMS = jax.jit(models.init_mlp)(KEY, CONFIG)
BATCH = 12
X = jax.random.normal(KEY, (BATCH, 6)) * jnp.linspace(0.1, 5, BATCH)[:, None]
Y = jnp.arange(BATCH) % 4
CLIP, SIGMA, EXPECTED = 0.7, 1.3, 9.5


def loss(params, x, y):
    logits = models.mlp(params, CONFIG, x)
    return losses.softmax_cross_entropy_with_integer_labels(logits, y)


def linear(params, x):
    """Its gradient is `x`."""
    return sum(jnp.vdot(p, x) for p, x in zip(params, x, strict=True))


def definition(params, key, mask, clip, sigma, expected, loss=loss, batch=(X, Y)):
    """By every example's own gradient, in NumPy."""
    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(params, *batch)
    rows = [np.asarray(g, np.float64).reshape(len(mask), -1) for g in jax.tree.leaves(gradients)]
    norms = np.sqrt(sum((row**2).sum(1) for row in rows))
    scale = np.minimum(1, clip / norms) * np.asarray(mask)
    leaves, structure = jax.tree.flatten(params)
    noises = [jax.random.normal(jax.random.fold_in(key, i), p.shape) for i, p in enumerate(leaves)]
    sums = [(scale @ row).reshape(p.shape) for row, p in zip(rows, leaves, strict=True)]
    noisy = [
        (total + sigma * clip * np.asarray(noise, np.float64)) / expected
        for total, noise in zip(sums, noises, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy), norms


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda f: f, id="eager", marks=pytest.mark.thorough),
        pytest.param(jax.jit, id="jit"),
    ],
)
def test_it_is_what_every_examples_own_gradient_gives(wrap):
    mask = jnp.arange(BATCH) % 5 != 1
    f = privacy.dp_grad(loss, CLIP, SIGMA, expected_batch_size=EXPECTED)
    got, metrics = wrap(f)(PARAMS, X, Y, key=KEY, mask=mask)
    want, norms = definition(PARAMS, KEY, mask, CLIP, SIGMA, EXPECTED)
    assert_trees_close(got, want, 1e-6)
    assert 0 < metrics.clipped.sum() < mask.sum()
    np.testing.assert_array_equal(metrics.clipped, np.asarray(mask) & (norms > CLIP))
    np.testing.assert_allclose(metrics.norms, np.where(mask, norms, 0), rtol=1e-5)


def test_without_noise_or_padding_it_is_the_clipped_mean():
    got, metrics = privacy.dp_grad(loss, CLIP, 0)(PARAMS, X, Y, key=KEY)
    want, same = clipped_grad(loss, CLIP)(PARAMS, X, Y)
    assert_trees_close(got, want, 1e-6)
    np.testing.assert_array_equal(metrics.norms, same.norms)


def test_the_issues_call_passes_the_key_last():
    def one_argument(params, example):
        return loss(params, example["x"], example["y"])

    f = privacy.dp_grad(one_argument, CLIP, SIGMA)
    got, _ = f(PARAMS, {"x": X, "y": Y}, KEY)
    want, _ = privacy.dp_grad(loss, CLIP, SIGMA)(PARAMS, X, Y, key=KEY)
    assert_trees_equal(got, want)
    assert_trees_close(
        got, definition(PARAMS, KEY, [True] * BATCH, CLIP, SIGMA, BATCH)[0], rtol=1e-6
    )


def test_keys_of_the_examples_are_not_that_of_the_noise():
    def noisy(params, x, y, key):
        return loss(params, x + jax.random.normal(key, x.shape), y)

    keys = jax.random.split(KEY, BATCH)
    f = privacy.dp_grad(noisy, CLIP, SIGMA)
    assert_trees_equal(f(PARAMS, X, Y, keys, key=KEY), f(PARAMS, X, Y, keys, KEY))
    with pytest.raises(ValueError, match="needs a key"):
        f(PARAMS, X, Y, keys)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
def test_padding_contributes_nothing_whatever_it_holds(bad):
    mask = jnp.arange(BATCH) < 8
    f = privacy.dp_grad(loss, CLIP, SIGMA, expected_batch_size=EXPECTED)
    got, metrics = f(PARAMS, X.at[8:].set(bad), Y, key=KEY, mask=mask)
    want, _ = f(PARAMS, X.at[8:].set(0), Y, key=KEY, mask=mask)
    assert_trees_equal(got, want)
    alone, seen = f(PARAMS, X[:8], Y[:8], key=KEY)
    assert_trees_close(got, alone, 1e-6)
    for name in ("losses", "norms", "clipped"):
        values = getattr(metrics, name)
        np.testing.assert_allclose(values[:8], getattr(seen, name), rtol=1e-6)
        np.testing.assert_array_equal(values[8:], 0)


def test_padding_of_any_kind_of_leaf():
    def noisy(params, example, key):
        return loss(params, example["x"] + jax.random.normal(key, (6,)), example["y"])

    keys = jax.random.split(KEY, BATCH)
    mask = jnp.arange(BATCH) % 2 == 1
    f = privacy.dp_grad(noisy, CLIP, SIGMA, expected_batch_size=EXPECTED)
    got, _ = f(PARAMS, {"x": X, "y": Y}, keys, key=KEY, mask=mask)
    want, _ = f(PARAMS, {"x": X[mask], "y": Y[mask]}, keys[mask], key=KEY)
    assert_trees_close(got, want, 1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_example_that_is_not_finite_contributes_nothing(bad):
    f = privacy.dp_grad(loss, CLIP, SIGMA, expected_batch_size=EXPECTED)
    got, metrics = f(PARAMS, X.at[3].set(bad), Y, key=KEY)
    mask = jnp.arange(BATCH) != 3
    want, _ = f(PARAMS, X, Y, key=KEY, mask=mask)
    assert_trees_close(got, want, 1e-6)
    assert metrics.clipped[3]


def test_an_empty_draw_is_noise_alone():
    f = privacy.dp_grad(loss, CLIP, SIGMA, expected_batch_size=EXPECTED)
    got, _ = f(PARAMS, X, Y, key=KEY, mask=jnp.zeros(BATCH, bool))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    padding, _ = f(PARAMS, X * jnp.nan, Y, key=KEY, mask=jnp.zeros(BATCH, bool))
    assert_trees_equal(got, padding)
    assert_trees_close(got, privacy.noisy_mean(zeros, KEY, CLIP, SIGMA, EXPECTED), 1e-7)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e3, 1e25])
def test_no_example_moves_the_sum_by_more_than_the_bound(size):
    x = (size * normal(0, (64, 5)), size * normal(1, (64, 3, 2)))
    params = (jnp.ones(5), jnp.ones((3, 2)))
    sum_of = jax.jit(privacy.clipped_sum(linear, CLIP))
    whole, _ = sum_of(params, x)
    for i in range(0, 64, 9):
        less, _ = sum_of(params, x, mask=jnp.arange(64) != i)
        difference = [np.asarray(a, np.float64) - b for a, b in zip(whole, less, strict=True)]
        moved = np.sqrt(sum((d**2).sum() for d in difference))
        assert moved <= CLIP * (1 + 1e-5)


def moved_by_one(loss, params, batch, clip):
    """How far leaving out an example moves the sum, at most, over the bound."""
    examples = batch[0].shape[0]
    sum_of = jax.jit(privacy.clipped_sum(loss, clip))
    whole, _ = sum_of(params, *batch)
    sums = [
        sum_of(params, *batch, mask=jnp.arange(examples) != i)[0]
        for i in range(0, examples, max(1, examples // 16))
    ]
    return max(np.linalg.norm(np.asarray(whole - less, np.float64)) for less in sums) / clip


def test_the_bound_holds_where_the_loss_computes_in_bfloat16():
    x = normal(0, (512, 64)) + 0.5
    readout = jnp.ones(32, jnp.bfloat16) / 4

    def half(params, x):
        hidden = x.astype(jnp.bfloat16) @ params.astype(jnp.bfloat16)
        return jnp.square(hidden @ readout - 100).astype(jnp.float32)

    assert moved_by_one(half, jnp.zeros((64, 32)), (x,), 1.0) <= 1 + 1e-2


def test_norms_are_not_too_small_where_the_products_of_an_example_nearly_cancel():
    """Else the example is not clipped; nor NaN, else it is left out."""
    u, v = normal(0, (2, 1, 1, 512))
    x = u + 1e-4 * normal(1, (4, 32, 512))
    signs = jnp.where(jnp.arange(32) % 2 == 0, 1.0, -1.0)
    error = jnp.broadcast_to(signs[None, :, None] * v, (4, 32, 512))
    norms = np.linalg.norm(jnp.einsum("btd,btk->bdk", x, error).reshape(4, -1), axis=1)

    def products(params, x, error):
        return jnp.sum((x @ params) * error)

    got = per_example_norms(products)(jnp.zeros((512, 512)), x, error)
    assert np.all(got >= norms * (1 - 1e-2))


def test_noise_is_calibrated_to_the_sum_and_divided_with_it():
    params = {"a": jnp.zeros((300, 200)), "b": jnp.zeros(40_000)}
    f = privacy.dp_grad(
        lambda p, x: 0 * x * (p["a"].sum() + p["b"].sum()), 0.5, 3.0, expected_batch_size=25
    )
    # neither the number of examples nor that of those drawn is in it
    for size, drawn in ((4, 4), (16, 3)):
        mask = jnp.arange(size) < drawn
        g, _ = f(params, jnp.ones(size), key=KEY, mask=mask)
        for leaf in jax.tree.leaves(g):
            sample = np.asarray(leaf, np.float64).ravel() * 25 / (3.0 * 0.5)
            n = sample.size
            assert abs(sample.mean()) < 4 / math.sqrt(n)
            assert abs(sample.std() - 1) < 4 / math.sqrt(2 * n)
            assert scipy.stats.kstest(sample, "norm").pvalue > 1e-3


def test_leaves_and_steps_have_noise_of_their_own():
    params = [jnp.zeros(10_000), jnp.zeros(10_000)]
    draw = privacy.noisy_mean(params, KEY, 1.0, 1.0, 1.0)
    again = privacy.noisy_mean(params, KEY, 1.0, 1.0, 1.0)
    other = privacy.noisy_mean(params, jax.random.key(1), 1.0, 1.0, 1.0)
    assert_trees_equal(draw, again)
    samples = np.stack([*draw, *other])
    correlations = np.corrcoef(samples) - np.eye(4)
    assert np.abs(correlations).max() < 4 / math.sqrt(10_000)


def test_noise_is_drawn_and_added_in_float32():
    params = jnp.ones(20_000, jnp.bfloat16)
    f = privacy.dp_grad(lambda p, x: jnp.sum(p) * x, 1.0, 1.0, expected_batch_size=4)
    got, _ = f(params, jnp.zeros(3, jnp.bfloat16), key=KEY)
    assert got.dtype == jnp.bfloat16
    want = jax.random.normal(jax.random.fold_in(KEY, 0), params.shape, jnp.float32) / 4
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def test_noise_is_as_fine_as_wider_leaves(x64):
    """Noise on float32's grid would leave the sum's last bits in sight."""
    noise = privacy.noisy_mean(jnp.zeros(100, jnp.float64), KEY, 1.0, 1.0, 1.0)
    assert noise.dtype == jnp.float64
    assert np.any(noise.astype(jnp.float32) != noise)


def test_both_parts_of_a_complex_leaf_get_the_whole_noise():
    noise = privacy.noisy_mean(jnp.zeros(50_000, jnp.complex64), KEY, 2.0, 1.5, 1.0)
    for part in (noise.real, noise.imag):
        assert abs(np.std(part) / 3 - 1) < 4 / math.sqrt(2 * 50_000)


def test_noise_and_bound_may_be_traced():
    def at(clip, sigma, expected):
        f = privacy.dp_grad(loss, clip, sigma, expected_batch_size=expected)
        return f(PARAMS, X, Y, key=KEY)[0]

    traced = jnp.array([0.3, 0.7]), jnp.array([2.0, 1.3]), jnp.array([4.0, 9.5])
    got = jax.jit(jax.vmap(at))(*traced)
    want = jax.jit(lambda: at(CLIP, SIGMA, EXPECTED))()
    assert_trees_close(jax.tree.map(lambda g: g[1], got), want, 1e-5)


def test_aux_and_losses_written_for_batches():
    def batched(params, x, y):
        assert x.shape == (1, 6)
        return jnp.mean(loss(params, x, y)), {"x": x[0]}

    f = privacy.dp_grad(batched, CLIP, SIGMA, has_aux=True, keep_batch_dim=True)
    got, metrics = f(PARAMS, X, Y, key=KEY)
    np.testing.assert_array_equal(metrics.aux["x"], X)
    assert_trees_close(got, privacy.dp_grad(loss, CLIP, SIGMA)(PARAMS, X, Y, key=KEY)[0], 1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.sgd(0.5),
        *(
            pytest.param(optimizer, marks=pytest.mark.thorough)
            for optimizer in (optim.adam(0.02), optax.adamw(0.02), optax.sgd(0.5, momentum=0.5))
        ),
    ],
    ids=["sgd", "adam", "optax.adamw", "optax.momentum"],
)
def test_any_optimizer_learns_from_poisson_batches(optimizer):
    n, rate = 400, 0.2
    x = normal(0, (n, 6))
    y = jnp.argmax(x[:, :4], 1)
    size = privacy.padded_size(n, rate, 1e-9)
    f = privacy.dp_grad(loss, 1.0, 0.6, expected_batch_size=rate * n)

    def step(carry, key):
        params, state = carry
        draw, noise = jax.random.split(key)
        indices, mask = privacy.poisson_batch(draw, n, rate, size)
        g, _ = f(params, x[indices], y[indices], key=noise, mask=mask)
        updates, state = optimizer.update(g, state, params)
        return (optim.apply_updates(params, updates), state), None

    start = (PARAMS, optimizer.init(PARAMS))
    (params, _), _ = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(
        start, jax.random.split(KEY, 60)
    )

    def accuracy(params):
        return jnp.mean(jnp.argmax(models.mlp(params, CONFIG, x), 1) == y)

    assert accuracy(params) > accuracy(PARAMS) + 0.25


def test_microbatches_add_up_to_one_step():
    """One Poisson batch in parts, with one noise, is the step of the whole batch."""
    indices, mask = privacy.poisson_batch(KEY, BATCH, 0.5, BATCH)
    x, y = X[indices], Y[indices]
    sum_of = privacy.clipped_sum(loss, CLIP)

    def add(total, part):
        x, y, mask = part
        return jax.tree.map(jnp.add, total, sum_of(PARAMS, x, y, mask=mask)[0]), None

    parts = jax.tree.map(lambda a: a.reshape(3, BATCH // 3, *a.shape[1:]), (x, y, mask))
    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, PARAMS), parts)
    got = privacy.noisy_mean(total, KEY, CLIP, SIGMA, EXPECTED)
    f = privacy.dp_grad(loss, CLIP, SIGMA, expected_batch_size=EXPECTED)
    assert_trees_close(got, f(PARAMS, x, y, key=KEY, mask=mask)[0], 1e-6)


def many_batches(n, rate, size, draws, seed=3):
    draw = jax.jit(jax.vmap(lambda key: privacy.poisson_batch(key, n, rate, size)))
    indices, mask = draw(jax.random.split(jax.random.key(seed), draws))
    return np.asarray(indices), np.asarray(mask)


@pytest.mark.parametrize("rate", [0.004, 0.3, 0.9])
def test_each_example_is_drawn_by_itself_with_the_rate(rate):
    n, draws = 50, 20_000
    indices, mask = many_batches(n, rate, n, draws)
    drawn = np.zeros((draws, n), int)
    np.add.at(drawn, (np.nonzero(mask)[0], indices[mask]), 1)
    # nobody twice; and those drawn come first
    assert drawn.max() == 1
    np.testing.assert_array_equal(mask, np.arange(n) < mask.sum(1)[:, None])
    np.testing.assert_array_equal(indices[~mask], 0)
    # each with the rate
    squares = (drawn.sum(0) - draws * rate) ** 2 / (draws * rate * (1 - rate))
    assert 1e-4 < scipy.stats.chi2.sf(squares.sum(), n) < 1 - 1e-4
    # the sizes are binomial: nobody depends on another
    sizes = mask.sum(1)
    low, high = scipy.stats.binom.interval(0.98, n, rate)
    bins = np.arange(low, high + 2)
    seen = np.histogram(np.clip(sizes, low, high), bins)[0]
    chance = np.diff([0, *scipy.stats.binom.cdf(bins[:-2], n, rate), 1])
    wide = chance * draws > 5
    assert scipy.stats.chisquare(
        seen[wide], chance[wide] / chance[wide].sum() * seen[wide].sum()
    ).pvalue > 1e-4  # fmt: skip


def test_an_overflowing_draw_keeps_a_random_part():
    n, size, draws = 40, 8, 20_000
    indices, mask = many_batches(n, 0.5, size, draws)
    assert mask.mean() > 0.99
    counts = np.bincount(indices[mask], minlength=n)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert all(len(set(row)) == size for row in indices[mask.all(1)][:100])


@pytest.mark.parametrize(("rate", "drawn"), [(0, 0), (1, 7), (2.0**-33, 0)])
@pytest.mark.parametrize("traced", [False, True])
def test_rates_at_the_ends_and_room_to_spare(rate, drawn, traced):
    def draw(key, rate=rate):
        return privacy.poisson_batch(key, 7, rate, 10)

    indices, mask = jax.jit(draw)(KEY, float(rate)) if traced else draw(KEY)
    assert indices.shape == mask.shape == (10,)
    assert mask.sum() == drawn
    assert sorted(indices[:drawn].tolist()) == list(range(drawn))
    np.testing.assert_array_equal(indices[drawn:], 0)


def test_a_traced_rate_draws_the_same():
    def draw(rate):
        return privacy.poisson_batch(KEY, 1000, rate, 400)

    assert_trees_equal(jax.jit(lambda: draw(0.25))(), jax.jit(draw)(0.25))


@pytest.mark.parametrize(
    ("n", "rate"),
    [(60_000, 256 / 60_000), (100, 0.5), (100, 0.99), (10, 1.0), (1, 0.3), (50, 1e-6)],
)
@pytest.mark.parametrize("probability", [1e-2, 1e-6, 1e-12])
def test_padded_sizes_are_hardly_ever_exceeded_and_not_much_too_large(n, rate, probability):
    size = privacy.padded_size(n, rate, probability)
    assert 1 <= size <= n
    assert scipy.stats.binom.sf(size, n, rate) <= probability
    exact = max(1, scipy.stats.binom.isf(probability, n, rate))
    assert size <= exact + 3 + 0.5 * math.sqrt(n * rate)


def test_smaller_sizes_break_the_bound():
    n, rate, probability = 1000, 0.1, 1e-6
    size = privacy.padded_size(n, rate, probability)
    above = size / n
    bound = n * (above * np.log(above / rate) + (1 - above) * np.log((1 - above) / (1 - rate)))
    assert math.exp(-bound) > probability


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: privacy.dp_grad(loss, 0, 1), ValueError, "clip_norm must be positive and finite"),
        (lambda: privacy.dp_grad(loss, jnp.nan, 1), ValueError, "dp_grad: clip_norm .* got nan"),
        (lambda: privacy.dp_grad(loss, jnp.inf, 1), ValueError, "clip_norm .* got inf"),
        (lambda: privacy.dp_grad(loss, 1, -1), ValueError, "noise_multiplier must be at least 0"),
        (lambda: privacy.dp_grad(loss, 1, jnp.nan), ValueError, "noise_multiplier .* got nan"),
        (lambda: privacy.dp_grad(loss, 1, jnp.ones(2)), ValueError, "noise_multiplier .* scalar"),
        (
            lambda: privacy.dp_grad(loss, 1, 1, expected_batch_size=0),
            ValueError,
            "expected_batch_size must be positive and finite, got 0",
        ),
        (lambda: privacy.dp_grad(loss, 1, 1)(PARAMS, X, Y), ValueError, "needs a key"),
        (lambda: privacy.dp_grad(loss, 1, 1)(PARAMS), ValueError, "needs a key"),
        (
            lambda: privacy.dp_grad(loss, 1, 1)(PARAMS, X, Y, key=KEY, mask=jnp.ones(BATCH, bool)),
            ValueError,
            "a mask needs expected_batch_size",
        ),
        (
            lambda: privacy.clipped_sum(loss, 1)(PARAMS, X, Y, mask=jnp.ones(3, bool)),
            ValueError,
            r"mask must be \[12\], got \(3,\)",
        ),
        (
            lambda: privacy.clipped_sum(loss, 1)(PARAMS, X, Y, mask=jnp.ones(BATCH)),
            TypeError,
            "mask must be boolean, got float32",
        ),
        (lambda: privacy.clipped_sum(loss, -1), ValueError, "clipped_sum: clip_norm must be posi"),
        (lambda: privacy.noisy_mean(PARAMS, KEY, 1, 1, 0), ValueError, "noisy_mean: expected_bat"),
        (lambda: privacy.poisson_batch(KEY, 0, 0.5, 1), ValueError, "n and size must be positive"),
        (lambda: privacy.poisson_batch(KEY, 5, 1.5, 1), ValueError, "rate must be between 0 and 1"),
        (lambda: privacy.poisson_batch(KEY, 5, math.nan, 1), ValueError, "rate .* got nan"),
        (lambda: privacy.poisson_batch(KEY, 5, jnp.ones(2), 1), ValueError, "rate must be a sca"),
        (lambda: privacy.padded_size(0, 0.5, 0.1), ValueError, "n must be positive"),
        (lambda: privacy.padded_size(9, 0, 0.1), ValueError, r"rate must be in \(0, 1\]"),
        (lambda: privacy.padded_size(9, 0.5, 0), ValueError, r"overflow_probability must be in"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_metrics_are_those_of_the_examples():
    _, metrics = jax.jit(privacy.dp_grad(loss, CLIP, SIGMA))(PARAMS, X, Y, key=KEY)
    norms = jax.jit(per_example_norms(loss))(PARAMS, X, Y)
    assert relative_error(metrics.norms, norms) <= 1e-6
    want = jax.jit(jax.vmap(loss, (None, 0, 0)))(PARAMS, X, Y)
    np.testing.assert_allclose(metrics.losses, want, rtol=1e-6)
