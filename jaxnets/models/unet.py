"""The U-Net of diffusion models: down to small images, up again, with what was there on the way.

Residual blocks with group norm, each told the time (and, optionally, the class) by a vector added
to its channels; self-attention where the images are small. As Ho et al., "Denoising diffusion
probabilistic models", 2020, after Ronneberger et al., "U-Net", 2015.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnets.nn import (
    conv,
    dense,
    embedding,
    group_norm,
    init_attention,
    init_conv,
    init_dense,
    init_embedding,
    init_norm,
    multi_head_attention,
    silu,
    sinusoidal,
)
from jaxnets.nn import initializers as init
from jaxnets.types import Array, ArrayLike, DTypeLike, Initializer, Key, Params, Shape


@jax.tree_util.register_static
@dataclass(frozen=True)
class UNetConfig:
    """A U-Net's shape; static, so it crosses `jit` like any argument.

    Attributes:
      image: `(height, width, channels)` in; height and width are divisible by 2 for each level but
        the first.
      n_out: channels out.
      channels: of each level, first to last; each after the first has half the height and width.
      blocks: residual blocks of each level on the way down; on the way up it is one more.
      attention: the levels with self-attention after each block; the middle has it in any case,
        unless this is None.
      heads: of the attention; they divide the channels where it is.
      groups: of group norm; they divide all channels.
      features: size of the time's vector (a multiple of 2); twice it inside the blocks.
      classes: how many there are to be conditioned on; label `classes` stands for none. 0 for a net
        without.
      kernel_init: for every kernel that does not start at 0.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    image: Shape
    n_out: int
    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1
    attention: tuple[int, ...] | None = ()
    heads: int = 1
    groups: int = 8
    features: int = 64
    classes: int = 0
    kernel_init: Initializer = init.lecun_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if len(self.image) != 3:
            raise ValueError(
                f"UNetConfig: image must be (height, width, channels), got {self.image}"
            )
        sizes = (self.n_out, self.blocks, self.heads, self.groups, self.features)
        if not self.channels or min(*sizes, *self.image, *self.channels) < 1 or self.classes < 0:
            raise ValueError(f"UNetConfig: every size must be positive, got {self}")
        if self.features % 2:
            raise ValueError(f"UNetConfig: features must be even, got {self.features}")
        factor = 2 ** (len(self.channels) - 1)
        if self.image[0] % factor or self.image[1] % factor:
            raise ValueError(
                f"UNetConfig: {len(self.channels)} levels need a height and width divisible by "
                f"{factor}, got an image {self.image}"
            )
        levels = () if self.attention is None else (*self.attention, len(self.channels) - 1)
        if not set(levels) <= set(range(len(self.channels))):
            raise ValueError(
                f"UNetConfig: attention must name levels from 0 to {len(self.channels) - 1}, got "
                f"{self.attention}"
            )
        for name, divisor, channels in (
            ("groups", self.groups, self.channels),
            ("heads", self.heads, tuple(self.channels[level] for level in levels)),
        ):
            if any(c % divisor for c in channels):
                raise ValueError(
                    f"UNetConfig: {name} must divide all channels {channels}, got {divisor}"
                )


def init_unet(key: Key, config: UNetConfig) -> Params:
    """`{"time", "stem", "down": [level, …], "middle", "up": [level, …], "norm", "head"}`.

    A level is `{"blocks": [block, …]}` with a `"resample"` convolution where another follows, a
    block `{"norm1", "conv1", "condition", "norm2", "conv2"}` with a `"shortcut"` where its channels
    change, and `"attention_norm"` and `"attention"` where the level has it. What ends a residual
    starts at 0.
    """
    keys = (jax.random.fold_in(key, i) for i in range(1 << 30))
    dtype, features = config.param_dtype, 2 * config.features

    def convolution(n_in: int, n_out: int, side: int = 3, zero: bool = False) -> Params:
        kernel_init = init.zeros if zero else config.kernel_init
        window = (side, side)
        return init_conv(next(keys), window, n_in, n_out, kernel_init=kernel_init, dtype=dtype)

    def linear(n_in: int, n_out: int) -> Params:
        return init_dense(next(keys), n_in, n_out, kernel_init=config.kernel_init, dtype=dtype)

    def norm(n: int) -> Params:
        return init_norm(n, dtype=dtype)

    def block(n_in: int, n_out: int, attends: bool) -> Params:
        params = {
            "norm1": norm(n_in),
            "conv1": convolution(n_in, n_out),
            "condition": linear(features, n_out),
            "norm2": norm(n_out),
            "conv2": convolution(n_out, n_out, zero=True),
        }
        if n_in != n_out:
            params["shortcut"] = convolution(n_in, n_out, side=1)
        if attends:
            params["attention_norm"] = norm(n_out)
            attention = init_attention(
                next(keys), n_out, config.heads, kernel_init=config.kernel_init, dtype=dtype
            )
            # a bias would shift all scores of a query alike, which softmax does not see
            del attention["key"]["bias"]
            attention["out"]["kernel"] = jnp.zeros_like(attention["out"]["kernel"])
            params["attention"] = attention
        return params

    first, last = config.channels[0], config.channels[-1]
    params: Params = {
        "time": [linear(config.features, features), linear(features, features)],
        "stem": convolution(config.image[-1], first),
        "down": [],
        "up": [],
    }
    if config.classes:
        params["label"] = init_embedding(next(keys), config.classes + 1, features, dtype=dtype)
    n_in, kept = first, [first]
    levels = len(config.channels)
    for level, channels in enumerate(config.channels):
        made = []
        for _ in range(config.blocks):
            made.append(block(n_in, channels, _attends(config, level)))
            n_in = channels
            kept.append(n_in)
        params["down"].append({"blocks": made})
        if level < levels - 1:
            params["down"][-1]["resample"] = convolution(n_in, n_in)
            kept.append(n_in)
    params["middle"] = [
        block(last, last, attends) for attends in (config.attention is not None, False)
    ]
    for level in reversed(range(levels)):
        made, channels = [], config.channels[level]
        for _ in range(config.blocks + 1):
            made.append(block(n_in + kept.pop(), channels, _attends(config, level)))
            n_in = channels
        params["up"].append({"blocks": made})
        if level:
            params["up"][-1]["resample"] = convolution(n_in, n_in)
    params["norm"] = norm(first)
    params["head"] = convolution(first, config.n_out, zero=True)
    return params


def _attends(config: UNetConfig, level: int) -> bool:
    return config.attention is not None and level in config.attention


def unet(
    params: Params, config: UNetConfig, x: Array, t: ArrayLike, label: ArrayLike | None = None
) -> Array:
    """What a diffusion model predicts of a noisy image at a time.

    Args:
      params: from `init_unet`.
      config: the same as there.
      x: `[..., height, width, channels]`.
      t: the time, `[...]` as the axes before the image, or a scalar for all; numbers of steps, or,
        where the model's time is in [0, 1], multiplied by 1000.
      label: integers in `[0, classes]`, `[...]` or a scalar likewise; `classes`, or `None`, for no
        class.

    Returns:
      `[..., height, width, n_out]` in the computation's dtype.

    Raises:
      ValueError: if x's last axes are not `config.image`, if t or label has another shape than the
        axes before them, or there is a label and there are no classes.
    """
    if x.shape[-3:] != config.image:
        raise ValueError(f"unet: x must be [..., {config.image}], got {list(x.shape)}")
    lead = x.shape[:-3]
    x = x if config.dtype is None else x.astype(config.dtype)
    t = _for_each("t", t, lead)
    wide = jnp.promote_types(t.dtype, jnp.float32)
    condition = sinusoidal(t, config.features, dtype=wide).astype(x.dtype)
    first, second = params["time"]
    condition = dense(second, silu(dense(first, condition)))
    if label is not None and not config.classes:
        raise ValueError("unet: label needs a config with classes, which are 0")
    if config.classes:
        label = _for_each("label", config.classes if label is None else label, lead)
        condition += embedding(params["label"], label).astype(x.dtype)
    condition = silu(condition)

    def run(block: Params, x: Array) -> Array:
        x = _residual(block, config, x, condition)
        return _self_attention(block, config, x) if "attention" in block else x

    x = conv(params["stem"], x)
    kept = [x]
    for level in params["down"]:
        for block in level["blocks"]:
            x = run(block, x)
            kept.append(x)
        if "resample" in level:
            x = conv(level["resample"], x, stride=2)
            kept.append(x)
    for block in params["middle"]:
        x = run(block, x)
    for level in params["up"]:
        for block in level["blocks"]:
            x = run(block, jnp.concatenate([x, kept.pop()], axis=-1))
        if "resample" in level:
            x = conv(level["resample"], _twice_as_large(x))
    return conv(params["head"], silu(group_norm(params["norm"], x, groups=config.groups)))


def _for_each(name: str, value: ArrayLike, lead: Shape) -> Array:
    value = jnp.asarray(value)
    if value.shape not in ((), lead):
        raise ValueError(
            f"unet: {name} must be a scalar or {list(lead)} for x, got {list(value.shape)}"
        )
    return jnp.broadcast_to(value, lead)


def _residual(params: Params, config: UNetConfig, x: Array, condition: Array) -> Array:
    """`x + conv(silu(norm(conv(silu(norm(x))) + condition W)))`."""
    y = conv(params["conv1"], silu(group_norm(params["norm1"], x, groups=config.groups)))
    shift = dense(params["condition"], condition)[..., None, None, :]
    y = y + jnp.broadcast_to(shift, y.shape)
    y = conv(params["conv2"], silu(group_norm(params["norm2"], y, groups=config.groups)))
    return y + (conv(params["shortcut"], x) if "shortcut" in params else x)


def _self_attention(params: Params, config: UNetConfig, x: Array) -> Array:
    """`x + attention(norm(x))` over all positions of the image."""
    *lead, height, width, channels = x.shape
    y = group_norm(params["attention_norm"], x, groups=config.groups)
    y = y.reshape(*lead, height * width, channels)
    return x + multi_head_attention(params["attention"], y).reshape(x.shape)


def _twice_as_large(x: Array) -> Array:
    """Each pixel as two by two."""
    *lead, height, width, channels = x.shape
    grid = jnp.broadcast_to(x[..., :, None, :, None, :], (*lead, height, 2, width, 2, channels))
    return grid.reshape(*lead, 2 * height, 2 * width, channels)
