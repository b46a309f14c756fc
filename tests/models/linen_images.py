"""Image models by Flax Linen's layers, given the same parameters."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np


def conv(params, x, stride=1, padding="SAME"):
    *window, _, n_out = params["kernel"].shape
    strides, bias = (stride, stride), "bias" in params
    layer = linen.Conv(n_out, window, strides, padding, use_bias=bias)
    return layer.apply({"params": params}, x)


def conv_transpose(params, x):
    *window, _, n_out = params["kernel"].shape
    return linen.ConvTranspose(n_out, window, (2, 2)).apply({"params": params}, x)


def dense(params, x):
    return linen.Dense(params["bias"].size).apply({"params": params}, x)


def mlp(params, x):
    *hidden, last = params["layers"]
    for layer in hidden:
        x = linen.relu(dense(layer, x))
    return dense(last, x)


def group_norm(params, x, groups):
    module = linen.GroupNorm(groups, use_fast_variance=False)
    return module.apply({"params": params}, x)


def resnet(params, config, x, state=None, train=False):
    """`(logits, moments)`, written for two stages of a block each."""
    # Linen computes the factor of what it is given in the moments' dtype
    moments = jax.tree.map(lambda m: m.astype(x.dtype), list(state["moments"]) if state else [])
    moved = []

    def unit(params, x, stride):
        side = params["conv"]["kernel"].shape[0]
        padding = ((side // 2, side // 2),) * 2
        x = conv(params["conv"], x, stride, padding)
        if config.norm == "group":
            return group_norm(params["norm"], x, config.groups)
        module = linen.BatchNorm(use_running_average=not train, use_fast_variance=False)
        variables = {"params": params["norm"], "batch_stats": moments.pop(0)}
        x, updated = module.apply(variables, x, mutable=["batch_stats"])
        moved.append(updated["batch_stats"])
        return x

    x = linen.relu(unit(params["stem"], x, 2 if config.large_stem else 1))
    if config.large_stem:
        x = linen.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, (block,) in enumerate(params["stages"]):
        y, stride = x, 1 + stage
        if config.block == "basic":
            first, second = block["units"]
            y = unit(second, linen.relu(unit(first, y, stride)), 1)
        else:
            first, second, third = block["units"]
            y = unit(second, linen.relu(unit(first, y, 1)), stride)
            y = unit(third, linen.relu(y), 1)
        x = linen.relu(y + (unit(block["projection"], x, stride) if "projection" in block else x))
    return dense(params["head"], x.mean((-3, -2))), {"moments": moved}


def encode(params, x):
    for layer in params["convs"]:
        x = linen.relu(conv(layer, x, 2))
    return mlp(params["dense"], x.reshape(*x.shape[:-3], -1))


def decode(params, z, smallest):
    y = mlp(params["dense"], z)
    y = y.reshape(*y.shape[:-1], *smallest)
    for layer in params["convs"]:
        y = conv_transpose(layer, linen.relu(y))
    return y


def vae(params, z_size, x, smallest):
    """Everything it puts out for the posterior's mean, in one vector."""
    code = encode(params["encoder"], x)
    y = decode(params["decoder"], code[..., :z_size], smallest)
    return jnp.concatenate([y.reshape(*y.shape[:-3], -1), code], -1)


def generator(params, z, smallest, groups):
    x = dense(params["dense"], z)
    x = x.reshape(*x.shape[:-1], *smallest)
    for norm, kernel in zip(params["norms"], params["convs"], strict=True):
        x = conv_transpose(kernel, linen.relu(group_norm(norm, x, groups)))
    return jnp.tanh(x)


def discriminator(params, x):
    for kernel in params["convs"]:
        x = linen.leaky_relu(conv(kernel, x, 2), 0.2)
    return dense(params["dense"], x.reshape(*x.shape[:-3], -1))[..., 0]


def unet(params, config, x, t, label):
    """Of one or two levels with one block each on the way down."""
    half = config.features // 2
    angles = t * 10_000.0 ** (-np.arange(half) / half)
    features = np.concatenate([np.sin(angles), np.cos(angles)])
    c = jnp.broadcast_to(features.astype(x.dtype), (*x.shape[:-3], config.features))
    first, second = params["time"]
    c = dense(second, linen.silu(dense(first, c)))
    label = config.classes if label is None else label
    c += jnp.broadcast_to(params["label"]["embedding"][label], c.shape)

    def norm(p, x):
        return group_norm(p, x, config.groups)

    def attend(p, x):
        y = norm(p["attention_norm"], x).reshape(*x.shape[:-3], -1, x.shape[-1])
        theirs = dict(p["attention"])
        theirs["key"] = theirs["key"] | {"bias": jnp.zeros(theirs["key"]["kernel"].shape[1:])}
        module = linen.MultiHeadDotProductAttention(config.heads, deterministic=True)
        return x + module.apply({"params": theirs}, y).reshape(x.shape)

    def block(p, x):
        y = conv(p["conv1"], linen.silu(norm(p["norm1"], x)))
        y += dense(p["condition"], linen.silu(c))[..., None, None, :]
        y = conv(p["conv2"], linen.silu(norm(p["norm2"], y)))
        y += conv(p["shortcut"], x) if "shortcut" in p else x
        return attend(p, y) if "attention" in p else y

    x0 = conv(params["stem"], x)
    x = x1 = block(params["down"][0]["blocks"][0], x0)
    if len(params["down"]) == 2:
        x2 = conv(params["down"][0]["resample"], x1, 2)
        x = x3 = block(params["down"][1]["blocks"][0], x2)
    for p in params["middle"]:
        x = block(p, x)
    if len(params["up"]) == 2:
        up = params["up"][0]
        for p, kept in zip(up["blocks"], (x3, x2), strict=True):
            x = block(p, jnp.concatenate([x, kept], -1))
        x = conv(up["resample"], x.repeat(2, -3).repeat(2, -2))
    for p, kept in zip(params["up"][-1]["blocks"], (x1, x0), strict=True):
        x = block(p, jnp.concatenate([x, kept], -1))
    return conv(params["head"], linen.silu(norm(params["norm"], x)))
