"""The same function in PyTorch, Flax and here: names and layouts there and back, and parity."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks import transformer as benchmark
from jaxnets import models, nn, pretrained
from tests.catalogue import (
    BERT,
    CNN,
    CNN_STATE,
    GPT,
    LLAMA,
    MLP,
    RECURRENT,
    linen_cell,
    random_biases,
)
from tests.numerics import assert_trees_close, assert_trees_equal, drawn, relative_error

KEY = jax.random.key(0)
VALUES = json.loads(Path(__file__).with_name("pytorch.json").read_text())


def weights_and_biases(place, name):
    return {rf"{place}/kernel": rf"{name}.weight", rf"{place}/bias": rf"{name}.bias"}


MLP_TORCH = {
    key: name
    for i in range(3)
    for key, name in weights_and_biases(f"layers/{i}", str(2 * i)).items()
}
CNN_TORCH = {
    r"0/blocks/(\d+)/conv/kernel": r"convs.\1.weight",
    r"0/blocks/(\d+)/norm/scale": r"norms.\1.weight",
    r"0/blocks/(\d+)/norm/bias": r"norms.\1.bias",
    r"1/moments/(\d+)/(mean|var)": r"norms.\1.running_\2",
    **weights_and_biases("0/head/layers/0", "head.1"),
    **weights_and_biases("0/head/layers/1", "head.3"),
}
LANGUAGE = models.RNNConfig(3, 7, "lstm", (4, 4), readout="each", vocabulary=7)
GRU_LANGUAGE = models.RNNConfig(3, 7, "gru", (4, 4), readout="each", vocabulary=7)
LANGUAGE_TORCH = {
    "embedding/embedding": "embedding.weight",
    **{path: f"layers.{name}" for path, name in pretrained.LSTM_NAMES.items()},
    **weights_and_biases("head", "head"),
}
SMALL_BERT = models.TransformerConfig(
    11, depth=2, features=8, heads=2, hidden=12, max_length=5, pre_norm=False, embedding_norm=True,
    norm_eps=1e-12, token_types=2,
)  # fmt: skip
SMALL_LLAMA = models.TransformerConfig(
    11, depth=2, features=8, heads=4, kv_heads=2, hidden=12, activation=nn.silu, gated=True,
    norm="rms_norm", positions="rotary", theta=1e3, bias=False, tied=False,
)  # fmt: skip


UP_AND_DOWN = {"down": ((4, 4), (2, 3), (3, 5)), "up": ((4, 2), (5, 3), (3, 2))}
UP_AND_DOWN_TORCH = weights_and_biases(r"(up|down)/(\d)", r"\1.\2")


def _init_up_and_down(key):
    return {
        name: [nn.init_conv(key, window, *sizes) for sizes in layers]
        for name, (window, *layers) in UP_AND_DOWN.items()
    }


def _up_and_down(params, x):
    x = jnp.moveaxis(x, 1, -1)
    for layer in params["down"]:
        x = nn.relu(nn.conv(layer, x, stride=2))
    for layer in params["up"]:
        x = nn.relu(nn.conv_transpose(layer, x, stride=2))
    return jnp.moveaxis(x, -1, 1)


def _cnn(pair, x):
    params, state = pair
    return models.cnn(params, CNN, jnp.moveaxis(x, 1, -1), state=state)[0]


# of PyTorch's Llama the norms and rotations are in float32, whatever the rest is in
NETS = {
    "mlp": (MLP_TORCH, lambda k: models.init_mlp(k, MLP), lambda p, x: models.mlp(p, MLP, x)),
    "cnn": (CNN_TORCH, lambda k: models.init_cnn(k, CNN), _cnn),
    "lstm": (
        LANGUAGE_TORCH,
        lambda k: models.init_rnn(k, LANGUAGE),
        lambda p, x: models.rnn(p, LANGUAGE, x),
    ),
    "gru": (
        LANGUAGE_TORCH,
        lambda k: models.init_rnn(k, GRU_LANGUAGE),
        lambda p, x: models.rnn(p, GRU_LANGUAGE, x),
    ),
    "bert": (
        pretrained.BERT_NAMES,
        lambda k: models.init_encoder(k, SMALL_BERT),
        lambda p, x: models.encoder(p, SMALL_BERT, x),
    ),
    "llama": (
        pretrained.LLAMA_NAMES,
        lambda k: models.init_transformer(k, SMALL_LLAMA),
        lambda p, x: models.transformer(p, SMALL_LLAMA, x),
    ),
    "up and down": (UP_AND_DOWN_TORCH, _init_up_and_down, _up_and_down),
}
LAYOUTS = {
    # what the first dense layer sees: 2×1 pixels of 5 channels
    "cnn": {"flattened": {"0/head/layers/0/kernel": (2, 1, 5)}},
    "up and down": {"transposed": "^up/"},
}


def _stored(name, dtype):
    """What PyTorch had: its state dict whole and with joined biases, our parameters, and x."""
    rules, init, _ = NETS[name]
    stored = VALUES[name]
    whole = {key: np.asarray(w, dtype) for key, w in stored["state dict"].items()}
    state_dict = pretrained.join_biases(whole)
    like = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, dtype), jax.eval_shape(init, jax.random.key(0))
    )
    params = pretrained.from_state_dict(state_dict, like, rules, **LAYOUTS.get(name, {}))
    x = np.asarray(stored["x"])
    return whole, state_dict, params, x if x.dtype == int else x.astype(dtype)


@pytest.mark.parametrize("name", NETS)
def test_pytorchs_gradients_are_ours(name, x64):
    """Of attention, blocks, recurrent and convolutional nets, by each parameter."""
    rules, _, apply = NETS[name]
    _, _, params, x = _stored(name, "float64")
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(3 * apply(p, x)))))(params)
    got = pretrained.to_state_dict(gradient, rules, **LAYOUTS.get(name, {}))
    want = VALUES[name]["gradients"]
    # of two biases that are added there, one is left here
    assert set(want) - set(got) <= {key for key in want if "bias_hh" in key}
    # what PyTorch's Llama has in float32 cancels in the gradient of keys
    tolerance = 1e-5 if name == "llama" else 1e-12
    for key in set(got) & set(want):
        # of a hidden side's bias the candidate's part, which comes last
        ours, theirs = got[key], np.array(want[key])[-len(got[key]) :]
        if key == "embeddings.word_embeddings.weight":
            # PyTorch's BERT takes token 0 for padding, which learns nothing
            assert not np.any(theirs[0])
            ours, theirs = ours[1:], theirs[1:]
        # biases of keys have gradients of 0, but for rounding
        size = max(np.abs(theirs).max(), 1e-3)
        assert np.abs(ours - theirs).max() < tolerance * size, key


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorchs_weights_give_pytorchs_outputs_and_come_back(name, dtype, x64):
    rules, _, apply = NETS[name]
    whole, state_dict, params, x = _stored(name, dtype)
    got = jax.jit(apply)(params, x)
    assert got.dtype == dtype
    tolerance = 1e-6 if dtype == "float32" or name == "llama" else 1e-12
    assert relative_error(got, np.array(VALUES[name]["y"])) < tolerance

    back = pretrained.to_state_dict(params, rules, **LAYOUTS.get(name, {}))
    assert_trees_equal(back, state_dict)
    split = pretrained.split_biases(back)
    assert {key: x.shape for key, x in split.items()} == {k: x.shape for k, x in whole.items()}
    assert_trees_equal(pretrained.join_biases(split), state_dict)


def test_a_bias_without_a_partner_is_named():
    with pytest.raises(ValueError, match="'bias_hh_l0' has no 'bias_ih_l0'"):
        pretrained.join_biases({"bias_hh_l0": np.zeros(3)})


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        for features in MLP.hidden:
            x = linen.relu(linen.Dense(features)(x))
        return linen.Dense(MLP.n_out)(x)


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        for channels in CNN.channels:
            x = linen.Conv(channels, (3, 3), use_bias=False)(x)
            x = linen.BatchNorm(use_running_average=True)(x)
            x = linen.max_pool(linen.relu(x), (2, 2), (2, 2))
        x = linen.relu(linen.Dense(7)(x.reshape(len(x), -1)))
        return linen.Dense(4)(x)


class LinenGPT(linen.Module):
    @linen.compact
    def __call__(self, ids):
        table = linen.Embed(GPT.vocabulary, GPT.features, name="tokens")
        positions = linen.Embed(GPT.max_length, GPT.features, name="positions")
        x = table(ids) + positions(jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape))
        mask = linen.make_causal_mask(ids)

        def norm(x):
            return linen.LayerNorm(GPT.norm_eps)(x)

        for _ in range(GPT.depth):
            x += linen.MultiHeadDotProductAttention(GPT.heads)(norm(x), mask=mask)
            hidden = linen.gelu(linen.Dense(4 * GPT.features)(norm(x)), approximate=False)
            x += linen.Dense(GPT.features)(hidden)
        return table.attend(norm(x))


MLP_LINEN = {r"layers/(\d+)/(.*)": r"params/Dense_\1/\2"}
CNN_LINEN = {
    r"0/blocks/(\d+)/conv/kernel": r"params/Conv_\1/kernel",
    r"0/blocks/(\d+)/norm/(.*)": r"params/BatchNorm_\1/\2",
    r"1/moments/(\d+)/(.*)": r"batch_stats/BatchNorm_\1/\2",
    r"0/head/layers/(\d+)/(.*)": r"params/Dense_\1/\2",
}
GPT_LINEN = {
    "embedding/embedding": "params/tokens/embedding",
    "positions/embedding": "params/positions/embedding",
    r"blocks/(\d+)/attention/(.*)": r"params/MultiHeadDotProductAttention_\1/\2",
    **{
        rf"blocks/{i}/{ours}/(.*)": rf"params/{theirs}/\1"
        for i in range(2)
        for ours, theirs in {
            "attention_norm": f"LayerNorm_{2 * i}",
            "mlp_norm": f"LayerNorm_{2 * i + 1}",
            "mlp/up": f"Dense_{2 * i}",
            "mlp/down": f"Dense_{2 * i + 1}",
        }.items()
    },
    "norm/(.*)": r"params/LayerNorm_4/\1",
}
IDS = np.arange(10).reshape(2, 5)
LINEN = {
    "mlp": (LinenMLP(), MLP_LINEN, *NETS["mlp"][1:], np.ones((3, 6), np.float32)),
    "cnn": (
        LinenCNN(),
        CNN_LINEN,
        lambda k: (models.init_cnn(k, CNN)[0], CNN_STATE),
        lambda pair, x: models.cnn(pair[0], CNN, x, state=pair[1])[0],
        np.linspace(-1, 1, 192, dtype=np.float32).reshape(2, *CNN.image),
    ),
    "transformer": (
        LinenGPT(),
        GPT_LINEN,
        lambda k: models.init_transformer(k, GPT),
        lambda p, ids: models.transformer(p, GPT, ids),
        IDS,
    ),
}


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", pytest.param("transformer", marks=pytest.mark.thorough)]
)
def test_linens_variables_give_linens_outputs_and_come_back(name):
    module, rules, init, apply, x = LINEN[name]
    ours = random_biases(jax.jit(init)(KEY))
    like = jax.eval_shape(module.init, KEY, x)
    variables = pretrained.to_flax(ours, like, rules)
    want = jax.jit(module.apply)(variables, x)
    assert relative_error(jax.jit(apply)(ours, x), want) < 1e-6
    assert_trees_equal(pretrained.from_flax(variables, jax.eval_shape(init, KEY), rules), ours)


@pytest.mark.parametrize("kind", RECURRENT)
def test_linens_cells_have_their_gates_apart(kind):
    """As `linen_cell` of the oracles has them, in any tree, and back."""
    cell = "vanilla" if kind == "rnn" else kind
    config = models.RNNConfig(3, 7, cell, (4, 4), readout="each", vocabulary=7)
    init = partial(models.init_rnn, config=config)
    ours = random_biases(jax.jit(init)(KEY))
    theirs = pretrained.split_gates(ours)
    for layer, same in zip(ours["layers"], theirs["layers"], strict=True):
        assert_trees_equal(same["forward"], linen_cell(kind, layer["forward"]))
        x = jax.random.normal(KEY, (2, 5, layer["forward"]["input"]["kernel"].shape[0]))
        want = linen.RNN(RECURRENT[kind].module(4)).apply({"params": {"cell": same["forward"]}}, x)
        got, _ = nn.unroll(RECURRENT[kind].cell, layer["forward"], x)
        assert relative_error(got, want) < 1e-6
    assert_trees_equal(theirs["head"], ours["head"])
    assert_trees_equal(pretrained.join_gates(theirs), ours)


def test_what_is_no_cell_is_left():
    class Both(NamedTuple):
        input: dict
        hidden: dict

    layer = {"kernel": np.ones((4, 12)), "bias": np.ones(12)}
    for other in (
        {"input": layer, "hidden": layer}, {"input": layer, "hidden": 1}, Both(layer, layer),
        [{"i": layer}, (layer, layer)],
    ):  # fmt: skip
        assert_trees_equal(pretrained.split_gates(other), other)
        assert_trees_equal(pretrained.join_gates(other), other)


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        sizes = (CNN.image[-1], *CNN.channels)
        self.convs = nnx.List(
            nnx.Conv(n, m, (3, 3), use_bias=False, rngs=rngs) for n, m in itertools.pairwise(sizes)
        )
        self.norms = nnx.List(
            nnx.BatchNorm(n, use_running_average=True, rngs=rngs) for n in CNN.channels
        )
        self.head = nnx.List([nnx.Linear(10, 7, rngs=rngs), nnx.Linear(7, 4, rngs=rngs)])

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        return self.head[1](nnx.relu(self.head[0](x.reshape(len(x), -1))))


def test_nnxs_state_gives_nnxs_outputs_and_comes_back():
    rules = {
        r"0/blocks/(\d+)/conv/(.*)": r"convs/\1/\2",
        r"(?:0/blocks|1/moments)/(\d+)/(?:norm/)?(.*)": r"norms/\1/\2",
        "0/head/layers/(.*)": r"head/\1",
    }
    _, _, init, apply, x = LINEN["cnn"]
    ours = random_biases(jax.jit(init)(KEY))
    module = NnxCNN(nnx.Rngs(0))
    state = nnx.state(module)
    pure = pretrained.to_flax(ours, nnx.to_pure_dict(state), rules)
    nnx.replace_by_pure_dict(state, pure)
    nnx.update(module, state)
    assert relative_error(jax.jit(apply)(ours, x), module(x)) < 1e-6
    pure = nnx.to_pure_dict(nnx.state(module))
    assert_trees_equal(pretrained.from_flax(pure, ours, rules), ours)


@pytest.mark.thorough
def test_nnxs_transformer_has_our_outputs_and_gradients():
    """The net that the benchmarks time. (In float64 its attention rounds to float32.)"""
    sizes = {"features": 8, "heads": 2, "length": 6, "vocabulary": 11}
    config = benchmark.model_config(benchmark.Config(**sizes), 2)
    rules = {r"(blocks/\d+)/mlp/((?:up|down)/.*)": r"\1/\2", "(.*)": r"\1"}
    ours = random_biases(jax.jit(lambda k: models.init_transformer(k, config))(KEY))
    graph, state = nnx.split(benchmark.make_nnx(config), nnx.Param)
    variables = pretrained.to_flax(ours, nnx.to_pure_dict(state), rules)
    ids = jax.random.randint(KEY, (3, 6), 0, 11)

    def loss(logits):
        return jnp.sum(jnp.sin(3 * logits)), logits

    def theirs(variables):
        filled = jax.tree.map(lambda p: p, state)
        nnx.replace_by_pure_dict(filled, variables)
        return loss(nnx.merge(graph, filled)(ids))

    (_, want), their_gradients = jax.jit(jax.value_and_grad(theirs, has_aux=True))(variables)
    (_, got), gradients = jax.jit(
        jax.value_and_grad(lambda p: loss(models.transformer(p, config, ids)), has_aux=True)
    )(ours)
    assert relative_error(got, want) < 1e-6
    returned = pretrained.from_flax(their_gradients, ours, rules)
    # of the keys' biases they are 0, but for rounding
    for tree in (gradients, returned):
        for block in tree["blocks"]:
            del block["attention"]["key"]["bias"]
    # its variances are mean(x²) - mean(x)², which cancel
    assert_trees_close(returned, gradients, 1e-5)


def test_what_differs_from_flax_is_named():
    params = jax.jit(models.init_mlp)(KEY, MLP)
    like = jax.jit(LinenMLP().init)(KEY, np.ones(6))
    with pytest.raises(ValueError, match="no rule renames leaf 'layers/0/bias'"):
        pretrained.to_flax(params, like, {})
    with pytest.raises(ValueError, match="to_flax: two leaves get the name 'x'"):
        pretrained.to_flax(params, like, {".*": "x"})
    del like["params"]["Dense_1"]["bias"]
    with pytest.raises(ValueError, match="to_flax: added 'params/Dense_1/bias'"):
        pretrained.to_flax(params, like, MLP_LINEN)
    with pytest.raises(ValueError, match="from_flax: missing 'layers/1/bias'"):
        pretrained.from_flax(like, params, MLP_LINEN)
    like["params"]["Dense_1"] |= {"bias": np.zeros(5, np.float32), "scale": np.zeros(5)}
    with pytest.raises(ValueError, match="added 'params/Dense_1/scale'"):
        pretrained.from_flax(like, params, MLP_LINEN)


def test_a_flattened_images_kernel_moves_its_rows():
    """Row `(h, w, c)` of ours is column `(c, h, w)` of theirs."""
    params = {"kernel": np.arange(2 * 3 * 4, dtype=np.float32).reshape(6, 4)}
    got = pretrained.to_state_dict(params, {"kernel": "w"}, flattened={"kernel": (1, 2, 3)})["w"]
    want = params["kernel"].reshape(1, 2, 3, 4)
    for w in range(2):
        for c in range(3):
            np.testing.assert_array_equal(got[:, 2 * c + w], want[0, w, c])


def test_a_transposed_convolution_is_pytorchs_sum_over_the_window():
    """`y[s i + k - p] += x[i] w[k]`, by hand in one dimension."""
    rng = np.random.default_rng(0)
    params, x = nn.init_conv(KEY, (4,), 3, 5), rng.normal(size=(6, 3)).astype(np.float32)
    rules = {"(.*)": r"\1"}
    weight = pretrained.to_state_dict(params, rules, transposed="kernel")["kernel"]
    assert weight.shape == (3, 5, 4)
    want = np.zeros((2 * 6 + 2, 5))
    for i in range(6):
        for k in range(4):
            want[2 * i + k] += x[i] @ weight[:, :, k]
    assert relative_error(nn.conv_transpose(params, x, stride=2), want[1:-1]) < 1e-6
    # what it would be as an ordinary convolution's
    assert pretrained.to_state_dict(params, rules)["kernel"].shape == (5, 3, 4)
    for pattern in ("up", "bias"):
        with pytest.raises(ValueError, match=f"transposed '{pattern}' is in no convolution's"):
            pretrained.to_state_dict(params, rules, transposed=pattern)


@pytest.mark.parametrize("part", ["query", "key", "value", "out"])
def test_attentions_weights_in_another_layout_are_an_error(part):
    """Of as many values, but not `[out, in]`, or not of all heads together."""
    shape = (4, 2, 6) if part == "out" else (6, 4, 2)
    like = {"attention": {part: {"kernel": np.zeros(shape, np.float32)}}}
    weight = np.arange(48, dtype=np.float32).reshape((6, 8) if part == "out" else (8, 6))
    rules = {".*": "w"}
    params = pretrained.from_state_dict({"w": weight}, like, rules)
    assert_trees_equal(pretrained.to_state_dict(params, rules), {"w": weight})
    for wrong in (weight.T, weight.reshape(4, 12), weight.ravel(), weight.reshape(shape)):
        with pytest.raises(ValueError, match=rf"'attention/{part}/kernel' must be \["):
            pretrained.from_state_dict({"w": wrong}, like, rules)


def test_attentions_biases_in_another_layout_are_an_error():
    like = {"attention": {"query": {"bias": np.zeros((2, 3), np.float32)}}}
    bias, rules = np.arange(6, dtype=np.float32), {".*": "b"}
    params = pretrained.from_state_dict({"b": bias}, like, rules)
    np.testing.assert_array_equal(params["attention"]["query"]["bias"], bias.reshape(2, 3))
    for shape in ((2, 3), (3, 2), (1, 6)):
        with pytest.raises(ValueError, match=r"'attention/query/bias' must be \[6\] in the state"):
            pretrained.from_state_dict({"b": bias.reshape(shape)}, like, rules)


def test_families_of_names_cover_their_models():
    for config, init, rules in (
        (BERT, models.init_encoder, pretrained.BERT_NAMES),
        (LLAMA, models.init_transformer, pretrained.LLAMA_NAMES),
        (LLAMA, models.init_transformer, pretrained.GGUF_LLAMA_NAMES),
    ):
        params = drawn(init, config)
        back = pretrained.from_state_dict(pretrained.to_state_dict(params, rules), params, rules)
        assert_trees_equal(back, params)
