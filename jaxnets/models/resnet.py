"""Residual nets: `x ← φ(F(x) + x)`, where F is two or three convolutions, each normalized.

With batch norm the running moments go in and come out; with group norm there is no state, and each
example has a gradient of its own.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets.nn import (
    batch_norm,
    conv,
    dense,
    global_avg_pool,
    group_norm,
    init_batch_norm,
    init_conv,
    init_dense,
    init_norm,
    max_pool,
    relu,
)
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params

Block = Literal["basic", "bottleneck"]
Norm = Literal["batch", "group"]
EXPANSION = 4
"""A bottleneck's output channels, over those of its 3x3 convolution."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class ResNetConfig:
    """A residual net's shape; static, so it crosses `jit` like any argument.

    Attributes:
      n_in: channels of the input.
      n_out: number of outputs (logits).
      blocks: number of residual blocks in each stage; each stage after the first halves the image.
      channels: of each stage's 3x3 convolutions; a bottleneck block puts out four times as many.
      block: `"basic"`, two 3x3 convolutions; `"bottleneck"`, 1x1, 3x3 (which has the stride), 1x1.
      large_stem: whether the net begins with a 7x7 convolution and a max-pooling, each of stride 2,
        as for ImageNet, instead of one 3x3 convolution.
      norm: `"batch"` or `"group"`.
      groups: of group norm.
      zero_init: whether the last scale of each block starts at 0, so that the block starts as its
        shortcut (Goyal et al., 2017).
      activation: after each convolution but a block's last, and after each sum.
      kernel_init: for every convolution's kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    n_in: int
    n_out: int
    blocks: tuple[int, ...] = (3, 3, 3)
    channels: tuple[int, ...] = (16, 32, 64)
    block: Block = "basic"
    large_stem: bool = False
    norm: Norm = "batch"
    groups: int = 8
    zero_init: bool = True
    activation: Activation = relu
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if min(self.n_in, self.n_out, self.groups, *self.blocks, *self.channels) < 1:
            raise ValueError(f"ResNetConfig: every size must be positive, got {self}")
        if not self.blocks or len(self.blocks) != len(self.channels):
            raise ValueError(
                "ResNetConfig: blocks and channels need one number for each stage, got "
                f"{self.blocks} and {self.channels}"
            )
        if self.block not in ("basic", "bottleneck"):
            raise ValueError(
                f"ResNetConfig: block must be 'basic' or 'bottleneck', got {self.block!r}"
            )
        if self.norm not in ("batch", "group"):
            raise ValueError(f"ResNetConfig: norm must be 'batch' or 'group', got {self.norm!r}")
        if self.norm == "group" and any(c % self.groups for c in self.channels):
            raise ValueError(
                f"ResNetConfig: groups must divide all channels {self.channels}, got {self.groups}"
            )


def cifar_resnet(
    depth: int, n_out: int, *, n_in: int = 3, width: int = 1, **options: Any
) -> ResNetConfig:
    """Three stages of basic blocks, for small images: `depth = 6n + 2` convolutions and dense.

    Args:
      depth: 20, 32, 44, 56 and 110 in He et al., "Deep residual learning", 2015.
      n_out: number of outputs.
      n_in: channels of the input.
      width: what the channels 16, 32, 64 are multiplied by.
      **options: further fields of the config.

    Raises:
      ValueError: if depth is not `6n + 2` for a positive n.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet: depth must be 6n + 2 with n at least 1, got {depth}")
    channels = (16 * width, 32 * width, 64 * width)
    return ResNetConfig(n_in, n_out, ((depth - 2) // 6,) * 3, channels, **options)


IMAGENET: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def imagenet_resnet(
    depth: int = 50, n_out: int = 1000, *, n_in: int = 3, width: int = 1, **options: Any
) -> ResNetConfig:
    """Four stages after a large stem, for images of about 224 x 224 (He et al., 2015, table 1).

    Args:
      depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks, their stride in the 3x3
        convolution).
      n_out: number of outputs.
      n_in: channels of the input.
      width: what the channels 64, 128, 256, 512 are multiplied by.
      **options: further fields of the config.

    Raises:
      ValueError: if there is no net of this depth.
    """
    if depth not in IMAGENET:
        raise ValueError(f"imagenet_resnet: depth must be one of {[*IMAGENET]}, got {depth}")
    block, blocks = IMAGENET[depth]
    channels = tuple(width * c for c in (64, 128, 256, 512))
    return ResNetConfig(n_in, n_out, blocks, channels, block, large_stem=True, **options)


def init_resnet(key: Key, config: ResNetConfig) -> tuple[Params, Params]:
    """`(params, state)`, the state `{"moments": […]}` of all batch norms in their order.

    `params` is `{"stem": unit, "stages": [[block, …], …], "head"}`; a unit is `{"conv", "norm"}`, a
    block `{"units": [unit, …]}` with a `"projection"`, one more unit, where its shortcut changes
    shape. Group norm has no moments.
    """
    stem_key, head_key, *keys = jax.random.split(key, 2 + sum(config.blocks))
    moments: list[Params] = []

    def unit(key: Key, side: int, n_in: int, n_out: int, zero: bool = False) -> Params:
        init, dtype = config.kernel_init, config.param_dtype
        # the norm's own bias makes the convolution's redundant
        kernel = init_conv(
            key, (side, side), n_in, n_out, bias=False, kernel_init=init, dtype=dtype
        )
        if config.norm == "batch":
            norm, running = init_batch_norm(n_out, dtype=dtype)
            moments.append(running)
        else:
            norm = init_norm(n_out, dtype=dtype)
        if zero:
            norm["scale"] = jnp.zeros_like(norm["scale"])
        return {"conv": kernel, "norm": norm}

    def block(key: Key, n_in: int, channels: int, stride: int) -> Params:
        sides, n_out = _sides(config), _n_out(config, channels)
        keys = jax.random.split(key, len(sides) + 1)
        sizes = (n_in, *(channels for _ in sides[1:]), n_out)
        zero = [config.zero_init and i == len(sides) - 1 for i in range(len(sides))]
        params: Params = {
            "units": [
                unit(*each) for each in zip(keys, sides, sizes, sizes[1:], zero, strict=False)
            ]
        }
        if stride > 1 or n_in != n_out:
            params["projection"] = unit(keys[-1], 1, n_in, n_out)
        return params

    params: Params = {
        "stem": unit(stem_key, 7 if config.large_stem else 3, config.n_in, config.channels[0]),
        "stages": [],
    }
    n_in, remaining = config.channels[0], iter(keys)
    for stage, (n, channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
        made = []
        for index in range(n):
            made.append(block(next(remaining), n_in, channels, _stride(stage, index)))
            n_in = _n_out(config, channels)
        params["stages"].append(made)
    params["head"] = init_dense(head_key, n_in, config.n_out, dtype=config.param_dtype)
    return params, {"moments": moments}


def _n_out(config: ResNetConfig, channels: int) -> int:
    return channels * EXPANSION if config.block == "bottleneck" else channels


def _sides(config: ResNetConfig) -> tuple[int, ...]:
    """The windows of a block's convolutions."""
    return (3, 3) if config.block == "basic" else (1, 3, 1)


def _stride(stage: int, index: int) -> int:
    """Of a block: its first 3x3 convolution, and its projection, have it."""
    return 2 if stage and not index else 1


def resnet(
    params: Params,
    config: ResNetConfig,
    x: Array,
    *,
    state: Params | None = None,
    train: bool = False,
) -> tuple[Array, Params]:
    """Logits of a residual net, and its state.

    Convolutions of stride 2 pad both sides alike, so that parameters mean what they do in PyTorch's
    nets of this form; `"SAME"` would pad only behind.

    Args:
      params: from `init_resnet`.
      config: the same as there.
      x: `[..., height, width, n_in]`, of any height and width.
      state: batch norm's running moments, from `init_resnet`; group norm needs none.
      train: whether batch norm uses, and moves the running moments by, this batch's.

    Returns:
      logits `[..., n_out]` in the computation's dtype, and the state (as it was, unless `train`).

    Raises:
      ValueError: if x has other channels, or batch norm finds no state.
    """
    if x.ndim < 3 or x.shape[-1] != config.n_in:
        raise ValueError(
            f"resnet: x must be [..., height, width, {config.n_in}], got {list(x.shape)}"
        )
    if config.norm == "batch" and not state:
        raise ValueError("resnet: batch norm needs the state from init_resnet, got none")
    running, moved = iter(state["moments"] if state else ()), []

    def unit(params: Params, x: Array, stride: int = 1) -> Array:
        y = conv(params["conv"], x, stride=stride, padding=params["conv"]["kernel"].shape[0] // 2)
        if config.norm == "group":
            return group_norm(params["norm"], y, groups=config.groups)
        y, moments = batch_norm(params["norm"], next(running), y, train=train)
        moved.append(moments)
        return y

    def block(params: Params, x: Array, stride: int) -> Array:
        y, at = x, _sides(config).index(3)
        for i, layer in enumerate(params["units"]):
            y = unit(layer, config.activation(y) if i else y, stride if i == at else 1)
        shortcut = unit(params["projection"], x, stride) if "projection" in params else x
        return config.activation(y + shortcut)

    x = x if config.dtype is None else x.astype(config.dtype)
    x = config.activation(unit(params["stem"], x, 2 if config.large_stem else 1))
    if config.large_stem:
        x = max_pool(x, 3, 2, 1)
    for stage, blocks in enumerate(params["stages"]):
        for index, layers in enumerate(blocks):
            x = block(layers, x, _stride(stage, index))
    return dense(params["head"], global_avg_pool(x)), {"moments": moved}
