"""Ours against Opacus's per-sample gradients of its layers: values from `make_opacus_values.py`.

Parameters keep PyTorch's names and shapes: every kernel is behind a transpose here.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, nn
from tests.catalogue import thorough_beyond

VALUES = json.loads(Path(__file__).with_name("opacus.json").read_text())


def linear(p, x):
    return nn.dense({"kernel": p["weight"].T, "bias": p["bias"]}, x)


def channels_last(x):
    return jnp.moveaxis(x, 0, -1)


def channels_first(x):
    return jnp.moveaxis(x, -1, 0)


def conv(**options):
    def apply(p, x):
        n = x.ndim - 1
        kernel = p["weight"].transpose(*range(2, n + 2), 1, 0)
        return channels_first(
            nn.conv({"kernel": kernel, "bias": p["bias"]}, channels_last(x), **options)
        )

    return apply


def scale_and_bias(p):
    return {"scale": p["weight"], "bias": p["bias"]}


def group_norm(groups):
    def apply(p, x):
        y = nn.group_norm(scale_and_bias(p), channels_last(x), groups=groups, eps=1e-5)
        return channels_first(y)

    return apply


def layer(p, number):
    """A recurrent layer's maps of its input and of its state."""
    suffix = f"_l{number}"
    return [
        {"weight": p[f"weight_{of}{suffix}"], "bias": p[f"bias_{of}{suffix}"]}
        for of in ("ih", "hh")
    ]


def rnn(p, x):
    of_input, of_state = layer(p, 0)

    def step(h, x):
        h = jnp.tanh(linear(of_input, x) + linear(of_state, h))
        return h, h

    return lax.scan(step, jnp.zeros(4), x)[1]


def gru(p, x):
    of_input, of_state = layer(p, 0)

    def step(h, x):
        of_x, of_h = (jnp.split(linear(q, v), 3) for q, v in ((of_input, x), (of_state, h)))
        reset, update = (jax.nn.sigmoid(of_x[i] + of_h[i]) for i in range(2))
        new = jnp.tanh(of_x[2] + reset * of_h[2])
        h = (1 - update) * new + update * h
        return h, h

    return lax.scan(step, jnp.zeros(2), x)[1]


def lstm(layers):
    def apply(p, x):
        for number in range(layers):
            of_input, of_state = layer(p, number)

            def step(carry, x, of_input=of_input, of_state=of_state):
                h, c = carry
                gates = linear(of_input, x) + linear(of_state, h)
                i, f, g, o = jnp.split(gates, 4)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            _, x = lax.scan(step, (jnp.zeros(2), jnp.zeros(2)), x)
        return x

    return apply


def attention(p, query, key, value):
    def heads(name, x):
        of = {"weight": p[f"{name}linear.weight"], "bias": p[f"{name}linear.bias"]}
        return linear(of, x).reshape(len(x), 2, 2)

    q, k, v = heads("q", query), heads("k", key), heads("v", value)
    if "seq_bias_k.bias" in p:
        k, v = (
            jnp.concatenate([y, p[f"seq_bias_{name}.bias"].reshape(1, 2, 2)])
            for name, y in (("k", k), ("v", v))
        )
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(2.0))
    mixed = jnp.einsum("hts,shd->thd", weights, v).reshape(len(query), 4)
    return linear({"weight": p["out_proj.weight"], "bias": p["out_proj.bias"]}, mixed)


def convolutional_net(p, x):
    def of(i):
        return {"weight": p[f"{i}.weight"], "bias": p[f"{i}.bias"]}

    x = jnp.tanh(group_norm(2)(of(1), conv(padding=1)(of(0), x)))
    x = conv(padding="VALID", stride=2)(of(3), x)
    return linear(of(5), x.reshape(-1))


OURS = {
    "linear": linear,
    "linear over a sequence": linear,
    "conv 1-D": conv(stride=2, padding=1),
    "conv 2-D": conv(padding=(1, 0), dilation=(1, 2)),
    "conv 3-D": conv(padding=1, stride=(1, 2, 1)),
    "conv grouped": conv(padding=1, groups=2),
    "conv depthwise": conv(padding="VALID", groups=3),
    "embedding": lambda p, ids: p["weight"][ids],
    "embedding bag, sum": lambda p, ids: jnp.sum(p["weight"][ids], 0),
    "embedding bag, mean": lambda p, ids: jnp.mean(p["weight"][ids], 0),
    "layer norm": lambda p, x: nn.layer_norm(scale_and_bias(p), x, eps=1e-5),
    "rms norm": lambda p, x: nn.rms_norm({"scale": p["weight"]}, x, eps=1e-5),
    "group norm": group_norm(2),
    "instance norm": group_norm(3),
    "rnn": rnn,
    "gru": gru,
    "lstm": lstm(1),
    "lstm, two layers": lstm(2),
    "attention": attention,
    "attention, key and value biases": attention,
    "convolutional net": convolutional_net,
}


def named(values):
    return {name.removeprefix("layer."): jnp.asarray(x) for name, x in values.items()}


def test_every_value_is_compared():
    assert set(OURS) == set(VALUES) - {"versions"}


FEW = {"conv grouped", "gru"}


def assert_close(got, want, rtol, atol):
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", thorough_beyond(FEW, {name: (name,) for name in OURS}))
def test_opacus(name, x64):
    values = VALUES[name]
    params, targets, clip = named(values["params"]), jnp.asarray(values["targets"]), values["clip"]
    inputs = [jnp.asarray(x) for x in values["inputs"]]

    def loss(params, inputs, target):
        y = OURS[name](params, *inputs)
        assert y.shape == target.shape
        return 0.5 * jnp.sum((y - target) ** 2)

    @jax.jit
    def ours(params, *batch):
        _, factors = gradients.per_example_grad(loss)(params, *batch)
        squares = gradients.sq_norms(factors)
        # Opacus divides by a little more than the norm
        weights = jnp.minimum(1, clip / (jnp.sqrt(squares) + 1e-6))
        sums = gradients.weighted_sum(factors, weights)
        mean, metrics = gradients.clipped_grad(loss, clip)(params, *batch)
        return gradients.materialize(factors), squares, sums, mean, metrics.clipped

    own, squares, sums, mean, clipped = ours(params, inputs, targets)
    want = named(values["gradients"])
    assert_close(own, want, 1e-10, 1e-12)
    exact = sum(jnp.sum(g.reshape(len(g), -1) ** 2, 1) for g in want.values())
    np.testing.assert_allclose(squares, exact, rtol=1e-10)
    assert {True, False} == set(clipped.tolist())
    want = named(values["clipped sum"])
    assert_close(sums, want, 1e-10, 1e-12)
    assert_close(jax.tree.map(lambda g: g * len(targets), mean), want, 1e-6, 1e-6 * clip)
