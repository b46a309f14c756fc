"""Losses written for batches: whether their examples interact."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxnets import gradients, losses, nn
from jaxnets.gradients.mixing import state_of
from jaxnets.gradients.mixing_rules import Mixed, Summed, Unknown
from tests.catalogue import thorough_beyond

X = jnp.linspace(-1, 1, 24).reshape(4, 6)
Y = jnp.arange(4) % 3
PARAMS = {"w": jnp.linspace(-1, 1, 18).reshape(6, 3), "b": jnp.ones(3)}


def logits(p, x):
    return x @ p["w"] + p["b"][None]


def cross_entropy(p, x, y):
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits(p, x), y))


def by_rows(p, x, y):
    return -jnp.mean(jax.nn.log_softmax(logits(p, x))[jnp.arange(len(y)), y])


def by_branches(p, x, y):
    def one(z):
        return jnp.mean(jnp.tanh(z)) / 2

    h = lax.cond(jnp.sum(p["b"]) > 9, one, lambda z: jnp.sum(z**2) / z.size, logits(p, x))
    return h + lax.cond(p["b"][0] > 9, jnp.sum, lambda z: 0.0, x @ p["w"])


def with_a_place_set(p, x, y):
    z = logits(p, x).at[:, 0].add(1)
    return cross_entropy({"w": jnp.eye(3), "b": p["b"]},
                         lax.dynamic_update_slice(z, z[:, :1] ** 2, (0, 2)), y)  # fmt: skip


def with_dropout(p, x, y):
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return cross_entropy(p, jnp.where(keep, x, 0) / 0.5, y) + jnp.sum(p["w"] ** 2)


def of_sequences(p, x, y):
    h = x.reshape(len(x), 2, 3) @ p["w"][:3]
    h = jax.nn.softmax(jnp.einsum("btd,bsd->bts", h, h), -1) @ h
    flat = h.reshape(-1, 3)
    return jnp.sum(losses.softmax_cross_entropy_with_integer_labels(flat, jnp.repeat(y, 2))) / len(
        x
    )


def convolved(p, x, y):
    image = x.reshape(len(x), 2, 3, 1)
    h = nn.max_pool(nn.conv({"kernel": p["w"].reshape(2, 3, 1, 3)}, image), (1, 3), stride=(1, 3))
    return jnp.mean(jnp.sum(nn.layer_norm(nn.init_norm(3), h), (1, 2, 3)) ** 2)


def through_time(p, x, y):
    def step(h, x):
        return jnp.tanh(h + x[:, None] * p["b"][None]), h

    h, seen = lax.scan(step, jnp.zeros((len(x), 3)), x.T)
    return jnp.mean(jnp.sum(h**2, 1)) + jnp.sum(seen) / 10


def by_vmap(p, x, y):
    return jnp.mean(jax.vmap(lambda x, y: cross_entropy(p, x[None], y[None]))(x, y))


def noised(p, x, keys):
    return jnp.mean(logits(p, x) ** 2) * jax.random.normal(keys[0])


def ordered(p, x, y):
    """Which example is where cannot be followed, and does not matter."""
    return jnp.mean(logits(p, x)[jnp.argsort(jnp.arange(len(x)))] ** 2)


def of_views(p, x, y):
    """Two views of each example, one behind the other."""
    h = jnp.tanh(logits(p, jnp.concatenate([x, 2 * x]))).reshape(2, -1, 3)
    return jnp.mean(jnp.sum(jnp.mean(h, 0) ** 2, -1))


def of_optax(p, x, y):
    each = optax.softmax_cross_entropy_with_integer_labels(logits(p, x), y)
    return each.mean()


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.LayerNorm()(linen.Dense(5)(x)))
        return linen.Dense(3)(linen.Dropout(0.1, deterministic=True)(x))


def flax_net(p, x, y):
    logits = Net().apply(p, x)
    return losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


SEPARATE = {
    "cross-entropy": cross_entropy,
    "chosen by rows": by_rows,
    "branches": by_branches,
    "a place set": with_a_place_set,
    "dropout and penalty": with_dropout,
    "sequences": of_sequences,
    "convolution": convolved,
    "recurrence": through_time,
    "vmap": by_vmap,
    "permuted": ordered,
    "views": of_views,
    "Optax's cross-entropy": of_optax,
}


@pytest.mark.parametrize(
    "name",
    thorough_beyond(
        {"chosen by rows", "dropout and penalty"}, {name: (name,) for name in SEPARATE}
    ),
)
def test_separate_examples_pass(name):
    loss = SEPARATE[name]
    state = state_of(lambda *a: (loss(*a), None), PARAMS, (X, Y))
    # that the axis was followed to the end, and not lost on the way
    assert isinstance(
        state, Unknown if name in ("permuted", "views", "chosen by rows") else Summed
    ), state

    @jax.jit
    def mean_and_whole(params, x, y):
        _, factors = gradients.per_example_grad(loss, keep_batch_dim=True)(params, x, y)
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients.materialize(factors))
        return mean, jax.grad(loss)(params, x, y)

    mean, want = mean_and_whole(PARAMS, X, Y)
    # of a recurrence a part is a sum over examples, and a mask is drawn for the batch or for each
    if name not in ("recurrence", "dropout and penalty"):
        for g, h in zip(jax.tree.leaves(mean), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-5)


def test_keys_and_flax_pass():
    keys = jax.random.split(jax.random.key(0), 4)
    gradients.per_example_grad(noised, keep_batch_dim=True)(PARAMS, X, keys)
    params = jax.jit(Net().init)(jax.random.key(0), X)
    gradients.per_example_grad(flax_net, keep_batch_dim=True)(params, X, Y)


def batch_statistics(p, x, y):
    x = (x - x.mean(0, keepdims=True)) / (x.std(0, keepdims=True) + 1)
    return cross_entropy(p, x, y)


def contrastive(p, x, y):
    z = logits(p, x)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(z @ z.T)))


def by_clip(p, x, y):
    return jnp.mean(losses.clip_loss(logits(p, x), jnp.tanh(logits(p, 2 * x)), 1.0))


def by_siglip(p, x, y):
    return jnp.mean(losses.siglip_loss(logits(p, x), jnp.tanh(logits(p, 2 * x)), 1.0, -3.0))


def by_ntxent(p, x, y):
    return losses.ntxent(logits(p, x), y % 2)


def of_pairs(p, x, y):
    z = logits(p, x)
    return jnp.mean((z[:, None] - z[None]) ** 2)


def hardest(p, x, y):
    return jnp.max(jnp.sum(logits(p, x) ** 2, 1))


def hardest_of_optax(p, x, y):
    return jnp.max(optax.softmax_cross_entropy_with_integer_labels(logits(p, x), y))


def product_of_means(p, x, y):
    mean = jnp.mean(logits(p, x), 0)
    return mean @ mean


def over_examples(p, x, y):
    return jnp.mean(jax.nn.softmax(logits(p, x), 0) ** 2)


def square_of_the_mean(p, x, y):
    return jnp.mean(logits(p, x)) ** 2


def by_their_number(p, x, y):
    mask = (y > 0).astype(x.dtype)
    return jnp.sum(jnp.sum(logits(p, x) ** 2, 1) * mask) / jnp.sum(mask)


def in_a_loop(p, x, y):
    def layer(x, w):
        return x - jnp.mean(x, 0, keepdims=True) * w, None

    return jnp.mean(lax.scan(layer, x, p["b"])[0] ** 3)


def in_a_branch(p, x, y):
    centred = lambda h: h - jnp.mean(h, 0, keepdims=True)  # noqa: E731
    return jnp.mean(lax.cond(jnp.sum(p["b"]) > 9, jnp.tanh, centred, logits(p, x)) ** 3)


def over_examples_that_come_second(p, x, y):
    """Time first, as it is scanned; through a product of all rows at once."""
    h = nn.dense({"kernel": p["w"][:3], "bias": p["b"]}, x.reshape(len(x), 2, 3).swapaxes(0, 1))
    return jnp.mean((h - jnp.mean(h, 1, keepdims=True)) ** 2)


def ranked(p, x, y):
    return jnp.mean(jnp.sort(jnp.sum(logits(p, x), 1)) * jnp.arange(4.0)[: len(x)])


def running_sum(p, x, y):
    return jnp.mean(jnp.cumsum(logits(p, x), 0) ** 2)


class BatchNormed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.BatchNorm(use_running_average=False)(x))


MIXED = {
    "batch statistics": (batch_statistics, r"reduce_sum \(in batch_statistics, test_mixing.py:\d+"),
    "contrastive": (contrastive, "dot_general .* of examples with examples"),
    "CLIP": (
        by_clip,
        r"dot_general \(in clip_loss, contrastive.py:\d+\), of examples with examples",
    ),
    "SigLIP": (by_siglip, r"dot_general \(in siglip_loss, .* of examples with examples"),
    "NT-Xent": (by_ntxent, r"eq \(in ntxent, .* of examples with examples"),
    "pairs": (of_pairs, "sub .* of examples with examples"),
    "the hardest": (hardest, r"reduce_max \(in hardest, .*\) over the batch"),
    "softmax over examples": (over_examples, "reduce_max .* over the batch"),
    "square of the mean": (square_of_the_mean, "reduce_sum .* a sum over the batch that goes into"),
    "divided by a count": (
        by_their_number,
        "reduce_sum .* that goes into div",
    ),
    "the hardest by Optax": (hardest_of_optax, "reduce_max .* over the batch"),
    "product of means": (product_of_means, "reduce_sum .* that goes into dot_general"),
    "in a loop": (in_a_loop, "reduce_sum .* that meets single examples again"),
    "in a branch": (in_a_branch, "reduce_sum .* that meets single examples again"),
    "second": (
        over_examples_that_come_second,
        "reduce_sum .* that meets single examples again",
    ),
    "ranked": (ranked, "sort .* over the batch"),
    "running sum": (running_sum, "cumsum .* over the batch"),
}


@pytest.mark.parametrize(
    "name",
    thorough_beyond(
        {"contrastive", "CLIP", "SigLIP", "NT-Xent", "divided by a count"},
        {name: (name,) for name in MIXED},
    ),
)
def test_what_mixes_is_named(name):
    loss, message = MIXED[name]
    with pytest.raises(ValueError, match=f"loss mixes the examples of a batch by {message}"):
        gradients.per_example_grad(loss, keep_batch_dim=True)(PARAMS, X, Y)
    with pytest.raises(ValueError, match="loss mixes the examples"):
        jax.jit(gradients.clipped_grad(jax.jit(loss), 1.0, keep_batch_dim=True))(PARAMS, X, Y)


def test_batch_norm_of_flax_is_named():
    variables = jax.jit(BatchNormed().init)(jax.random.key(0), X)

    def loss(params, x, y):
        out, _ = BatchNormed().apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, x, mutable=["batch_stats"]
        )
        return jnp.mean(out**2)

    with pytest.raises(ValueError, match=r"reduce_sum \(in .*normalization.py:\d+\)"):
        gradients.per_example_grad(loss, keep_batch_dim=True)(variables["params"], X, Y)


def test_what_only_aux_holds_is_no_matter():
    def loss(p, x, y):
        return cross_entropy(p, x, y), jnp.max(x)

    gradients.per_example_grad(loss, has_aux=True, keep_batch_dim=True)(PARAMS, X, Y)


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_and_depthwise_convolutions_hide_no_mixing(groups):
    params = nn.init_conv(jax.random.key(0), (3, 3), 4, 4, groups=groups)
    x = jnp.linspace(-1, 1, 300).reshape(3, 5, 5, 4)

    def alone(params, x):
        return jnp.sum(jnp.tanh(nn.conv(params, x, groups=groups))), None

    def centred(params, x):
        y = nn.conv(params, x, groups=groups)
        return jnp.sum(jnp.tanh(y - jnp.mean(y, 0, keepdims=True))), None

    assert isinstance(state_of(alone, params, (x,)), Summed)
    assert isinstance(state_of(centred, params, (x,)), Mixed)
