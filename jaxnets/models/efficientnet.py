"""EfficientNet-Lite: inverted residual blocks, wide inside and narrow between (Tan and Le, 2019).

A block is `x + project(depthwise(expand(x)))`: 1×1 convolution to more channels, one window for
each channel, 1×1 convolution back, each with batch norm, the first two with ReLU6. The Lite form
has no squeeze-and-excitation, and neither scales its first and last convolution with the width.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.nn import (
    batch_norm,
    conv,
    dense,
    dropout,
    global_avg_pool,
    identity,
    init_batch_norm,
    init_conv,
    init_dense,
    relu6,
)
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Activation, Array, DTypeLike, Initializer, Key, Params


class Stage(NamedTuple):
    """Blocks of one output size."""

    blocks: int
    window: int
    stride: int
    """Of the first block; the others have 1."""
    expansion: int
    """How many times wider a block is inside; 1 leaves `expand` out."""
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@jax.tree_util.register_static
@dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet's shape; static, so it crosses `jit` like any argument.

    The defaults are Lite0: 4.65 million parameters, made for images of 224×224.

    Attributes:
      n_out: number of outputs (logits).
      n_in: channels of the image.
      stem: channels after the first convolution, which has stride 2.
      stages: of the blocks, first to last.
      head: channels after the last convolution: the size of the features.
      window: side of the first convolution's window.
      activation: after each batch norm but a block's last.
      dropout_rate: of the features.
      eps: what batch norm adds to the variance.
      momentum: the share of the running moments that is kept.
      kernel_init: for every kernel.
      dtype: of the computation; `None` is the input's own.
      param_dtype: of the parameters.
    """

    n_out: int = 1000
    n_in: int = 3
    stem: int = 32
    stages: tuple[Stage, ...] = LITE0
    head: int = 1280
    window: int = 3
    activation: Activation = relu6
    dropout_rate: float = 0.2
    eps: float = 1e-3
    momentum: float = 0.99
    kernel_init: Initializer = he_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        sizes = (n for stage in self.stages for n in stage)
        if min(self.n_out, self.n_in, self.stem, self.head, self.window, *sizes) < 1:
            raise ValueError(f"EfficientNetConfig: every size must be positive, got {self}")


def _strides(config: EfficientNetConfig) -> list[int]:
    """Of each block."""
    return [
        stage.stride if index == 0 else 1
        for stage in config.stages
        for index in range(stage.blocks)
    ]


def init_efficientnet(key: Key, config: EfficientNetConfig) -> tuple[Params, Params]:
    """`(params, state)`: `{"stem", "blocks": [{"expand", "depthwise", "project"}, …], "head", …}`.

    Each of these is `{"conv", "norm"}` and, in the state, its running moments; `"classifier"` is
    dense.
    """
    n_blocks = sum(stage.blocks for stage in config.stages)
    keys = iter(jax.random.split(key, 3 + 3 * n_blocks))

    def unit(window: int, n_in: int, n_out: int, groups: int = 1) -> tuple[Params, Params]:
        kernel = init_conv(
            next(keys), (window, window), n_in, n_out, groups=groups, bias=False,
            kernel_init=config.kernel_init, dtype=config.param_dtype,
        )  # fmt: skip
        norm, moments = init_batch_norm(n_out, dtype=config.param_dtype)
        return {"conv": kernel, "norm": norm}, moments

    stem = unit(config.window, config.n_in, config.stem)
    n_in, blocks = config.stem, []
    for stage in config.stages:
        for _ in range(stage.blocks):
            inner = n_in * stage.expansion
            block = {} if stage.expansion == 1 else {"expand": unit(1, n_in, inner)}
            block["depthwise"] = unit(stage.window, inner, inner, groups=inner)
            block["project"] = unit(1, inner, stage.channels)
            blocks.append(block)
            n_in = stage.channels
    head = unit(1, n_in, config.head)
    classifier = init_dense(
        next(keys), config.head, config.n_out,
        kernel_init=config.kernel_init, dtype=config.param_dtype,
    )  # fmt: skip
    params, state = (
        {
            "stem": stem[part],
            "blocks": [{name: pair[part] for name, pair in block.items()} for block in blocks],
            "head": head[part],
        }
        for part in (0, 1)
    )
    return params | {"classifier": classifier}, state


def _unit(
    params: Params,
    moments: Params,
    config: EfficientNetConfig,
    x: Array,
    *,
    train: bool,
    activation: Activation,
    stride: int = 1,
    groups: int = 1,
) -> tuple[Array, Params]:
    x = conv(params["conv"], x, stride=stride, groups=groups)
    x, moments = batch_norm(
        params["norm"], moments, x, train=train, eps=config.eps, momentum=config.momentum
    )
    return activation(x), moments


def _check_images(config: EfficientNetConfig, x: Array) -> Array:
    if x.ndim < 3 or x.shape[-1] != config.n_in:
        raise ValueError(
            f"efficientnet: x must be [..., height, width, {config.n_in}], got {list(x.shape)}"
        )
    return x if config.dtype is None else x.astype(config.dtype)


def _blocks(
    params: Params,
    config: EfficientNetConfig,
    x: Array,
    state: Params,
    some: slice = slice(None),
    *,
    train: bool = False,
) -> tuple[Array, list[Params], list[Array]]:
    """After some of the blocks, their states, and their activations where they are widest."""
    unit = partial(_unit, config=config, train=train)
    φ = config.activation
    updated, wide = [], []
    for block, moments, stride in zip(
        params["blocks"][some], state["blocks"][some], _strides(config)[some], strict=True
    ):
        y, after = x, {}
        if "expand" in block:
            y, after["expand"] = unit(block["expand"], moments["expand"], x=y, activation=φ)
        y, after["depthwise"] = unit(
            block["depthwise"], moments["depthwise"],
            x=y, activation=φ, stride=stride, groups=y.shape[-1],
        )  # fmt: skip
        wide.append(y)
        y, after["project"] = unit(block["project"], moments["project"], x=y, activation=identity)
        x = x + y if y.shape == x.shape else y
        updated.append(after)
    return x, updated, wide


def _features(
    params: Params, config: EfficientNetConfig, x: Array, state: Params, train: bool
) -> tuple[Array, Params, list[Array]]:
    """The features, the state, and each block's activations where it is widest."""
    x = _check_images(config, x)
    unit = partial(_unit, config=config, train=train, activation=config.activation)
    x, stem = unit(params["stem"], state["stem"], x=x, stride=2)
    x, updated, wide = _blocks(params, config, x, state, train=train)
    x, head = unit(params["head"], state["head"], x=x)
    return global_avg_pool(x), {"stem": stem, "blocks": updated, "head": head}, wide


def efficientnet_below(
    params: Params, config: EfficientNetConfig, x: Array, *, state: Params, blocks: int
) -> Array:
    """What the first `blocks` blocks make of images, by the running moments.

    `[..., height, width, channels]`, for `efficientnet_above` to go on from: computed once, where
    what is below is frozen.
    """
    x = _check_images(config, x)
    φ = config.activation
    x, _ = _unit(params["stem"], state["stem"], config, x, train=False, activation=φ, stride=2)
    return _blocks(params, config, x, state, slice(blocks))[0]


def efficientnet_above(
    params: Params, config: EfficientNetConfig, x: Array, *, state: Params, blocks: int
) -> Array:
    """Logits from what the first `blocks` blocks made: see `efficientnet_below`."""
    return dense(
        params["classifier"],
        efficientnet_levels_above(params, config, x, state=state, blocks=blocks)[-1],
    )


def efficientnet_levels_above(
    params: Params, config: EfficientNetConfig, x: Array, *, state: Params, blocks: int
) -> list[Array]:
    """The last of `efficientnet_levels`, from what the first `blocks` blocks made.

    Of the blocks from number `blocks` on, and the classifier's: where those below are frozen, their
    levels are constants.
    """
    x, _, wide = _blocks(params, config, x, state, slice(blocks, None))
    head, moments = params["head"], state["head"]
    x, _ = _unit(head, moments, config, x, train=False, activation=config.activation)
    return [*map(global_avg_pool, wide), global_avg_pool(x)]


def efficientnet_features(
    params: Params, config: EfficientNetConfig, x: Array, *, state: Params, train: bool = False
) -> tuple[Array, Params]:
    """What the classifier sees: `[..., head]`, and the state; arguments as of `efficientnet`."""
    features, state, _ = _features(params, config, x, state, train)
    return features, state


def efficientnet_levels(
    params: Params, config: EfficientNetConfig, x: Array, *, state: Params
) -> list[Array]:
    """Features of every depth: each block's after its depthwise convolution, averaged over space.

    For tasks unlike the one a net was trained on, which its last layers know too well. Arguments as
    of `efficientnet`; one `[..., channels]` a block, and the classifier's last.
    """
    features, _, wide = _features(params, config, x, state, False)
    return [*map(global_avg_pool, wide), features]


def efficientnet(
    params: Params,
    config: EfficientNetConfig,
    x: Array,
    *,
    state: Params,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, Params]:
    """Logits of an EfficientNet, and its state.

    Args:
      params: from `init_efficientnet`.
      config: the same as there.
      x: `[..., height, width, n_in]`, of any height and width.
      state: batch norm's running moments, from `init_efficientnet`.
      train: whether batch norm uses, and moves the running moments by, this batch's.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      logits `[..., n_out]` in the computation's dtype, and the state (as it was, unless `train`).

    Raises:
      ValueError: if x's last axis is not `config.n_in`.
    """
    x, state = efficientnet_features(params, config, x, state=state, train=train)
    return dense(params["classifier"], dropout(x, config.dropout_rate, key=key)), state
