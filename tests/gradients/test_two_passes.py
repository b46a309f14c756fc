"""Clipped gradients and norms of losses with `checkpoint`, beside their definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, nn
from jaxnets.gradients import two_passes
from jaxnets.gradients.per_example import tracer
from tests.catalogue import thorough_beyond
from tests.gradients.zoo import Case, drawn

B = 5


def square(y):
    return jnp.sum(jnp.tanh(y) ** 2)


def layer(p, x):
    return jnp.tanh(x @ p["w"] + p["b"][None]) * p["s"][None]


def stacked(p, x, turn=layer, **options):
    step = jax.checkpoint(turn, **options)
    return square(lax.scan(lambda x, p: (step(p, x), None), x, p)[0])


def whole_scan(p, x):
    """`checkpoint` around the loop instead of in it."""
    return jax.checkpoint(stacked)(p, x)


def two_layers(p, x):
    @jax.checkpoint
    def dense(w, b, x):
        return jnp.tanh(x @ w + b[None])

    return square(dense(p["w2"], p["b2"], dense(p["w1"], p["b1"], x)))


def slices(p, x):
    """Of one array, which so has two uses, of other elements."""
    first, second = ({name: p[name][i] for name in "wbs"} for i in range(2))
    y = jax.checkpoint(layer)(second, jax.checkpoint(layer)(first, x))
    return square(jax.checkpoint(jnp.multiply)(y, p["once"]))


def apart(p, x):
    y = jax.checkpoint(lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None]))(p, x)
    return square(y * p["s"][None]) + jnp.sum(p["s"] ** 2)


def shared(p, x):
    """One matrix in every turn, which needs its factors; biases of each turn, which do not."""

    @jax.checkpoint
    def step(x, b):
        return jnp.tanh(x @ p["w"] + b[None]), None

    return square(lax.scan(step, x, p["b"])[0])


def tied(p, i):
    def embedded(p, i):
        return jnp.tanh(p["e"][i] @ p["w"])

    return square(jax.checkpoint(embedded)(p, i) @ p["e"].T)


def embedded(p, i):
    return square(jax.checkpoint(lambda p, i: p["e"][i] @ p["w"])(p, i))


def normalized(p, x):
    def turn(p, x):
        return jnp.tanh(x @ (p["w"] / jnp.linalg.norm(p["w"])) + p["b"][None])

    return stacked({"w": p["w"], "b": p["b"]}, x, turn)


def scaled_outside(p, x):
    """Each turn's matrix is made of all of them."""
    return stacked(p | {"w": p["w"] / jnp.linalg.norm(p["w"])}, x)


def convolved(p, x):
    @jax.checkpoint
    def step(x, k):
        return jnp.tanh(nn.conv({"kernel": k}, x)), None

    return square(lax.scan(step, x, p["k"])[0])


def nested(p, x):
    @jax.checkpoint
    def outer(x, p):
        return lax.scan(lambda x, p: (jax.checkpoint(layer)(p, x), None), x, p)[0], None

    pairs = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), p)
    return square(lax.scan(outer, x, pairs)[0])


LAYERS = {"w": (3, 4, 4), "b": (3, 4), "s": (3, 4)}
ONE = {"w": (4, 4), "b": (4,), "s": (4,)}
CASES = {
    case.name: (case,)
    for case in (
        Case("layers in a loop", LAYERS, (2, 4), stacked),
        Case("around the loop", LAYERS, (2, 4), whole_scan),
        Case(
            "layers one by one",
            {"w1": (4, 4), "b1": (4,), "w2": (4, 4), "b2": (4,)},
            (2, 4),
            two_layers,
        ),
        Case(
            "slices of one array",
            {"w": (2, 4, 4), "b": (2, 4), "s": (2, 4), "once": (2, 4)},
            (2, 4),
            slices,
        ),
        Case("some parameters outside", ONE, (2, 4), apart),
        Case("shared by all turns", {"w": (4, 4), "b": (3, 4)}, (2, 4), shared),
        Case("tied", {"e": (6, 4), "w": (4, 4)}, (3,), tied, ids=6),
        Case("embedding", {"e": (6, 4), "w": (4, 4)}, (3,), embedded, ids=6),
        Case("normalized inside", LAYERS, (2, 4), normalized),
        Case("normalized outside", LAYERS, (2, 4), scaled_outside),
        Case("convolutions", {"k": (2, 3, 3, 2, 2)}, (5, 5, 2), convolved),
        Case("within one another", {k: (4, *v[1:]) for k, v in LAYERS.items()}, (2, 4), nested),
        Case(
            "a policy",
            LAYERS,
            (2, 4),
            functools.partial(stacked, policy=jax.checkpoint_policies.dots_saveable),
        ),
        Case("prevent_cse", LAYERS, (2, 4), functools.partial(stacked, prevent_cse=False)),
    )
}


def run_of(loss, params, batch):
    traced = tracer(loss, has_aux=False, keep_batch_dim=False)(params, (batch,))
    return two_passes._two_passes(traced)


def definition(loss, bound, params, batch):
    losses, each = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batch)
    squares = [jnp.sum(g.reshape(B, -1) ** 2, 1) for g in jax.tree.leaves(each)]
    norms = jnp.sqrt(sum(squares))
    scales = jnp.minimum(1, bound / norms) / B
    return jax.tree.map(lambda g: jnp.tensordot(scales, g, 1), each), losses, norms


def close(got, want, rtol):
    for g, h in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, h, rtol=rtol, atol=rtol * float(np.max(np.abs(h))))


FEW = {"shared by all turns"}


@pytest.mark.parametrize("case", thorough_beyond(FEW, CASES))
def test_as_defined(case, x64):
    params, batch = drawn(case, B, jnp.float64)
    assert jax.eval_shape(lambda: run_of(case.loss, params, batch).losses).shape == (B,)
    want, losses, norms = jax.jit(functools.partial(definition, case.loss, 0.5))(params, batch)
    assert np.any(norms > 0.5)
    got, seen = jax.jit(gradients.clipped_grad(case.loss, 0.5))(params, batch)
    close(got, want, 1e-10)
    close((seen.losses, seen.norms), (losses, norms), 1e-10)
    close(jax.jit(gradients.per_example_norms(case.loss))(params, batch), norms, 1e-10)


def test_without_checkpoint_one_pass_does():
    params, batch = drawn(CASES["layers in a loop"][0], B)
    loss = lambda p, x: square(lax.scan(lambda x, p: (layer(p, x), None), x, p)[0])  # noqa: E731
    assert run_of(loss, params, batch) is None


def test_the_memory_is_that_of_checkpoint():
    """Six layers of which each would keep a hundred times what goes from one to the next."""
    p = {"w": jnp.ones((6, 4, 400)), "v": jnp.ones((6, 400, 4))}
    x = jnp.ones((64, 16, 4))

    def loss(p, x):
        def turn(x, p):
            return x + jnp.tanh(jnp.tanh(x @ p["w"])) @ p["v"], None

        return jnp.sum(lax.scan(jax.checkpoint(turn), x, p)[0])

    def plain(p, x):
        return jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, x)))(p)

    def temporary(f):
        return jax.jit(f).lower(p, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(gradients.clipped_grad(loss, 1.0)) < 1.5 * temporary(plain)
    assert temporary(gradients.per_example_norms(loss)) < 1.5 * temporary(plain)


@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.thorough)])
def test_a_bad_example_leaves_the_others_exact(bad):
    (case,) = CASES["layers in a loop"]
    params, batch = drawn(case, B)
    spoiled = batch.at[2].set(bad)

    def loss(p, x):  # tanh of infinity is finite
        return case.loss(p, x) + jnp.sum(x) * sum(map(jnp.sum, p.values()))

    got, seen = jax.jit(gradients.clipped_grad(loss, 0.1))(params, spoiled)
    want, _ = jax.jit(gradients.clipped_grad(loss, 0.1))(params, jnp.delete(batch, 2, axis=0))
    close(jax.tree.map(lambda g: g * B / (B - 1), got), want, 1e-5)
    assert seen.clipped[2]
    nothing, _ = jax.jit(gradients.clipped_grad(loss, 0.1))(params, jnp.full_like(batch, bad))
    for g in jax.tree.leaves(nothing):
        np.testing.assert_array_equal(g, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_squares_that_are_no_numbers(size):
    def loss(w, x):
        return size * jnp.sum(jax.checkpoint(lambda w, x: w * x)(w, x))

    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    got, seen = gradients.clipped_grad(loss, size)(jnp.ones(2), x)
    np.testing.assert_allclose(seen.norms, [5 * size, 0], rtol=1e-6)
    np.testing.assert_allclose(got, [0.3 * size, 0.4 * size], rtol=1e-6)


@pytest.mark.thorough
def test_masks_microbatches_and_groups():
    (case,) = CASES["layers in a loop"]
    params, batch = drawn(case, B)
    mask = jnp.array([True, False, True, True, True])
    kept = batch[mask]
    want, _ = gradients.clipped_sum(case.loss, 0.5)(params, kept)
    for size in (None, 2):
        got, _ = gradients.clipped_sum(case.loss, 0.5, microbatch_size=size)(
            params, batch, mask=mask
        )
        close(got, want, 1e-5)
    got, seen = gradients.clipped_grad(case.loss, 0.5, per="leaf")(params, batch)
    total = jnp.sqrt(sum(n**2 for n in seen.group_norms.values()))
    np.testing.assert_allclose(total, seen.norms, rtol=1e-5)


def test_aux_and_a_loss_in_half_precision():
    def loss(w, x):
        y = jax.checkpoint(lambda w, x: x @ w)(w, x)
        return jnp.sum(y**2), y

    w, x = jnp.ones((3, 2)), jnp.arange(6.0).reshape(2, 3)
    clipped = jax.jit(gradients.clipped_grad(loss, 1.0, has_aux=True))
    _, seen = clipped(w, x)
    np.testing.assert_allclose(seen.aux, x @ w)

    def mixed(w, x):
        value, _ = loss(w.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
        return value.astype(jnp.float32)

    assert run_of(mixed, w, x) is None
    half = w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
    assert run_of(lambda w, x: loss(w, x)[0], *half) is None
    (got, _), (want, _) = clipped(*half), clipped(w, x)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2e-2)
