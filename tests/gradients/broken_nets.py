"""Nets by seed, healthy or with one planted fault, trained while their flow is seen."""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets import gradients

CLASSES, BATCH, STEPS, HELD_OUT = 4, 64, 32, 256
FAULTS = (
    "vanishing", "exploding", "dead units", "saturation", "symmetric", "learning rate too high",
    "learning rate too low", "plateau", "overfitting", "non-finite",
)  # fmt: skip
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
GAIN = {"relu": 2**0.5, "tanh": 1.0, "sigmoid": 1.0}


class Drawn(NamedTuple):
    family: str
    activation: str
    depth: int
    width: int
    length: int
    fault: str | None
    rate: float


def draw(seed, broken):
    """Which net, and what is wrong with it."""
    rng = np.random.default_rng([seed, broken])
    fault = FAULTS[rng.integers(len(FAULTS))] if broken else None
    family = rng.choice(["mlp", "cnn", "rnn", "residual"])
    if fault in ("exploding", "dead units", "symmetric"):
        family = rng.choice(["mlp", "cnn"])
    elif fault in ("vanishing", "saturation"):
        family = rng.choice(["mlp", "rnn"])
    activation = str(rng.choice(["relu", "tanh"]))
    if fault in ("exploding", "dead units"):
        activation = "relu"
    elif fault == "saturation" or family == "rnn":
        activation = "tanh"
    elif fault == "vanishing":
        activation = str(rng.choice(["relu", "tanh", "sigmoid"]))
    depth = int(rng.integers(2, 7))
    if fault == "exploding":
        depth = int(rng.integers(5, 9))
    if fault == "vanishing":
        depth = int(rng.integers(7, 11))
    width = int(rng.choice([12, 16, 24])) if family == "cnn" else int(rng.choice([32, 48, 64]))
    length = int(rng.integers(20, 30)) if fault == "vanishing" else int(rng.integers(6, 16))
    rate = float(10 ** rng.uniform(-3, -2.3))
    if fault == "learning rate too high":
        rate = float(10 ** rng.uniform(-0.3, 0.7))
    elif fault == "learning rate too low":
        rate = float(10 ** rng.uniform(-8.5, -7))
    return Drawn(str(family), activation, depth, width, length, fault, rate)


def build(net, key):
    """Parameters and `apply(params, x)`."""
    act = ACTIVATIONS[net.activation]
    gain = GAIN[net.activation]
    keys = iter(jax.random.split(key, 40))
    scale = {"vanishing": 0.12, "exploding": 6.0, "saturation": 25.0}.get(net.fault, 1.0)
    if net.fault == "vanishing" and net.activation == "sigmoid":
        scale = 1.0

    def dense(n, m, scale=1.0, gain=gain):
        kernel = scale * gain / n**0.5 * jax.random.normal(next(keys), (n, m))
        return {"kernel": kernel, "bias": jnp.zeros(m)}

    def conv(n, m):
        kernel = scale * gain / (9 * n) ** 0.5 * jax.random.normal(next(keys), (3, 3, n, m))
        return {"kernel": kernel, "bias": jnp.zeros(m)}

    def head(n):
        return dense(n, CLASSES, gain=1.0)

    if net.family in ("mlp", "residual"):
        sizes = [12] + [net.width] * net.depth
        params = {
            "layers": [dense(n, m, scale) for n, m in pairwise(sizes)],
            "head": head(net.width),
        }

        def apply(params, x):
            for i, layer in enumerate(params["layers"]):
                z = x @ layer["kernel"] + layer["bias"][None]
                x = act(z) if net.family == "mlp" or i == 0 else x + 0.5 * act(z)
            return x @ params["head"]["kernel"] + params["head"]["bias"][None]

    elif net.family == "cnn":
        sizes = [2] + [net.width] * net.depth
        params = {
            "layers": [conv(n, m) for n, m in pairwise(sizes)],
            "head": head(net.width),
        }

        def apply(params, x):
            for layer in params["layers"]:
                x = jax.lax.conv_general_dilated(
                    x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = act(x + layer["bias"][None, None, None])
            x = jnp.mean(x, (1, 2))
            return x @ params["head"]["kernel"] + params["head"]["bias"][None]

    else:
        params = {
            "in": dense(5, net.width, 0.7 if net.fault != "saturation" else scale),
            "hidden": dense(net.width, net.width, min(scale, 4.0)),
            "head": head(net.width),
        }

        def apply(params, x):
            def turn(h, x):
                z = h @ params["hidden"]["kernel"] + x @ params["in"]["kernel"]
                return jnp.tanh(z + params["in"]["bias"][None]), None

            h = jnp.zeros((x.shape[0], net.width))
            h, _ = jax.lax.scan(turn, h, jnp.swapaxes(x, 0, 1))
            return h @ params["head"]["kernel"] + params["head"]["bias"][None]

    if net.fault == "dead units":
        layer = params["layers"][net.depth // 2]
        layer["bias"] = layer["bias"] - 20.0
    if net.fault == "symmetric":
        params["layers"] = jax.tree.map(
            lambda p: jnp.full_like(p, 0.5 / p[..., 0].size if p.ndim > 1 else 0.0),
            params["layers"],
        )
        params["head"]["kernel"] = jnp.full_like(params["head"]["kernel"], 0.1)
    return params, apply


def run(seed, broken):
    """The planted fault (or None), and what `diagnose` says of the run."""
    net = draw(seed, broken)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), int(broken)), 6)
    params, apply = build(net, keys[0])
    shape = {"cnn": (4, 4, 2), "rnn": (net.length, 5)}.get(net.family, (12,))
    centres = jax.random.normal(keys[1], (CLASSES, *shape))

    def data(key, n):
        one, two = jax.random.split(key)
        y = jax.random.randint(one, (n,), 0, CLASSES)
        return centres[y] + jax.random.normal(two, (n, *shape)), y

    def loss(params, x, y):
        logits = apply(params, x)
        if net.fault == "non-finite":
            logits = jnp.log(logits)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    few = 16 if net.fault == "overfitting" else None
    steps = 6 * STEPS if few else STEPS
    x_held, y_held = data(keys[2], HELD_OUT)
    optimizer = optax.adam(net.rate)
    x_few, y_few = data(keys[3], 16)
    if few:
        y_few = jax.random.permutation(keys[5], y_few)
    if net.fault == "plateau":
        y_held = jax.random.permutation(keys[5], y_held)
    whole = gradients.value_and_grad_flow(loss, batched=True, rank_rows=0)

    def step(carry, key):
        params, state = carry
        x, y = (x_few, y_few) if few else data(key, BATCH)
        if net.fault == "plateau":
            y = jax.random.randint(jax.random.fold_in(key, 1), y.shape, 0, CLASSES)
        _, gradient, flow = whole(params, x, y)
        updates, state = optimizer.update(gradient, state, params)
        flow = gradients.with_updates(flow, params, updates)
        held = loss(params, x_held, y_held)
        return (optax.apply_updates(params, updates), state), (flow, held)

    carry = params, optimizer.init(params)
    _, (flow, held) = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(
        carry, jax.random.split(keys[4], steps)
    )
    return net, gradients.diagnose(flow, held_out=held)
