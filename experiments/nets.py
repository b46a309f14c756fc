"""The nets that classify images: a CNN or a ResNet, called alike; and augmentation."""

from math import isqrt
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from experiments.data import Dataset
from experiments.errors import UsageError
from jaxnets import models
from jaxnets.types import Array, Key, Params, PyTree

NetConfig: TypeAlias = models.CNNConfig | models.ResNetConfig

Augment: TypeAlias = Literal["none", "shift", "flip", "both"]

LARGE = 16
"""From this height and width on, a ResNet sees 2x2 patches as the channels of one pixel."""

REACH = 2
"""Pixels by which an image is shifted at most."""


def cnn_config(data: Dataset, *, dropout: float, dtype: str) -> models.CNNConfig:
    """Two convolutions and one hidden layer, for the images of `data`.

    Raises:
      UsageError: if the images are too small for it.
    """
    channels, pool = (32, 64), 2
    height, width, _ = data.train_x.shape[1:]
    if min(height, width) < (smallest := pool ** len(channels)):
        raise UsageError(
            f"{data.name}: the net takes images of {smallest}×{smallest} or larger, "
            f"got {height}×{width}"
        )
    return models.CNNConfig(
        image=data.train_x.shape[1:],
        n_out=len(data.classes),
        channels=channels,
        pool=pool,
        hidden=(128,),
        dropout_rate=dropout,
        **_dtypes(dtype),
    )


def resnet_config(data: Dataset, *, depth: int, width: int, dtype: str) -> models.ResNetConfig:
    """A CIFAR ResNet for the images of `data`; `width` multiplies its channels 16, 32, 64.

    Raises:
      UsageError: if there is no ResNet of this depth.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(f"--depth must be 8, 14, 20, … (6n + 2), got {depth}")
    height, breadth, channels = data.train_x.shape[1:]
    folded = min(height, breadth) >= LARGE and not (height % 2 or breadth % 2)
    n_in = channels * (4 if folded else 1)
    return models.cifar_resnet(depth, len(data.classes), n_in=n_in, width=width, **_dtypes(dtype))


def _dtypes(dtype: str) -> dict[str, Any]:
    return {"dtype": jnp.dtype(dtype), "param_dtype": jnp.promote_types(dtype, jnp.float32)}


def init_net(key: Key, model: NetConfig) -> tuple[Params, Params]:
    """`(params, state)`."""
    if isinstance(model, models.ResNetConfig):
        return models.init_resnet(key, model)
    return models.init_cnn(key, model)


def net(
    params: Params,
    model: NetConfig,
    x: Array,
    *,
    state: Params,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, PyTree]:
    """Logits of images `[..., height, width, channels]`, and the state."""
    if isinstance(model, models.ResNetConfig):
        side = isqrt(model.n_in // x.shape[-1])
        return models.resnet(params, model, fold_patches(x, side), state=state, train=train)
    return models.cnn(params, model, x, state=state, train=train, key=key)


def fold_patches(x: Array, side: int) -> Array:
    """`[..., h s, w s, c] -> [..., h, w, s² c]`: each patch of `s × s` pixels as one."""
    *lead, height, width, channels = x.shape
    grid = x.reshape(*lead, height // side, side, width // side, side, channels)
    grid = jnp.swapaxes(grid, -4, -3)
    return grid.reshape(*lead, height // side, width // side, side * side * channels)


def augmented(x: Array, key: Key, how: Augment) -> Array:
    """Images `[n, height, width, channels]`, each mirrored or not, shifted, or both.

    What is shifted in repeats the edge.
    """
    shift_key, flip_key = jax.random.split(key)
    if how in ("flip", "both"):
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x), 1, 1, 1))
        x = jnp.where(mirrored, x[:, :, ::-1], x)
    if how in ("none", "flip"):
        return x
    edge = jnp.pad(x, ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)), mode="edge")
    starts = jax.random.randint(shift_key, (len(x), 2), 0, 2 * REACH + 1)
    return jax.vmap(
        lambda image, start: lax.dynamic_slice(image, (start[0], start[1], 0), x.shape[1:])
    )(edge, starts)
