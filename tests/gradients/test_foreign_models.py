"""Unmodified models of Flax Linen, Flax NNX and Equinox, beside `vmap(grad)`."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.gradients.test_engine import B, assert_as_defined
from tests.numerics import integers, normal

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 4)


def cross_entropy(logits, label=2):
    return -jax.nn.log_softmax(logits)[label]


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm()(linen.relu(linen.Dense(9)(x)))
        return linen.Dense(4)(x)


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(4, (3, 3), strides=(2, 2))(x))
        x = linen.GroupNorm(2)(linen.Conv(6, (3, 3), feature_group_count=2)(x))
        x = linen.ConvTranspose(4, (2, 2), strides=(2, 2))(x)
        return linen.Dense(4)(linen.avg_pool(x, (2, 2)).reshape(-1))


class LinenRecurrent(linen.Module):
    @linen.compact
    def __call__(self, ids):
        x = linen.RNN(linen.LSTMCell(5, param_dtype=jnp.float64))(linen.Embed(7, 3)(ids))
        return linen.Dense(4)(linen.RNN(linen.GRUCell(5, param_dtype=jnp.float64))(x)[-1])


class LinenTransformer(linen.Module):
    @linen.compact
    def __call__(self, ids):
        embed = linen.Embed(7, 8)
        position = self.param("position", linen.initializers.normal(0.1), (6, 8))
        x = embed(ids) + position
        mask = linen.make_causal_mask(ids)
        x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x), mask=mask)
        x = x + linen.Dense(8)(linen.gelu(linen.Dense(16)(linen.RMSNorm()(x))))
        return embed.attend(x).mean(0)


class LinenScanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return x + linen.tanh(linen.Dense(5)(x)), None

        layers = linen.scan(
            linen.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return layers()(x, None)[0]


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.second = nnx.LoRALinear(8, 4, lora_rank=2, rngs=rngs)

    def __call__(self, x):
        return self.second(self.norm(nnx.relu(self.first(x))))


def of_linen(model, example, batched=False):
    def loss(params, x):
        if batched:
            return cross_entropy(model.apply(params, x[None])[0])
        return cross_entropy(model.apply(params, x))

    return loss, jax.jit(model.init)(KEY, example[None] if batched else example), example


def of_nnx():
    graph, state = nnx.split(NNXNet(nnx.Rngs(0)))

    def loss(state, x):
        return cross_entropy(nnx.merge(graph, state)(x))

    return loss, state, jnp.ones(5)


def of_equinox(model, example, apply=lambda model, x: model(x)):
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x):
        return cross_entropy(apply(eqx.combine(params, rest), x))

    return loss, params, example


def attended(model, x):
    attention, norm = model
    return jax.vmap(norm)(attention(x, x, x)).mean(0)


def recurred(model, x):
    cell, head = model
    h, _ = jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(5, x.dtype), x)
    return head(h)


def convolved(model, x):
    first, second, head = model
    return head(jax.nn.relu(second(jax.nn.relu(first(x)))).reshape(-1))


IDS = jnp.zeros(6, jnp.int32)
MODELS = {
    "linen mlp": lambda: of_linen(LinenMLP(), jnp.ones(5)),
    "linen cnn": lambda: of_linen(LinenCNN(), jnp.ones((6, 6, 2))),
    "linen cnn, written for batches": lambda: of_linen(LinenMLP(), jnp.ones(5), batched=True),
    "linen recurrent": lambda: of_linen(LinenRecurrent(), IDS),
    "linen transformer, tied": lambda: of_linen(LinenTransformer(), IDS),
    "linen scan of remat": lambda: of_linen(LinenScanned(), jnp.ones(5)),
    "nnx": of_nnx,
    "equinox mlp": lambda: of_equinox(eqx.nn.MLP(5, 4, 8, 2, key=KEY), jnp.ones(5)),
    "equinox cnn": lambda: of_equinox(
        (
            eqx.nn.Conv2d(2, 4, 3, 2, key=KEYS[0]),
            eqx.nn.Conv2d(4, 4, 3, groups=4, padding=1, key=KEYS[1]),
            eqx.nn.Linear(36, 4, key=KEYS[2]),
        ),
        jnp.ones((2, 7, 7)),
        convolved,
    ),
    "equinox attention": lambda: of_equinox(
        (eqx.nn.MultiheadAttention(2, 4, key=KEY), eqx.nn.LayerNorm(4)), jnp.ones((3, 4)), attended
    ),
    "equinox recurrent": lambda: of_equinox(
        (eqx.nn.GRUCell(3, 5, key=KEYS[0]), eqx.nn.Linear(5, 4, key=KEYS[1])),
        jnp.ones((6, 3)),
        recurred,
    ),
    "equinox weight norm": lambda: of_equinox(
        eqx.nn.WeightNorm(eqx.nn.Linear(5, 4, key=KEY)), jnp.ones(5)
    ),
}
FEW = {"linen mlp", "nnx"}


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.thorough) for n in MODELS]
)
def test_float64(name, x64):
    with jax.numpy_rank_promotion("allow"):
        loss, params, example = MODELS[name]()
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        if jnp.issubdtype(example.dtype, jnp.integer):
            batch = integers(0, 7, (B, *example.shape))
        else:
            batch = normal(0, (B, *example.shape), jnp.float64)
        assert_as_defined(loss, params, batch, 1e-10)
