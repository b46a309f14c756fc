"""Each layer, model, loss and optimizer once; the property tests run over these tables.

A new piece of jaxnets gets one row here, and with it every property test.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import losses, models, nn, tree
from tests.losses import references
from tests.models import linen_images, linen_seq2seq
from tests.numerics import normal
from tests.optim.cases import (
    adam,
    adaptive_rates,
    combining,
    core,
    matrices,
    norms_and_signs,
)


class LayerCase(NamedTuple):
    """A layer or a model: a differentiable function of parameters and a batch."""

    name: str
    init: Callable[[jax.Array], Any]
    """`init(key) -> params`."""
    apply: Callable[[Any, jax.Array], jax.Array]
    """`apply(params, x) -> y`."""
    shape: tuple[int, ...]
    """Of one example."""
    oracle: Callable[[Any, jax.Array], jax.Array]
    """The same function by Flax Linen, given the same parameters."""
    mixes_examples: bool = False
    """Whether one example's output depends on the others of its batch."""
    ids: int = 0
    """If not 0, the inputs are integers below it."""
    heavy: bool = False
    """Whether compiling it takes long: most of its tests are then exhaustive."""


class LossCase(NamedTuple):
    name: str
    loss: Callable[..., jax.Array]
    """`loss(*inputs) -> unreduced losses`."""
    inputs: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    """Float64 (or integer) inputs with two leading axes; floating ones are cast per test."""
    reference: Callable[..., np.ndarray]
    """An independent float64 computation of the same inputs."""
    optax: Callable[..., jax.Array] | None = None
    """The same in Optax."""
    logits: bool = False
    """Whether the first input is logits or scores, which may be of any size, ±∞ included."""
    mixes_examples: bool = False
    """Whether the second axis is a batch, of which each example's loss sees the others."""


def _linen(module: linen.Module) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda params, x: module.apply({"params": params}, x)


def _no_params(key: jax.Array) -> dict[str, Any]:
    return {}


def _conv(name, window, n_in, n_out, shape, *, groups=1, bias=True, **keywords):
    names = {"stride": "strides", "dilation": "kernel_dilation", "padding": "padding"}
    theirs = {names[k]: v for k, v in keywords.items()}
    return LayerCase(
        name,
        lambda key: nn.init_conv(key, window, n_in, n_out, groups=groups, bias=bias),
        lambda p, x: nn.conv(p, x, groups=groups, **keywords),
        shape,
        _linen(linen.Conv(n_out, window, feature_group_count=groups, use_bias=bias, **theirs)),
    )


def _conv_transpose(name, window, n_in, n_out, shape, *, stride, padding="SAME"):
    strides = (stride,) * len(window)
    return LayerCase(
        name,
        lambda key: nn.init_conv(key, window, n_in, n_out),
        lambda p, x: nn.conv_transpose(p, x, stride=stride, padding=padding),
        shape,
        _linen(linen.ConvTranspose(n_out, window, strides=strides, padding=padding)),
    )


def _pool(name, ours, theirs, shape):
    return LayerCase(name, _no_params, lambda _, x: ours(x), shape, lambda _, x: theirs(x))


def _random_norm(features, *, bias=True):
    """Norm parameters away from their identity initialization."""

    def init(key):
        leaves, structure = jax.tree.flatten(nn.init_norm(features, bias=bias))
        keys = jax.random.split(key, len(leaves))
        drawn = [1 + 0.3 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    return init


def _running_moments(features):
    rng = np.random.default_rng(5)
    return {
        "mean": rng.normal(size=features).astype(np.float32),
        "var": rng.uniform(0.5, 1.5, features).astype(np.float32),
    }


@functools.cache
def initial(case: "LayerCase") -> Any:
    """A row's parameters, in one compilation where eager drawing takes several for each leaf."""
    # numbers, also for a test that asks for them first inside `jit`
    with jax.ensure_compile_time_eval():
        return jax.jit(case.init)(jax.random.key(0))


def _batch_norm(train):
    state = _running_moments(5)
    module = linen.BatchNorm(use_running_average=not train, use_fast_variance=False)

    def theirs(params, x):
        variables = {"params": params, "batch_stats": state}
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return LayerCase(
        f"batch_norm/{'train' if train else 'eval'}",
        _random_norm(5),
        lambda p, x: nn.batch_norm(p, state, x, train=train)[0],
        (4, 3, 5),
        theirs,
        mixes_examples=train,
    )


def random_biases(params, seed=7):
    """Biases away from their zeros, without which a misplaced one would not be seen."""
    leaves, structure = jax.tree.flatten(params)
    drawn = [
        p + normal((seed, i), p.shape, p.dtype, scale=0.3) if p.ndim == 1 else p
        for i, p in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


class _Recurrent(NamedTuple):
    init: Callable[..., Any]
    cell: Callable[..., Any]
    module: Callable[[int], linen.Module]
    names: str
    """Of the gates in Linen."""


RECURRENT = {
    "rnn": _Recurrent(nn.init_rnn_cell, nn.rnn_cell, linen.SimpleCell, ""),
    "lstm": _Recurrent(nn.init_lstm_cell, nn.lstm_cell, linen.OptimizedLSTMCell, "ifgo"),
    "gru": _Recurrent(nn.init_gru_cell, nn.gru_cell, linen.GRUCell, "rzn"),
}


def linen_cell(kind, params):
    """A cell's parameters as Linen has them, by the blocks of each gate."""
    if kind == "rnn":
        return {"i": params["input"], "h": params["hidden"]}
    names, found = RECURRENT[kind].names, {}
    for side, letter in (("input", "i"), ("hidden", "h")):
        kernels = jnp.split(params[side]["kernel"], len(names), -1)
        found |= {letter + n: {"kernel": k} for n, k in zip(names, kernels, strict=True)}
    biases = jnp.split(params["input"]["bias"], len(names))
    for n, bias in zip(names, biases, strict=True):
        found[("h" if kind == "lstm" else "i") + n]["bias"] = bias
    if kind == "gru":
        found["hn"]["bias"] = params["hidden"]["bias"]
    return found


def linen_unroll(kind, params, x, carry=None, *, lengths=None, reverse=False):
    """`(y, carry)` of Linen's own loop, outputs of the padding set to 0."""
    features = params["hidden"]["kernel"].shape[0]
    cell = RECURRENT[kind].module(features, param_dtype=x.dtype)
    module = linen.RNN(cell, return_carry=True, reverse=reverse, keep_order=True)
    lead, x = x.shape[:-2], x.reshape(-1, *x.shape[-2:])
    if lengths is not None:
        lengths = lengths.reshape(-1)
    last, y = module.apply(
        {"params": {"cell": linen_cell(kind, params)}}, x, initial_carry=carry, seq_lengths=lengths
    )
    if lengths is not None:
        y = jnp.where((jnp.arange(x.shape[1])[None] < lengths[:, None])[..., None], y, 0)
    return jax.tree.map(lambda z: z.reshape(*lead, *z.shape[1:]), (y, last))


def _h(carry):
    return carry[-1] if isinstance(carry, tuple) else carry


def _cell(kind):
    init, cell, module, _ = RECURRENT[kind]

    def split(carry_and_input):
        *carry, x = jnp.split(carry_and_input, 3 if kind == "lstm" else 2, -1)
        return tuple(carry) if kind == "lstm" else carry[0], x

    def ours(params, x):
        carry, x = split(x)
        new = cell(params, carry, x)
        return jnp.concatenate([part.astype(x.dtype) for part in jax.tree.leaves(new)], -1)

    def theirs(params, x):
        carry, x = split(x)
        new, _ = module(4).apply({"params": linen_cell(kind, params)}, carry, x)
        return jnp.concatenate(jax.tree.leaves(new), -1)

    size = 12 if kind == "lstm" else 8
    return LayerCase(f"{kind}_cell", lambda k: random_biases(init(k, 4, 4)), ours, (size,), theirs)


def _unroll(kind, n_in, features, *, padded=False, **options):
    init, cell, _, _ = RECURRENT[kind]

    def lengths(x):
        # of the example, so that each has its own whatever the batch
        return jnp.sum(x[..., 0] > 0, -1) if padded else None

    return LayerCase(
        f"unroll/{kind}{''.join('_' + name for name in options)}{'_padded' * padded}",
        lambda k: random_biases(init(k, n_in, features)),
        lambda p, x: nn.unroll(cell, p, x, lengths=lengths(x), **options)[0],
        (5, n_in),
        lambda p, x: linen_unroll(kind, p, x, lengths=lengths(x), **options)[0],
    )


def _linen_bidirectional(kind, params, x):
    both = [
        linen_unroll(kind, params[name], x, reverse=reverse)[0]
        for name, reverse in (("forward", False), ("backward", True))
    ]
    return jnp.concatenate(both, -1)


LAYERS = [
    LayerCase("dense", lambda k: nn.init_dense(k, 5, 5), nn.dense, (5,), _linen(linen.Dense(5))),
    LayerCase(
        "dense/no_bias_and_a_time_axis",
        lambda k: nn.init_dense(k, 5, 7, bias=False),
        nn.dense,
        (3, 5),
        _linen(linen.Dense(7, use_bias=False)),
    ),
    LayerCase(
        "embedding",
        lambda k: nn.init_embedding(k, 11, 5),
        nn.embedding,
        (3,),
        _linen(linen.Embed(11, 5)),
        ids=11,
    ),
    LayerCase(
        "attend",
        lambda k: nn.init_embedding(k, 11, 5),
        nn.attend,
        (5,),
        lambda p, x: linen.Embed(11, 5).apply({"params": p}, x, method="attend"),
    ),
    _conv("conv/1d", (3,), 4, 4, (9, 4)),
    _conv("conv/1d_causal_dilated", (3,), 4, 6, (9, 4), padding="CAUSAL", dilation=2),
    _conv("conv/2d", (3, 3), 3, 3, (7, 6, 3)),
    _conv("conv/2d_even_window", (2, 4), 3, 5, (7, 6, 3)),
    _conv("conv/2d_strided", (3, 3), 3, 5, (7, 8, 3), stride=2),
    _conv("conv/2d_strided_unevenly", (3, 2), 3, 5, (7, 8, 3), stride=(1, 3), padding="VALID"),
    _conv("conv/2d_dilated", (3, 3), 3, 5, (9, 8, 3), dilation=(2, 3)),
    _conv("conv/2d_padded", (3, 3), 3, 5, (5, 6, 3), padding=((2, 0), (1, 3))),
    _conv("conv/2d_grouped", (3, 3), 4, 6, (5, 6, 4), groups=2),
    _conv("conv/2d_depthwise", (3, 3), 4, 8, (5, 6, 4), groups=4, bias=False),
    _conv("conv/2d_strided_dilated_grouped", (3, 3), 4, 6, (9, 9, 4), groups=2, stride=2),
    _conv("conv/3d", (2, 3, 3), 2, 3, (4, 5, 6, 2), stride=(1, 2, 1)),
    _conv_transpose("conv_transpose/1d", (4,), 3, 5, (6, 3), stride=2),
    _conv_transpose("conv_transpose/2d", (3, 3), 3, 3, (4, 5, 3), stride=1),
    _conv_transpose("conv_transpose/2d_valid", (2, 3), 3, 5, (4, 5, 3), stride=3, padding="VALID"),
    _pool(
        "max_pool",
        lambda x: nn.max_pool(x, 2, 2),
        lambda x: linen.max_pool(x, (2, 2), (2, 2)),
        (6, 5, 3),
    ),
    _pool(
        "max_pool/overlapping_same",
        lambda x: nn.max_pool(x, (3, 2), (2, 1), "SAME"),
        lambda x: linen.max_pool(x, (3, 2), (2, 1), "SAME"),
        (6, 5, 3),
    ),
    _pool(
        "max_pool/1d",
        lambda x: nn.max_pool(x, 3, 2, ((1, 1),), spatial=1),
        lambda x: linen.max_pool(x, (3,), (2,), ((1, 1),)),
        (9, 3),
    ),
    _pool(
        "avg_pool",
        lambda x: nn.avg_pool(x, 2, 2),
        lambda x: linen.avg_pool(x, (2, 2), (2, 2)),
        (6, 5, 3),
    ),
    _pool(
        "avg_pool/overlapping_same",
        lambda x: nn.avg_pool(x, 3, 2, "SAME"),
        lambda x: linen.avg_pool(x, (3, 3), (2, 2), "SAME"),
        (6, 5, 3),
    ),
    _pool(
        "avg_pool/without_padding_in_the_count",
        lambda x: nn.avg_pool(x, (2, 3, 2), (1, 2, 1), 1, count_include_pad=False),
        lambda x: linen.avg_pool(x, (2, 3, 2), (1, 2, 1), ((1, 1),) * 3, count_include_pad=False),
        (3, 5, 4, 2),
    ),
    _pool("global_avg_pool", nn.global_avg_pool, lambda x: x.mean((-3, -2)), (4, 3, 5)),
    _pool("global_max_pool", nn.global_max_pool, lambda x: x.max((-3, -2)), (4, 3, 5)),
    LayerCase(
        "layer_norm",
        _random_norm(6),
        nn.layer_norm,
        (3, 6),
        _linen(linen.LayerNorm(use_fast_variance=False)),
    ),
    LayerCase(
        "rms_norm", _random_norm(6, bias=False), nn.rms_norm, (3, 6), _linen(linen.RMSNorm())
    ),
    LayerCase(
        "group_norm",
        _random_norm(6),
        lambda p, x: nn.group_norm(p, x, groups=3),
        (4, 3, 6),
        _linen(linen.GroupNorm(3, use_fast_variance=False)),
    ),
    LayerCase(
        "instance_norm",
        _random_norm(6),
        nn.instance_norm,
        (4, 3, 6),
        _linen(linen.InstanceNorm(use_fast_variance=False)),
    ),
    _batch_norm(train=True),
    _batch_norm(train=False),
    _cell("rnn"),
    _cell("lstm"),
    _cell("gru"),
    _unroll("lstm", 2, 3, padded=True),
    _unroll("gru", 3, 4, reverse=True, padded=True),
    LayerCase(
        "bidirectional",
        lambda k: {
            name: random_biases(nn.init_gru_cell(jax.random.fold_in(k, i), 3, 2), i)
            for i, name in enumerate(("forward", "backward"))
        },
        lambda p, x: nn.bidirectional(nn.gru_cell, p, x)[0],
        (4, 3),
        lambda p, x: _linen_bidirectional("gru", p, x),
    ),
    LayerCase(
        "dropout",
        _no_params,
        lambda _, x: nn.dropout(x, 0.4, key=jax.random.key(1)),
        (4, 6),
        lambda _, x: jnp.where(jax.random.bernoulli(jax.random.key(1), 0.6, x.shape), x / 0.6, 0),
        mixes_examples=True,
    ),
    LayerCase(
        "spatial_dropout",
        _no_params,
        lambda _, x: nn.spatial_dropout(x, 0.4, key=jax.random.key(1)),
        (4, 3, 6),
        lambda _, x: linen.Dropout(0.4, broadcast_dims=(1, 2)).apply(
            {}, x, deterministic=False, rng=jax.random.key(1)
        ),
        mixes_examples=True,
    ),
]


def _attention_of(x):
    """Queries, keys and values that differ."""
    return x, jnp.sin(x), jnp.flip(x, -1)


def _without_key_bias(init):
    """It adds the same to all of a query's logits: its derivative is 0, what is computed noise."""

    def dropped(tree):
        if isinstance(tree, list):
            return [dropped(value) for value in tree]
        if not isinstance(tree, dict):
            return tree
        return {
            name: {"kernel": value["kernel"]} if name == "key" else dropped(value)
            for name, value in tree.items()
        }

    return lambda key: dropped(init(key))


def _self_attention_by_linen(heads, causal=False):
    def theirs(params, x):
        bias = jnp.zeros_like(params["query"]["bias"])
        params = params | {"key": params["key"] | {"bias": bias}}
        mask = linen.make_causal_mask(x[..., 0]) if causal else None
        return linen.MultiHeadDotProductAttention(heads).apply({"params": params}, x, mask=mask)

    return theirs


def _turned_as_complex_numbers(x):
    pairs = x[..., :2] + 1j * x[..., 2:]
    angles = np.outer(np.arange(3), [1.0, 0.01]).reshape(3, 1, 2)
    y = pairs * jnp.broadcast_to(jnp.exp(1j * angles), pairs.shape).astype(pairs.dtype)
    return jnp.concatenate([y.real, y.imag], -1)


LAYERS += [
    LayerCase(
        "attention",
        _no_params,
        lambda _, x: nn.attention(*_attention_of(x), causal=True),
        (4, 2, 3),
        lambda _, x: linen.dot_product_attention(
            *_attention_of(x), mask=linen.make_causal_mask(x[..., 0, 0])
        ),
    ),
    LayerCase(
        "multi_head_attention",
        _without_key_bias(lambda k: nn.init_attention(k, 6, 2)),
        nn.multi_head_attention,
        (3, 6),
        _self_attention_by_linen(2),
    ),
    LayerCase(
        "cached_attention",
        _without_key_bias(lambda k: nn.init_attention(k, 6, 3)),
        lambda p, x: nn.cached_attention(
            p, x, nn.init_cache(4, 3, 2, lead=x.shape[:-2], dtype=x.dtype), 0
        )[0],
        (3, 6),
        _self_attention_by_linen(3, causal=True),
    ),
    LayerCase(
        "rotary",
        _no_params,
        lambda _, x: nn.rotary(x, nn.rotary_angles(jnp.arange(3), 4)),
        (3, 2, 4),
        lambda _, x: _turned_as_complex_numbers(
            x.astype(jnp.promote_types(x.dtype, jnp.float32))
        ).astype(x.dtype),
    ),
]


def _linen_transformer(params, config, ids, *, causal):
    """Features of GPT-2's or BERT's form, layer by layer."""

    def table(name, ids):
        n = params[name]["embedding"].shape[0]
        return linen.Embed(n, config.features).apply({"params": params[name]}, ids)

    def norm(p, x):
        layer = linen.LayerNorm(epsilon=config.norm_eps, use_fast_variance=False)
        return layer.apply({"params": p}, x)

    def linear(p, x):
        return linen.Dense(p["bias"].size).apply({"params": p}, x)

    x = table("embedding", ids)
    x += table("positions", jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape))
    if config.token_types:
        x += table("token_types", jnp.zeros_like(ids))
    if config.embedding_norm:
        x = norm(params["embedding_norm"], x)
    attend = _self_attention_by_linen(config.heads, causal)
    for p in params["blocks"]:

        def mlp(x, p=p):
            hidden = linen.gelu(linear(p["mlp"]["up"], x), approximate=False)
            return linear(p["mlp"]["down"], hidden)

        if config.pre_norm:
            x += attend(p["attention"], norm(p["attention_norm"], x))
            x += mlp(norm(p["mlp_norm"], x))
        else:
            x = norm(p["attention_norm"], x + attend(p["attention"], x))
            x = norm(p["mlp_norm"], x + mlp(x))
    return norm(params["norm"], x) if config.pre_norm else x


def _linen_gpt(params, ids):
    x = _linen_transformer(params, GPT, ids, causal=True)
    table = linen.Embed(GPT.vocabulary, GPT.features)
    return table.apply({"params": params["embedding"]}, x, method="attend")


def _plain_llama(params, ids):
    """Logits by the equations: rotations as complex numbers, shared keys repeated."""

    def norm(p, x):
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + LLAMA.norm_eps)
        return x * jnp.broadcast_to(p["scale"], x.shape)

    def turned(x):
        # neighbours are a pair
        z = x[..., 0::2] + 1j * x[..., 1::2]
        t, size = x.shape[-3], x.shape[-1]
        angles = np.outer(np.arange(t), LLAMA.theta ** (-np.arange(0, size, 2) / size))
        z *= jnp.broadcast_to(jnp.exp(1j * angles)[:, None].astype(z.dtype), z.shape)
        return jnp.stack([z.real, z.imag], -1).reshape(x.shape)

    x = params["embedding"]["embedding"][ids]
    later = np.triu(np.ones((ids.shape[-1],) * 2, bool), 1)
    for p in params["blocks"]:
        a, m = p["attention"], p["mlp"]
        y = norm(p["attention_norm"], x)
        q, k, v = (
            jnp.einsum("...d,dhe->...he", y, a[n]["kernel"]) for n in ("query", "key", "value")
        )
        k, v = (jnp.repeat(z, LLAMA.heads // LLAMA.kv_heads, -2) for z in (turned(k), v))
        logits = jnp.einsum("...the,...she->...hts", turned(q), k) / np.sqrt(q.shape[-1])
        logits = jnp.where(jnp.broadcast_to(later, logits.shape), -jnp.inf, logits)
        y = jnp.einsum("...hts,...she->...the", jax.nn.softmax(logits), v)
        x += jnp.einsum("...the,hed->...td", y, a["out"]["kernel"])
        y = norm(p["mlp_norm"], x)
        y = jax.nn.silu(y @ m["gate"]["kernel"]) * (y @ m["up"]["kernel"])
        x += y @ m["down"]["kernel"]
    return norm(params["norm"], x) @ params["head"]["kernel"]


GPT = models.TransformerConfig(11, depth=2, features=8, heads=2, max_length=5)
BERT = models.TransformerConfig(
    11, depth=2, features=8, heads=2, max_length=5, pre_norm=False, embedding_norm=True,
    norm_eps=1e-12, token_types=2,
)  # fmt: skip
LLAMA = models.TransformerConfig(
    11, depth=2, features=8, heads=4, kv_heads=2, hidden=12, activation=nn.silu, gated=True,
    norm="rms_norm", positions="rotary_interleaved", theta=1e5, bias=False, tied=False,
)  # fmt: skip


def _linen_mlp(params, x):
    *hidden, last = params["layers"]
    for layer in hidden:
        x = linen.relu(linen.Dense(layer["bias"].size).apply({"params": layer}, x))
    return linen.Dense(last["bias"].size).apply({"params": last}, x)


def _linen_cnn(params, state, x, *, train=False):
    """`(logits, moments)` of a two-block CNN, layer by layer."""
    moments = []
    for index, block in enumerate(params["blocks"]):
        bias = "bias" in block["conv"]
        channels = block["conv"]["kernel"].shape[-1]
        x = linen.Conv(channels, (3, 3), use_bias=bias).apply({"params": block["conv"]}, x)
        if "norm" in block:
            norm = linen.BatchNorm(use_running_average=not train, use_fast_variance=False)
            variables = {"params": block["norm"], "batch_stats": state["moments"][index]}
            x, updated = norm.apply(variables, x, mutable=["batch_stats"])
            moments.append(updated["batch_stats"])
        x = linen.max_pool(linen.relu(x), (2, 2), (2, 2))
    return _linen_mlp(params["head"], x.reshape(x.shape[0], -1)), {"moments": moments}


MLP = models.MLPConfig(n_in=6, n_out=4, hidden=(8, 5))
CNN = models.CNNConfig(image=(8, 6, 2), n_out=4, channels=(3, 5), hidden=(7,))
PLAIN_CNN = models.CNNConfig((8, 6, 2), 4, channels=(3, 5), batch_norm=False, hidden=())
CNN_STATE = {"moments": [_running_moments(3), _running_moments(5)]}


def _cnn(name, config, state, *, train=False):
    return LayerCase(
        name,
        lambda k: models.init_cnn(k, config)[0],
        lambda p, x: models.cnn(p, config, x, state=state, train=train)[0],
        config.image,
        lambda p, x: _linen_cnn(p, state, x, train=train)[0],
        mixes_examples=train,
        heavy=name != "cnn/eval",
    )


BIDIRECTIONAL = models.RNNConfig(3, 2, "gru", (4,), bidirectional=True)
LANGUAGE = models.RNNConfig(3, 7, "lstm", (4, 3), readout="each", vocabulary=7)


def _linen_rnn(config, params, x):
    if config.vocabulary:
        x = linen.Embed(config.vocabulary, config.n_in).apply({"params": params["embedding"]}, x)
    for layer in params["layers"]:
        runs = [
            linen_unroll(config.cell, p, x, reverse=name == "backward")
            for name, p in sorted(layer.items(), reverse=True)
        ]
        x = jnp.concatenate([y for y, _ in runs], -1)
    if config.readout == "last":
        x = jnp.concatenate([_h(last) for _, last in runs], -1)
    return linen.Dense(config.n_out).apply({"params": params["head"]}, x)


def _rnn(name, config):
    return LayerCase(
        f"rnn/{name}",
        lambda k: random_biases(models.init_rnn(k, config)),
        lambda p, x: models.rnn(p, config, x),
        (5,) if config.vocabulary else (5, config.n_in),
        lambda p, x: _linen_rnn(config, p, x),
        ids=config.vocabulary,
        heavy=len(config.hidden) > 1,
    )


SIGNAL_CNN = models.SignalCNNConfig(3, 2, (4, 5), (4, 3))


def _linen_signal_cnn(params, x):
    for block, channels, window in zip(
        params["blocks"], SIGNAL_CNN.channels, SIGNAL_CNN.windows, strict=True
    ):
        x = linen.Conv(channels, (window,)).apply({"params": block["conv"]}, x)
        x = linen.relu(linen.LayerNorm().apply({"params": block["norm"]}, x))
    return linen.Dense(SIGNAL_CNN.n_out).apply({"params": params["head"]}, x.mean(-2))


GROUP_RESNET = models.ResNetConfig(2, 3, (1, 1), (4, 6), norm="group", groups=2, zero_init=False)
BATCH_RESNET = models.ResNetConfig(2, 3, (1, 1), (3, 4), zero_init=False)
BOTTLENECKS = models.ResNetConfig(
    2, 3, (1, 1), (2, 3), "bottleneck", large_stem=True, zero_init=False
)
AUTOENCODER = models.AutoencoderConfig((8, 4, 2), 3, channels=(3, 4), hidden=(7,))
VAE = models.VAEConfig(models.AutoencoderConfig((4, 4, 1), 2, channels=(3,), hidden=()))


def _resnet(name, config, shape, *, train=False):
    _, state = jax.eval_shape(lambda k: models.init_resnet(k, config), jax.random.key(0))
    state = {"moments": [_running_moments(m["mean"].size) for m in state["moments"]]}
    return LayerCase(
        name,
        lambda k: models.init_resnet(k, config)[0],
        lambda p, x: models.resnet(p, config, x, state=state, train=train)[0],
        shape,
        lambda p, x: linen_images.resnet(p, config, x, state, train)[0],
        mixes_examples=train,
        heavy=True,
    )


GAN = models.GANConfig((4, 8, 1), 3, (2, 4), groups=1)


UNET = models.UNetConfig(
    (4, 2, 1), 2, (4, 6), attention=(1,), heads=2, groups=2, features=4, classes=3
)
SMALL_UNET = models.UNetConfig((3, 2, 2), 2, (2,), groups=1, features=2, classes=3)


def _unet(name, config, label):
    """With what starts at 0 drawn at random, and a time of one number."""

    def init(key):
        params = models.init_unet(key, config)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noisy = [p + 0.2 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, noisy)

    return LayerCase(
        name,
        init,
        lambda p, x: models.unet(p, config, x, 3.7, label),
        config.image,
        lambda p, x: linen_images.unet(p, config, x, 3.7, label),
        heavy=True,
    )


def _whole_vae(params, x):
    y, mean, log_variance = models.vae(params, VAE, x)
    return jnp.concatenate([y.reshape(*y.shape[:-3], -1), mean, log_variance], -1)


EFFICIENTNET = models.EfficientNetConfig(
    n_out=4, stem=4, head=6, stages=(models.Stage(1, 3, 1, 1, 3), models.Stage(2, 5, 2, 2, 5))
)


def _efficientnet_state():
    shapes = jax.eval_shape(lambda k: models.init_efficientnet(k, EFFICIENTNET), jax.random.key(0))
    draw = {"mean": np.linspace, "var": lambda low, high, n: np.linspace(low + 1.5, high + 1, n)}
    return tree.map_with_paths(
        lambda path, leaf: jnp.asarray(draw[path[path.rfind("/") + 1 :]](-1, 1, leaf.size), "f4"),
        shapes[1],
    )


def _linen_efficientnet(params, x, *, state):
    strides = iter([1, 2, 1])

    def unit(params, moments, x, stride=1, groups=1):
        *window, _, n_out = params["conv"]["kernel"].shape
        module = linen.Conv(
            n_out, window, stride, feature_group_count=groups, use_bias=False, padding="SAME"
        )
        x = module.apply({"params": params["conv"]}, x)
        norm = linen.BatchNorm(use_running_average=True, epsilon=1e-3)
        # Linen computes with them in their own dtype, which may be narrower than x's
        moments = jax.tree.map(lambda m: m.astype(jnp.promote_types(x.dtype, m.dtype)), moments)
        return norm.apply({"params": params["norm"], "batch_stats": moments}, x)

    x = jax.nn.relu6(unit(params["stem"], state["stem"], x, 2))
    for block, moments in zip(params["blocks"], state["blocks"], strict=True):
        y = x
        if "expand" in block:
            y = jax.nn.relu6(unit(block["expand"], moments["expand"], y))
        depthwise = block["depthwise"], moments["depthwise"]
        y = jax.nn.relu6(unit(*depthwise, y, next(strides), y.shape[-1]))
        y = unit(block["project"], moments["project"], y)
        x = x + y if x.shape == y.shape else y
    x = jax.nn.relu6(unit(params["head"], state["head"], x)).mean((-3, -2))
    return linen.Dense(4).apply({"params": params["classifier"]}, x)


EFFICIENTNET_STATE = _efficientnet_state()


def _linen_text(config, params, ids, mask):
    if isinstance(config, models.RNNConfig):
        table = linen.Embed(config.vocabulary, config.n_in)
        x = table.apply({"params": params["embedding"]}, ids)
        cell = params["layers"][0]["forward"]
        _, last = linen_unroll(config.cell, cell, x, lengths=mask.sum(-1))
        return linen.Dense(config.n_out).apply({"params": params["head"]}, _h(last))
    table = linen.Embed(config.vocabulary, config.features)
    x = table.apply({"params": params["words"]}, ids)
    mean = jnp.einsum("...td,...t->...d", x, mask / jnp.sum(mask, -1, keepdims=True))
    n_out = params["projection"]["kernel"].shape[-1]
    return linen.Dense(n_out, use_bias=False).apply({"params": params["projection"]}, mean)


def _two_tower(name, config, shape, state, linen_image):
    """Both embeddings of an image and of words made of it, the scale in one."""

    def words(x):
        flat = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
        signs = (flat > 0).astype(jnp.int32)
        lengths = 1 + jnp.sum(signs[..., :3], -1, keepdims=True)
        ids = signs[..., :4] + 2 * signs[..., 1:5]
        return ids, jnp.broadcast_to(jnp.arange(4), ids.shape) < lengths

    def in_dtype(state, x):
        return jax.tree.map(lambda moment: moment.astype(x.dtype), state)

    def ours(p, x):
        u, v, _ = models.two_tower(p, config, x, *words(x), state=in_dtype(state, x))
        return jnp.concatenate([p["log_scale"].astype(u.dtype) * u, v.astype(u.dtype)], -1)

    def theirs(p, x):
        u = linen_image(p["image"], in_dtype(state, x), x)
        v = _linen_text(config.text, p["text"], *words(x))
        u, v = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (u, v))
        return jnp.concatenate([p["log_scale"] * u, v], -1)

    return LayerCase(
        name, lambda k: models.init_two_tower(k, config)[0], ours, shape, theirs, heavy=True
    )


def _source_and_target(ids):
    """Of one row of ids: a source, how much of it is there, and a target."""
    source, target = ids[..., :4], ids[..., 4:]
    return source, target, 1 + source[..., 0] % 4


def _seq2seq(name, config):
    def ours(params, ids):
        source, target, lengths = _source_and_target(ids)
        return models.seq2seq(params, config, source, target, lengths=lengths)

    return LayerCase(
        name,
        _without_key_bias(lambda k: random_biases(models.init_seq2seq(k, config))),
        ours,
        (7,),
        lambda p, ids: linen_seq2seq.transformer(p, config, *_source_and_target(ids)),
        ids=11,
        heavy=True,
    )


def _recurrent_seq2seq(name, config):
    def ours(params, ids):
        source, target, lengths = _source_and_target(ids)
        return models.recurrent_seq2seq(params, config, source, target, lengths=lengths)

    return LayerCase(
        name,
        lambda k: random_biases(models.init_recurrent_seq2seq(k, config)),
        ours,
        (7,),
        lambda p, ids: linen_seq2seq.recurrent(p, config, *_source_and_target(ids)),
        ids=11,
        heavy=True,
    )


def _small_transformer(**changes):
    return models.TransformerConfig(11, depth=1, features=8, heads=2, max_length=5, **changes)


SEQ2SEQ = models.Seq2SeqConfig(
    models.TransformerConfig(11, depth=1, features=6, heads=3, max_length=5),
    _small_transformer(tied=False),
)
SHARED_SEQ2SEQ = models.Seq2SeqConfig(
    _small_transformer(pre_norm=False), _small_transformer(pre_norm=False), shared=True
)
LUONG = models.RecurrentSeq2SeqConfig(11, 11, 5, 4, layers=2, shared=True)
BAHDANAU = models.RecurrentSeq2SeqConfig(11, 11, 3, 4, cell="gru", attention="bahdanau", tied=False)


MODELS = [
    _seq2seq("seq2seq", SEQ2SEQ),
    _seq2seq("seq2seq/shared", SHARED_SEQ2SEQ),
    _recurrent_seq2seq("recurrent_seq2seq", LUONG),
    _recurrent_seq2seq("recurrent_seq2seq/bahdanau", BAHDANAU),
    LayerCase(
        "mlp",
        lambda k: models.init_mlp(k, MLP),
        lambda p, x: models.mlp(p, MLP, x),
        (6,),
        _linen_mlp,
    ),
    _cnn("cnn/eval", CNN, CNN_STATE),
    _cnn("cnn/train", CNN, CNN_STATE, train=True),
    _cnn("cnn/without_batch_norm", PLAIN_CNN, {"moments": []}),
    _rnn("bidirectional", BIDIRECTIONAL),
    _rnn("language", LANGUAGE),
    LayerCase(
        "signal_cnn",
        lambda k: random_biases(models.init_signal_cnn(k, SIGNAL_CNN)),
        lambda p, x: models.signal_cnn(p, SIGNAL_CNN, x),
        (6, 3),
        _linen_signal_cnn,
        heavy=True,
    ),
    LayerCase(
        "transformer",
        _without_key_bias(lambda k: models.init_transformer(k, GPT)),
        lambda p, ids: models.transformer(p, GPT, ids),
        (4,),
        _linen_gpt,
        ids=11,
        heavy=True,
    ),
    LayerCase(
        "transformer/llama",
        lambda k: models.init_transformer(k, LLAMA),
        lambda p, ids: models.transformer(p, LLAMA, ids),
        (4,),
        _plain_llama,
        ids=11,
        heavy=True,
    ),
    LayerCase(
        "encoder",
        _without_key_bias(lambda k: models.init_encoder(k, BERT)),
        lambda p, ids: models.encoder(p, BERT, ids),
        (4,),
        lambda p, ids: _linen_transformer(p, BERT, ids, causal=False),
        ids=11,
        heavy=True,
    ),
    _resnet("resnet/group_norm", GROUP_RESNET, (6, 5, 2)),
    _resnet("resnet/train", BATCH_RESNET, (6, 5, 2), train=True),
    _resnet("resnet/bottlenecks", BOTTLENECKS, (14, 9, 2)),
    LayerCase(
        "autoencoder",
        lambda k: models.init_autoencoder(k, AUTOENCODER),
        lambda p, x: models.autoencoder(p, AUTOENCODER, x),
        AUTOENCODER.image,
        lambda p, x: linen_images.decode(
            p["decoder"], linen_images.encode(p["encoder"], x), (2, 1, 4)
        ),
        heavy=True,
    ),
    LayerCase(
        "vae",
        lambda k: models.init_vae(k, VAE),
        _whole_vae,
        VAE.nets.image,
        lambda p, x: linen_images.vae(p, 2, x, (2, 2, 3)),
        heavy=True,
    ),
    LayerCase(
        "generator",
        lambda k: models.init_generator(k, GAN),
        lambda p, z: models.generator(p, GAN, z),
        (3,),
        lambda p, z: linen_images.generator(p, z, (1, 2, 4), 1),
        heavy=True,
    ),
    LayerCase(
        "discriminator",
        lambda k: models.init_discriminator(k, GAN),
        lambda p, x: models.discriminator(p, GAN, x),
        GAN.image,
        linen_images.discriminator,
        heavy=True,
    ),
    _unet("unet", UNET, None),
    _unet("unet/one_level", SMALL_UNET, 1),
    LayerCase(
        "efficientnet/eval",
        lambda k: models.init_efficientnet(k, EFFICIENTNET)[0],
        lambda p, x: models.efficientnet(p, EFFICIENTNET, x, state=EFFICIENTNET_STATE)[0],
        (9, 8, 3),
        partial(_linen_efficientnet, state=EFFICIENTNET_STATE),
        heavy=True,
    ),
    _two_tower(
        "two_tower",
        models.TwoTowerConfig(CNN, models.BagOfWordsConfig(4, 3)),
        CNN.image,
        CNN_STATE,
        lambda p, state, x: _linen_cnn(p, state, x)[0],
    ),
    _two_tower(
        "two_tower/vectors_and_gru",
        models.TwoTowerConfig(MLP, models.RNNConfig(3, 4, "gru", (5,), vocabulary=4)),
        (6,),
        {},
        lambda p, state, x: _linen_mlp(p, x),
    ),
]


def _pair(rng):
    return rng.standard_normal((3, 4)) * 2, rng.standard_normal((3, 4))


def _vectors(rng):
    return rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))


def _binary(rng):
    hard = rng.integers(0, 2, (3, 4)).astype(float)
    return rng.standard_normal((3, 4)) * 3, np.where(rng.random((3, 4)) < 0.3, 0.25, hard)


def _signs(rng):
    return rng.standard_normal((3, 4)) * 2, rng.choice([-1, 1], (3, 4))


def _classes(rng):
    return rng.standard_normal((3, 4, 5)) * 3, rng.integers(0, 5, (3, 4))


def _distributions(rng):
    hard = np.eye(5)[rng.integers(0, 5, (3, 4))]
    soft = rng.dirichlet(np.ones(5), (3, 4))
    return rng.standard_normal((3, 4, 5)) * 3, np.where(rng.random((3, 4, 1)) < 0.5, hard, soft)


def _log_and_probabilities(rng):
    p, t = rng.dirichlet(np.ones(5), (2, 3, 4))
    return np.log(p), t


_WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0])
_SMOOTH = {"label_smoothing": 0.1, "class_weights": _WEIGHTS}

LOSSES = [
    LossCase(
        "squared_error",
        losses.squared_error,
        _pair,
        references.squared_error,
        optax.squared_error,
    ),
    LossCase("l2_loss", losses.l2_loss, _pair, references.l2_loss, optax.l2_loss),
    LossCase("absolute_error", losses.absolute_error, _pair, references.absolute_error),
    LossCase(
        "huber_loss",
        partial(losses.huber_loss, delta=0.7),
        _pair,
        partial(references.huber, delta=0.7),
        partial(optax.huber_loss, delta=0.7),
    ),
    LossCase("log_cosh", losses.log_cosh, _pair, references.log_cosh, optax.log_cosh),
    LossCase(
        "softmax_cross_entropy",
        losses.softmax_cross_entropy,
        _distributions,
        references.softmax,
        optax.softmax_cross_entropy,
        logits=True,
    ),
    LossCase(
        "softmax_cross_entropy, smoothed and weighted",
        partial(losses.softmax_cross_entropy, **_SMOOTH),
        _distributions,
        partial(references.softmax, smoothing=0.1, weights=_WEIGHTS),
        logits=True,
    ),
    LossCase(
        "softmax_cross_entropy_with_integer_labels",
        losses.softmax_cross_entropy_with_integer_labels,
        _classes,
        references.softmax_integer,
        optax.softmax_cross_entropy_with_integer_labels,
        logits=True,
    ),
    LossCase(
        "softmax_cross_entropy_with_integer_labels, smoothed and weighted",
        partial(losses.softmax_cross_entropy_with_integer_labels, **_SMOOTH),
        _classes,
        partial(references.softmax_integer, smoothing=0.1, weights=_WEIGHTS),
        logits=True,
    ),
    LossCase(
        "sigmoid_binary_cross_entropy",
        losses.sigmoid_binary_cross_entropy,
        _binary,
        references.sigmoid,
        optax.sigmoid_binary_cross_entropy,
        logits=True,
    ),
    LossCase(
        "sigmoid_focal_loss",
        partial(losses.sigmoid_focal_loss, alpha=0.25),
        _binary,
        partial(references.focal, alpha=0.25, gamma=2.0),
        partial(optax.losses.sigmoid_focal_loss, alpha=0.25),
        logits=True,
    ),
    LossCase(
        "sigmoid_focal_loss, gamma 0.5",
        partial(losses.sigmoid_focal_loss, alpha=0.5, gamma=0.5),
        _binary,
        partial(references.focal, alpha=0.5, gamma=0.5),
        partial(optax.losses.sigmoid_focal_loss, alpha=0.5, gamma=0.5),
        logits=True,
    ),
    LossCase(
        "hinge_loss", losses.hinge_loss, _signs, references.hinge, optax.hinge_loss, logits=True
    ),
    LossCase(
        "multiclass_hinge_loss",
        losses.multiclass_hinge_loss,
        _classes,
        references.multiclass_hinge,
        optax.losses.multiclass_hinge_loss,
        logits=True,
    ),
    LossCase(
        "kl_divergence",
        losses.kl_divergence,
        _log_and_probabilities,
        references.kl,
        optax.kl_divergence,
    ),
    LossCase(
        "kl_divergence_with_log_targets",
        losses.kl_divergence_with_log_targets,
        lambda rng: tuple(np.log(rng.dirichlet(np.ones(5), (2, 3, 4)))),
        references.kl_log,
        optax.losses.kl_divergence_with_log_targets,
    ),
    LossCase(
        "non_saturating_discriminator_loss",
        losses.non_saturating_discriminator_loss,
        _pair,
        references.non_saturating,
        logits=True,
    ),
    LossCase(
        "hinge_discriminator_loss",
        losses.hinge_discriminator_loss,
        _pair,
        references.hinge_of_pairs,
        logits=True,
    ),
    LossCase(
        "wasserstein_discriminator_loss",
        losses.wasserstein_discriminator_loss,
        _pair,
        lambda real, fake: fake - real,
        logits=True,
    ),
    LossCase("gaussian_kl", losses.gaussian_kl, _pair, references.gaussian_kl),
    LossCase(
        "cosine_similarity",
        losses.cosine_similarity,
        _vectors,
        references.cosine,
        optax.cosine_similarity,
    ),
    LossCase(
        "cosine_distance",
        losses.cosine_distance,
        _vectors,
        lambda a, b: 1 - references.cosine(a, b),
        optax.cosine_distance,
    ),
]


def _embeddings_and_labels(rng):
    x = rng.standard_normal((3, 4, 5))
    return x, np.stack(
        [rng.permutation(labels) for labels in ([0, 0, 1, 1], [2] * 4, [5, 5, 5, 7])]
    )


def _triplet(loss, *negatives, **options):
    """With negatives made of the positives, as rows have inputs of two kinds."""
    return lambda a, p: loss(a, p, -2 * p, *negatives, **options)


LOSSES += [
    LossCase(
        "clip_loss",
        partial(losses.clip_loss, log_scale=1.3),
        _vectors,
        partial(references.clip, scale=math.exp(1.3)),
        mixes_examples=True,
    ),
    LossCase(
        "siglip_loss",
        partial(losses.siglip_loss, log_scale=1.3, bias=-2.0),
        _vectors,
        partial(references.siglip, scale=math.exp(1.3), bias=-2.0),
        mixes_examples=True,
    ),
    LossCase(
        "ntxent",
        partial(losses.ntxent, temperature=0.2),
        _embeddings_and_labels,
        partial(references.ntxent, temperature=0.2),
        jax.vmap(partial(optax.losses.ntxent, temperature=0.2)),
        mixes_examples=True,
    ),
    LossCase(
        "triplet_margin_loss",
        _triplet(losses.triplet_margin_loss, margin=4.0),
        _vectors,
        _triplet(references.triplet, degree=2, margin=4.0),
        _triplet(optax.losses.triplet_margin_loss, margin=4.0),
    ),
    LossCase(
        "triplet_margin_loss, of degree 3",
        _triplet(losses.triplet_margin_loss, margin=4.0, norm_degree=3.0),
        _vectors,
        _triplet(references.triplet, degree=3, margin=4.0),
    ),
]


OPTIMIZERS = [
    *core.CASES,
    *adam.CASES,
    *norms_and_signs.CASES,
    *matrices.CASES,
    *adaptive_rates.CASES,
    *combining.CASES,
]


def thorough_beyond(core, rows, beyond=pytest.mark.thorough):
    """Parameters of a test, by name: those that are not in `core` are for `make thorough`."""
    return [
        pytest.param(*row, id=name, marks=() if name in core else beyond)
        for name, row in rows.items()
    ]


def optimizers(rows=OPTIMIZERS, beyond=pytest.mark.thorough):
    """A test's parameter `case`: the core's rows, and with `make thorough` all others.

    Or with `make exhaustive`, where `beyond` says so: properties of how an optimizer is called,
    which hang on what all of them are made of.
    """
    core_names = {case.name for case in core.CASES}
    return pytest.mark.parametrize(
        "case", thorough_beyond(core_names, {case.name: (case,) for case in rows}, beyond)
    )
