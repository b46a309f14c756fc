"""Kronecker factors against kfac-jax's values and against sums over positions by hand."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, nn
from jaxnets.gradients import likelihoods
from jaxnets.gradients.kronecker import layer_products, to_matrix
from jaxnets.gradients.layout import layout_from
from jaxnets.gradients.plans import uses_by_parameter
from jaxnets.gradients.pulls import forward
from jaxnets.tree import flatten_with_paths
from tests.catalogue import initial, thorough_beyond
from tests.gradients.test_engine import LAYERS_AND_MODELS, B, batch_of, of_layer
from tests.gradients.zoo import CASES, drawn
from tests.numerics import assert_trees_close, relative_error

VALUES = json.loads(Path(__file__).with_name("kfac.json").read_text())
PADDING = {"convolution": (1, "SAME"), "convolution with strides": (2, "VALID")}


def net(case, params, x):
    first, last = params["first"], params["last"]
    if x.ndim == 1:
        return nn.dense(last, jnp.tanh(nn.dense(first, x)))
    strides, padding = PADDING.get(case, (1, "VALID"))
    y = jnp.tanh(nn.conv(first, x, stride=strides, padding=padding))
    return nn.dense(last, y.ravel())


def factors_of(loss, params, *batch, **options):
    _, factors = gradients.per_example_grad(loss)(params, *batch)
    return gradients.kfac_factors(factors, **options)


def arrays(x):
    return jax.tree.map(np.asarray, x, is_leaf=lambda leaf: isinstance(leaf, list))


@pytest.mark.parametrize("case", VALUES["cases"])
def test_factors_and_natural_gradients_are_those_of_kfac_jax(case, x64):
    given = VALUES["cases"][case]
    params, x, y = (arrays(given[name]) for name in ("params", "x", "y"))

    def factors_by_class(run):
        """The expectation over the model's labels written out: `√p_c ∂(-log p_c)/∂z` for each."""
        p = jax.nn.softmax(run.outputs)
        for c in range(3):
            errors = jnp.sqrt(p[:, c, None]) * (p - jax.nn.one_hot(c, 3)[None])
            yield gradients.kfac_factors(run.factors(errors))

    @jax.jit
    def both(params):
        run = forward(lambda params, x: net(case, params, x), params, (x,))
        each = list(factors_by_class(run))
        blocks = [
            replace(b[0], signals=sum(block.signals for block in b))
            for b in zip(*each, strict=True)
        ]
        errors = likelihoods.output_errors(likelihoods.categorical, run.outputs, y)
        mean = gradients.weighted_sum(run.factors(errors), jnp.full(len(x), 1 / len(x)))
        inverse = gradients.inverses(blocks, VALUES["damping"])
        return blocks, gradients.natural_gradient(inverse, mean)

    blocks, natural = both(params)
    assert [block.layer.kernel for block in blocks] == ["first/kernel", "last/kernel"]
    assert len(given["blocks"]) == 2
    for block, wanted in zip(blocks, given["blocks"], strict=True):
        assert block.layer.positions == wanted["scale"]
        assert relative_error(block.inputs[0], wanted["inputs"]) < 1e-13
        assert relative_error(block.signals[0], wanted["signals"]) < 1e-13
    assert_trees_close(natural, arrays(given["natural"]), 1e-11)


def block_matrix(blocks, params, path):
    """`T A ⊗ G` as a matrix over a layer's elements, in the order of its leaves raveled."""
    (block,) = [b for b in blocks if getattr(getattr(b, "layer", None), "kernel", None) == path]
    layer, leaves, count = block.layer, flatten_with_paths(params), 0
    numbers = {}
    for name in (layer.kernel, layer.bias):
        if name is not None:
            size = leaves[name].size
            numbers[name] = np.arange(count, count + size).reshape(leaves[name].shape)
            count += size
    places = np.asarray(to_matrix(numbers, layer))
    full = np.zeros((count, count))
    for group, a, g in zip(places, block.inputs, block.signals, strict=True):
        full[np.ix_(group.ravel(), group.ravel())] = layer.positions * np.kron(a, g)
    return full


def fisher(loss, params, paths, *batch):
    """`E[g gᵀ]` over some leaves raveled, by `vmap(grad)`."""
    own = flatten_with_paths(jax.vmap(jax.grad(loss), (None, *[0] * len(batch)))(params, *batch))
    rows = np.concatenate([np.reshape(own[path], (len(own[path]), -1)) for path in paths], 1)
    return rows.T @ rows / len(rows)


class Images(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(3, (2, 2), strides=2, name="first")(x)
        x = linen.LayerNorm(name="norm")(jnp.tanh(x))
        return linen.Dense(2, name="last")(x.reshape(*x.shape[:-3], -1))


class Tokens(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Embed(7, 4, name="embed")(x)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(x, x)
        x = linen.RNN(linen.SimpleCell(3), name="recurrent")(x)
        return linen.Dense(2, name="last")(x[-1])


@pytest.fixture(scope="module")
def key():
    return jax.random.key(3)


def classified(model):
    def loss(params, x, y):
        return likelihoods.categorical.loss(model.apply(params, x), y)

    return loss


def described(blocks):
    return {
        getattr(b, "path", None) or b.layer.kernel: getattr(b, "layer", None) and b.layer.bias
        for b in blocks
    }


def shapes_of(loss, params, *batch, **options):
    return jax.eval_shape(lambda p: factors_of(loss, p, *batch, **options), params)


@pytest.mark.thorough
def test_one_example_at_one_position_is_exact(key, x64):
    """Of one example `T A ⊗ G` is the outer product of its gradient: no expectation is split."""
    model, x, y = Images(), jax.random.normal(key, (1, 4, 4, 2)), jnp.array([1])
    params = jax.tree.map(lambda p: p.astype(float), jax.jit(model.init)(key, x[0]))
    loss = classified(model)
    blocks = factors_of(loss, params, x, y)
    paths = ["params/last/kernel", "params/last/bias"]
    got = block_matrix(blocks, params, paths[0])
    assert relative_error(got, fisher(loss, params, paths, x, y)) < 1e-12
    diagonal = next(b for b in blocks if getattr(b, "path", "") == "params/norm/scale")
    want = np.diag(fisher(loss, params, ["params/norm/scale"], x, y))
    assert relative_error(diagonal.diagonal, want) < 1e-12


def test_layers_of_flax_are_recognized(key):
    images = Images()
    x, y = jnp.zeros((2, 4, 4, 2)), jnp.zeros(2, int)
    params = jax.jit(images.init)(key, x[0])
    assert described(shapes_of(classified(images), params, x, y)) == {
        "params/first/kernel": "params/first/bias",
        "params/last/kernel": "params/last/bias",
        "params/norm/bias": None,
        "params/norm/scale": None,
    }
    tokens = Tokens()
    x = jnp.zeros((2, 5), int)
    params = jax.jit(tokens.init)(key, x[0])
    found = shapes_of(classified(tokens), params, x, y)
    attention = [f"params/attention/{name}" for name in ("query", "key", "value", "out")]
    assert described(found) == {
        "params/embed/embedding": None,
        **{f"{name}/kernel": f"{name}/bias" for name in attention},
        "params/SimpleCell_0/i/kernel": "params/SimpleCell_0/i/bias",
        "params/SimpleCell_0/h/kernel": None,
        "params/last/kernel": "params/last/bias",
    }
    positions = {
        b.layer.kernel.split("/")[-2]: b.layer.positions for b in found if hasattr(b, "layer")
    }
    assert positions["query"] == positions["out"] == positions["i"] == positions["h"] == 5
    assert positions["last"] == 1


def rnn_in_a_scan(params, x, y):
    def turn(h, x):
        return jnp.tanh(nn.dense(params["in"], x) + h @ params["state"]["kernel"]), None

    h, _ = jax.lax.scan(turn, jnp.zeros(3), x)
    return likelihoods.categorical.loss(h, y)


def rnn_unrolled(params, x, y):
    # of a first state that no example enters, the product is a value of parameters alone
    h = 0 * jnp.resize(x, 3)
    for t in range(x.shape[0]):
        h = jnp.tanh(nn.dense(params["in"], x[t]) + h @ params["state"]["kernel"])
    return likelihoods.categorical.loss(h, y)


def test_turns_of_a_loop_are_positions(key, x64):
    """The states and error signals of a recurrent net by hand, turn for turn."""
    rng = np.random.default_rng(0)
    params = {
        "in": {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)},
        "state": {"kernel": rng.normal(size=(3, 3))},
    }
    x, y = rng.normal(size=(4, 5, 2)), np.array([0, 1, 2, 0])
    a_in, a_state, g = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    for one, label in zip(x, y, strict=True):
        h = [np.zeros(3)]
        for t in range(5):
            h.append(
                np.tanh(
                    one[t] @ params["in"]["kernel"]
                    + params["in"]["bias"]
                    + h[-1] @ params["state"]["kernel"]
                )
            )
        p = np.exp(h[-1]) / np.exp(h[-1]).sum()
        back = p - np.eye(3)[label]
        for t in reversed(range(5)):
            signal = back * (1 - h[t + 1] ** 2)
            g += np.outer(signal, signal)
            a_in += np.outer(np.append(one[t], 1), np.append(one[t], 1))
            a_state += np.outer(h[t], h[t])
            back = params["state"]["kernel"] @ signal
    for loss in (rnn_in_a_scan, rnn_unrolled):
        first, second = factors_of(loss, params, x, y)
        assert (first.layer.bias, second.layer.bias) == ("in/bias", None)
        assert first.layer.positions == second.layer.positions == 5
        assert relative_error(first.inputs[0], a_in / 20) < 1e-13
        assert relative_error(second.inputs[0], a_state / 20) < 1e-13
        assert relative_error(first.signals[0], g / 20) < 1e-13
        assert relative_error(second.signals[0], g / 20) < 1e-13


def test_layers_of_a_stack_are_groups_of_their_own(key, x64):
    rng = np.random.default_rng(1)
    stack = {"kernel": rng.normal(size=(3, 4, 4)), "bias": rng.normal(size=(3, 4))}
    x = rng.normal(size=(5, 4))

    def scanned(stack, x):
        return jnp.sum(jax.lax.scan(lambda h, p: (jnp.tanh(nn.dense(p, h)), None), x, stack)[0])

    def apart(layers, x):
        for layer in layers:
            x = jnp.tanh(nn.dense(layer, x))
        return jnp.sum(x)

    layers = [jax.tree.map(lambda p, i=i: p[i], stack) for i in range(3)]
    (together,) = factors_of(scanned, stack, x)
    each = factors_of(apart, layers, x)
    assert together.layer.groups == 3
    for i, block in enumerate(each):
        assert relative_error(together.inputs[i], block.inputs[0]) < 1e-13
        assert relative_error(together.signals[i], block.signals[0]) < 1e-13


@pytest.mark.thorough
def test_kernels_laid_out_as_pytorchs_have_the_same_factors(x64):
    rng = np.random.default_rng(2)
    kernel, bias, x = (
        rng.normal(size=(3, 3, 2, 4)),
        rng.normal(size=4),
        rng.normal(size=(3, 5, 5, 2)),
    )
    ours = {"kernel": kernel, "bias": bias}
    theirs = {"kernel": kernel.transpose(3, 2, 0, 1), "bias": bias}

    def loss(params, x):
        return jnp.sum(jnp.tanh(nn.conv(params, x)))

    def channels_first(params, x):
        y = jax.lax.conv(x.transpose(2, 0, 1)[None], params["kernel"], (1, 1), "SAME")
        return jnp.sum(jnp.tanh(y + params["bias"][None, :, None, None]))

    (want,), (got,) = factors_of(loss, ours, x), factors_of(channels_first, theirs, x)
    assert relative_error(got.inputs, want.inputs) < 1e-13
    assert relative_error(got.signals, want.signals) < 1e-13
    numbers = to_matrix(ours, want.layer)
    np.testing.assert_array_equal(to_matrix(theirs, got.layer), numbers)


def test_what_is_no_layer_gets_a_diagonal(x64):
    rng = np.random.default_rng(3)
    params = {
        "kernel": rng.normal(size=(3, 3)),
        "bias": rng.normal(size=3),
        "scale": rng.normal(size=3),
    }
    x = rng.normal(size=(4, 3))

    def twice(params, x):  # the bias is added elsewhere too
        return jnp.sum(jnp.tanh(nn.dense(params, jnp.tanh(x + params["bias"]))) * params["scale"])

    def symmetric(params, x):  # more than a rearrangement
        kernel = params["kernel"] + params["kernel"].T
        return jnp.sum(jnp.tanh(x @ kernel + params["bias"]) * params["scale"])

    def shared(params, x):  # a bias of one number for two outputs
        return jnp.sum(jnp.tanh(x @ params["kernel"] + params["bias"][0]) * params["scale"])

    for loss, bias in ((twice, None), (symmetric, None), (shared, None)):
        blocks = factors_of(loss, params, x)
        found = described(blocks)
        assert found == {"kernel": bias, "bias": None, "scale": None}
        kinds = {getattr(b, "path", None) or b.layer.kernel: type(b).__name__ for b in blocks}
        assert kinds["kernel"] == ("DiagonalBlock" if loss is symmetric else "KroneckerBlock")
        for block in blocks:
            if isinstance(block, gradients.DiagonalBlock):
                want = np.diag(fisher(loss, params, [block.path], x))
                assert relative_error(np.ravel(block.diagonal), want) < 1e-12


def test_damped_inverses_are_inverses(x64):
    rng = np.random.default_rng(4)
    params = {
        "kernel": rng.normal(size=(3, 2)),
        "bias": rng.normal(size=2),
        "scale": rng.normal(size=2),
    }
    x, damping = rng.normal(size=(6, 4, 3)), 0.1

    def loss(params, x):
        return jnp.sum(jnp.tanh(nn.dense(params, x)) * jnp.tile(params["scale"], (4, 1)))

    blocks = factors_of(loss, params, x)
    gradient = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    got = gradients.natural_gradient(gradients.inverses(blocks, damping), gradient)
    layer = next(b for b in blocks if isinstance(b, gradients.KroneckerBlock))
    diagonal = next(b for b in blocks if isinstance(b, gradients.DiagonalBlock))
    a, g = np.asarray(layer.inputs[0]), np.asarray(layer.signals[0])
    pi = np.sqrt((np.trace(a) / 4) / (np.trace(g) / 2))
    root = np.sqrt(damping / 4)
    full = 4 * np.kron(a + pi * root * np.eye(4), g + root / pi * np.eye(2))
    vector = np.concatenate([gradient["kernel"].ravel(), gradient["bias"]])
    solved = np.linalg.solve(full, vector)
    assert relative_error(got["kernel"].ravel(), solved[:6]) < 1e-12
    assert relative_error(got["bias"], solved[6:]) < 1e-12
    want = gradient["scale"] / (np.asarray(diagonal.diagonal) + damping)
    assert relative_error(got["scale"], want) < 1e-12


def test_wide_layers_are_diagonal():
    params, x = {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}, jnp.ones((2, 3))

    def loss(params, x):
        return jnp.sum(nn.dense(params, x))

    assert len(shapes_of(loss, params, x, largest=5)) == 1
    assert [b.path for b in shapes_of(loss, params, x, largest=4)] == ["bias", "kernel"]
    with pytest.raises(ValueError, match="kfac_factors: largest must be at least 1, got 0"):
        shapes_of(loss, params, x, largest=0)
    with pytest.raises(ValueError, match=r"the blocks are of other parameters: missing 'kernel'"):
        gradients.natural_gradient(shapes_of(loss, params, x), {"bias": jnp.ones(5)})


def test_a_layout_is_found_if_there_is_one():
    rng = np.random.default_rng(5)
    numbers = np.arange(2 * 3 * 4 * 5)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0), (1, 0, 3, 2)):
        moved = numbers.reshape(2, 3, 4, 5).transpose(order)
        matrix = moved.reshape(1, moved.shape[0] * moved.shape[1], -1)
        layout = layout_from(matrix)
        np.testing.assert_array_equal(layout.to_matrix(numbers.reshape(6, 20)), matrix)
        np.testing.assert_array_equal(layout.from_matrix(matrix, (120,)), numbers)
    assert layout_from(rng.permutation(numbers).reshape(1, 6, 20)) is None
    assert layout_from(np.array([[[0, 1, 2], [3, 5, 4]]])) is None


@partial(jax.jit, static_argnums=0)
def layers_and_their_gradients(loss, params, batch):
    """Of each layer `1/B Σ ā ⊗ g`, and the batch's gradient as that matrix."""
    losses, factors = gradients.per_example_grad(loss)(params, batch)
    mean = gradients.weighted_sum(factors, jnp.full(len(losses), 1 / len(losses)))
    used, leaves = uses_by_parameter(factors), flatten_with_paths(mean)
    pairs = []
    for block in gradients.kfac_factors(factors):
        if isinstance(block, gradients.KroneckerBlock):
            found = used[factors.program.paths.index(block.layer.kernel)]
            x, error = layer_products(found, block.layer.bias is not None)
            product = jnp.einsum("bntd,bntk->ndk", x, error) / len(losses)
            pairs.append((product, to_matrix(leaves, block.layer)))
    return pairs


NO_LAYER = {
    "sliced", "sliced, one slice alone", "sliced, overlapping", "sliced, with gaps", "conv, sliced",
    "sliced, and whole", "slices of slices", "stacked layers, one by one", "slices in a loop",
    "a loop over some layers", "weight normalization and penalty", "adapter", "bias and scale",
    "positions", "scalar", "not used", "no example in it", "embedding", "embedding, clipped",
    "embedding, filled", "embedding of vectors", "tied to the embedding", "and transposed",
    "tied to the embedding twice", "one embedding for two languages", "as matrix and as bias",
    "in a custom_jvp", "in a custom_vjp of another derivative", "sorted",
}  # fmt: skip
FEW = {"in stacked layers", "in a recurrence", "conv, grouped", "conv, channels first"}


@pytest.mark.parametrize("case", thorough_beyond(FEW, {case.name: (case,) for case in CASES}))
def test_gradients_are_the_products_of_what_factors_are_made_of(case, x64):
    """In whatever way a kernel and a bias meet the example; rows and columns in their places."""
    pairs = layers_and_their_gradients(case.loss, *drawn(case, B, jnp.float64))
    assert bool(pairs) == (case.name not in NO_LAYER)
    for product, gradient in pairs:
        assert relative_error(product, gradient) < 1e-12


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", LAYERS_AND_MODELS, ids=lambda case: case.name)
def test_so_they_are_of_layers_and_models(case, x64):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), initial(case))
    if not jax.tree.leaves(params):
        pytest.skip("has no parameters")
    loss, batch = of_layer(case), batch_of(case, jnp.float64)
    for product, gradient in layers_and_their_gradients(loss, params, batch):
        assert relative_error(product, gradient) < 1e-10
