"""Where the examples of a batch are at each site: a loss of a batch against that of one example."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, losses, models, nn
from jaxnets.gradients import looking
from jaxnets.gradients.example_axes import ahead_of_examples
from tests.catalogue import MODELS
from tests.numerics import normal

KEY = jax.random.key(0)
B = 6
X = normal(0, (B, 4))
SEQUENCES = normal(1, (B, 3, 4))
SQUARE = normal(2, (B, B, 4))
"""As many time steps as examples."""
P = {
    "a": normal(3, (4, 5)), "b": normal(4, (5, 5)), "c": normal(5, (5, 2)), "bias": normal(6, (5,))
}  # fmt: skip


def sites_of(loss, params, *batch, **options):
    return jax.jit(gradients.flow(loss, batched=True, rank_rows=0, **options))(params, *batch).sites


def norms_equal(found, wanted):
    assert list(found) == list(wanted)
    for name, site in found.items():
        mean, spread = wanted[name].error_norm, wanted[name].error_norm_std
        np.testing.assert_allclose(site.error_norm, mean, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            site.error_norm_std, spread, rtol=1e-5, atol=1e-6 * float(mean.max()), err_msg=name
        )


def check(mean, params, *batch, one=None):
    """As the flow of a loss of one example, without its axis or with one of length 1."""
    one = one or (lambda params, *example: mean(params, *jax.tree.map(lambda x: x[None], example)))
    wanted = jax.jit(gradients.flow(one, rank_rows=0))(params, *batch).sites
    found = sites_of(mean, params, *batch)
    norms_equal(found, wanted)
    return found


@pytest.mark.parametrize("scan", [False, True])
def test_a_transformer_of_ours(scan):
    config = models.TransformerConfig(
        vocabulary=11, depth=1 + scan, features=8, heads=2, max_length=8, scan=scan
    )
    params = jax.jit(models.init_transformer, static_argnums=1)(KEY, config)
    ids = jax.random.randint(jax.random.key(1), (4, 8), 0, 11)

    def loss(params, ids):
        logits = models.transformer(params, config, ids)
        each = losses.softmax_cross_entropy_with_integer_labels(logits[..., :-1, :], ids[..., 1:])
        return jnp.mean(each)

    sites = check(loss, params, ids, one=loss)
    kernels = [name for name in sites if name.endswith("kernel")]
    assert len(kernels) == 6


def time_first(p, x):
    """Over time in a loop, its results as they are stacked, and flattened to rows `[T·B]`."""

    def turn(h, x):
        h = jnp.tanh(x @ p["a"] + h @ p["b"] + p["bias"][None])
        return h, h

    _, hs = lax.scan(turn, jnp.zeros((x.shape[0], 5)), x.swapaxes(0, 1))
    ys = nn.dense({"kernel": p["b"], "bias": p["bias"]}, hs)
    rows = jnp.tanh(ys).reshape(-1, 5) @ p["c"]
    return jnp.mean(jnp.square(rows.reshape(*ys.shape[:2], 2)))


@pytest.mark.parametrize("x", [SQUARE, SEQUENCES], ids=["as many", "fewer"])
def test_time_steps_are_no_examples_though_they_come_first(x):
    check(time_first, P, x)


def transposed(p, x):
    return jnp.mean(jnp.square(p["b"].T @ jnp.tanh(p["a"].T @ x.T)))


def of_views(p, x):
    h = jnp.tanh(jnp.concatenate([x, 2 * x]) @ p["a"])
    one, other = jnp.split(h @ p["c"], 2)
    return jnp.mean(jnp.square(one - 3 * other))


def through_a_branch(p, x):
    h = lax.cond(jnp.sum(p["b"]) > 0, jnp.tanh, jnp.sin, x @ p["a"]).reshape(-1, 5)
    h = lax.optimization_barrier(jax.checkpoint(jnp.tanh)(h))
    return jnp.mean(jnp.square(h @ p["c"]))


def with_a_place_masked(p, x):
    h = (x @ p["a"]).at[:, 0].set(0)
    h = lax.dynamic_update_slice(h, h[:, :1] + p["bias"][None, None], (0, 1, 0))
    return jnp.mean(jnp.square(h.reshape(-1, 5) @ p["c"]))


def of_the_largest(p, x):
    h = lax.top_k(jnp.sort(x @ p["a"], -1), 2)[0]
    return jnp.mean(jnp.square(h.reshape(-1, 2) @ p["c"][:2]))


def in_stacked_layers(p, x):
    """Each of them on rows of all examples."""

    def layer(rows, w):
        rows = jnp.tanh(rows @ w).reshape(-1, 3, 5)
        return (rows + jnp.mean(rows, 1, keepdims=True)).reshape(-1, 5), None

    rows = (x @ p["a"]).reshape(-1, 5)
    return jnp.mean(jnp.square(lax.scan(layer, rows, jnp.stack([p["b"], p["b"].T]))[0]))


def stacked_and_tiled(p, x):
    h = jnp.tile(jnp.stack([x, 2 * x], 1).reshape(-1, 4), (1, 3))[:, :4] @ p["a"]
    one, other = jnp.unstack(h.reshape(-1, 2, 5), axis=1)
    return jnp.mean(jnp.square(jnp.tanh(one - other) @ p["c"]))


def of_frequencies(p, x):
    h = jnp.fft.fft2(x @ p["a"]).real.at[:, 0].multiply(2)
    return jnp.mean(jnp.square(jnp.tanh(h.reshape(-1, 5)) @ p["c"]))


@pytest.mark.parametrize(
    ("loss", "x"),
    [
        (transposed, X),
        (stacked_and_tiled, X),
        (of_frequencies, SEQUENCES),
        (of_views, X),
        (through_a_branch, SEQUENCES),
        (with_a_place_masked, SEQUENCES),
        (of_the_largest, SEQUENCES),
        (in_stacked_layers, SEQUENCES),
    ],
)
def test_examples_are_followed(loss, x):
    check(loss, P, x)


class Flattened(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.Dense(4)(linen.relu(linen.Dense(5)(x)).reshape(-1, 5))
        return linen.Dense(3)(h.reshape(x.shape[0], -1))


def test_a_net_of_flax_that_flattens():
    params = jax.jit(Flattened().init)(KEY, SEQUENCES)
    check(lambda p, x: jnp.mean(jnp.square(Flattened().apply(p, x))), params, SEQUENCES)


def of_flax(h):
    norm = linen.BatchNorm(use_running_average=False, use_bias=False, use_scale=False)
    return norm.apply(norm.init(KEY, h), h, mutable=["batch_stats"])[0]


@pytest.mark.parametrize(
    "normalize",
    [
        lambda h: h - jnp.mean(h, 0, keepdims=True),
        lambda h: h - jnp.max(h, 0, keepdims=True),
        lambda h: h - jnp.einsum("b,bti->ti", jnp.arange(B) / B, h)[None],
        lambda h: nn.batch_norm(*nn.init_batch_norm(4), h, train=True)[0],
        of_flax,
    ],
    ids=["mean", "max", "product", "batch norm", "of Flax"],
)
def test_behind_batch_statistics_each_row_is_still_an_examples(normalize):
    def rows(x):
        return normalize(x).reshape(-1, 4) @ P["a"]

    site = sites_of(lambda p, x: jnp.sum(jnp.square(normalize(x).reshape(-1, 4) @ p["a"])),
                    P, SEQUENCES)["a"]  # fmt: skip
    norms = np.linalg.norm(2 * B * rows(SEQUENCES).reshape(B, -1), axis=1)
    np.testing.assert_allclose(site.error_norm, norms.mean(), rtol=1e-5)
    np.testing.assert_allclose(site.error_norm_std, norms.std(), rtol=1e-5)


def test_noise_is_of_no_example():
    def loss(p, keys, x):
        h = jax.vmap(lambda key, x: x + jax.random.normal(key, x.shape))(keys, x)
        return jnp.mean(jnp.square(h.reshape(-1, 4) @ p["a"]))

    keys = jax.random.split(KEY, B)
    check(loss, P, keys, SEQUENCES)
    check(loss, P, jax.random.key_data(keys), SEQUENCES)


def test_rows_in_another_order_are_told_by_their_number():
    order = np.roll(np.arange(B), 2)
    loss = lambda p, x: jnp.mean(jnp.square(jnp.tanh(x[order] @ p["a"]) @ p["c"]))  # noqa: E731
    check(loss, P, X, one=lambda p, x: jnp.mean(jnp.square(jnp.tanh(x @ p["a"]) @ p["c"])))
    few = lambda p, x: jnp.mean(jnp.square(x[order[:4]] @ p["a"]))  # noqa: E731
    assert np.isnan(sites_of(few, P, X)["a"].error_norm)


@pytest.mark.parametrize("pick", [lambda x: x[np.arange(B)[::-1]], lambda x: x[::-1]])
def test_picked_rows_are_still_followed(pick):
    """Time first, and as many steps as examples."""
    check(time_first, P, SQUARE, one=lambda p, x: time_first(p, x[None]))
    wanted = sites_of(time_first, P, SQUARE)
    norms_equal(sites_of(lambda p, x: time_first(p, pick(x)), P, SQUARE), wanted)


def test_mixed_up_rows_are_counted_by_the_first_axis():
    def loss(p, x):
        return jnp.mean(jnp.square(jnp.tanh((x + jnp.roll(x, 1, 0)) @ p["a"]) @ p["c"]))

    mixed = X + jnp.roll(X, 1, 0)
    wanted = jax.jit(jax.grad(lambda h: jnp.mean(jnp.square(h @ P["c"]))))(jnp.tanh(mixed @ P["a"]))
    norms = B * np.linalg.norm(wanted * (1 - jnp.tanh(mixed @ P["a"]) ** 2), axis=1)
    np.testing.assert_allclose(sites_of(loss, P, X)["a"].error_norm, norms.mean(), rtol=1e-5)


def of_prototypes(p, x):
    """Sums over the examples, as many as there are examples."""
    own = jax.nn.one_hot(np.arange(B), B).T @ (x @ p["a"])
    return jnp.mean(jnp.square(own @ p["c"]))


def of_deviations(p, x):
    largest = jnp.max(x @ p["a"], 0, keepdims=True)
    return jnp.mean(jnp.square(jnp.broadcast_to(largest, (B, 5)) @ p["c"]))


@pytest.mark.parametrize("loss", [of_prototypes, of_deviations])
def test_what_is_made_of_all_examples_is_of_none(loss):
    sites = sites_of(loss, P, X)
    assert np.isfinite(sites["a"].error_norm)
    assert np.isnan(sites["c"].error_norm)


def test_padding_that_shifts_examples_loses_them():
    def loss(p, x):
        return jnp.mean(jnp.square(lax.pad(x @ p["a"], 0.0, [(1, -1, 0), (0, 0, 0)]) @ p["c"]))

    sites = sites_of(loss, P, X)
    assert np.isnan(sites["c"].error_norm)


def test_draws_by_keys_or_distributions_of_examples_are_theirs():
    keys = jax.random.split(KEY, B)

    def by_keys(p, keys):
        z = jax.vmap(lambda key: jax.random.normal(key, (3, 4)))(keys)
        return jnp.mean(jnp.square(jnp.tanh(z.reshape(-1, 4) @ p["a"]) @ p["c"]))

    check(by_keys, P, keys)
    shapes = jnp.exp(SEQUENCES)

    def by_shapes(p, shapes):
        z = lax.stop_gradient(jax.random.gamma(KEY, shapes))
        return jnp.mean(jnp.square(jnp.tanh(z.reshape(-1, 4) @ p["a"]) @ p["c"]))

    drawn = jax.random.gamma(KEY, shapes)
    wanted = sites_of(by_shapes, P, shapes)
    given = sites_of(lambda p, z: jnp.mean(jnp.square(
        jnp.tanh(z.reshape(-1, 4) @ p["a"]) @ p["c"])), P, drawn)  # fmt: skip
    norms_equal(wanted, given)


@pytest.mark.thorough
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_no_model_of_ours_loses_its_examples(case, monkeypatch):
    seen = []

    def ahead(state, shape, examples):
        seen.append(ahead_of_examples(state, shape, examples))
        return seen[-1]

    def loss(params, x):
        out = jax.tree.leaves(case.apply(params, x))
        return sum(jnp.mean(y) for y in out if jnp.issubdtype(y.dtype, jnp.floating))

    monkeypatch.setattr(looking, "ahead_of_examples", ahead)
    x = jax.ShapeDtypeStruct((7, *case.shape), jnp.int32 if case.ids else jnp.float32)
    look = gradients.flow(loss, batched=True, rank_rows=0)
    jax.eval_shape(look, jax.eval_shape(case.init, KEY), x)
    assert seen
    assert None not in seen


def test_a_batch_of_one_is_all_of_it():
    one = SEQUENCES[:1]
    check(time_first, P, one)
    check(in_stacked_layers, P, one)


def test_what_is_done_to_the_axis_may_be_unknown():
    """By a function that is not followed: not even rows as many as the examples are taken so."""

    def loss(p, x):
        same = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.pure_callback(lambda x: x, same, x)
        return jnp.mean(jnp.square(x @ p["a"]))

    assert np.isnan(sites_of(loss, P, X)["a"].error_norm)
