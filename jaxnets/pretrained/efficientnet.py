"""EfficientNet-Lite0 as it was trained on ImageNet, from a PyTorch state dict."""

import os

import jax
import numpy as np

from jaxnets.models.efficientnet import EfficientNetConfig, init_efficientnet
from jaxnets.pretrained.names import Rules, from_state_dict
from jaxnets.pretrained.pth import load_pth
from jaxnets.types import Array, Params


def _unit(place: str, conv: str, norm: str) -> Rules:
    return {
        rf"0/{place}/conv/kernel": rf"{conv}.weight",
        rf"0/{place}/norm/scale": rf"{norm}.weight",
        rf"0/{place}/norm/bias": rf"{norm}.bias",
        rf"1/{place}/mean": rf"{norm}.running_mean",
        rf"1/{place}/var": rf"{norm}.running_var",
    }


EFFICIENTNET_NAMES: Rules = {
    **_unit("stem", "_conv_stem", "_bn0"),
    **_unit(r"blocks/(\d+)/expand", r"_blocks.\1._expand_conv", r"_blocks.\1._bn0"),
    **_unit(r"blocks/(\d+)/depthwise", r"_blocks.\1._depthwise_conv", r"_blocks.\1._bn1"),
    **_unit(r"blocks/(\d+)/project", r"_blocks.\1._project_conv", r"_blocks.\1._bn2"),
    **_unit("head", "_conv_head", "_bn1"),
    "0/classifier/kernel": "_fc.weight",
    "0/classifier/bias": "_fc.bias",
}
"""Of `(params, state)`: `to_state_dict((params, state), EFFICIENTNET_NAMES)` is the way back."""


def load_efficientnet(
    path: str | os.PathLike[str],
    config: EfficientNetConfig = EfficientNetConfig(),  # noqa: B008 (frozen)
) -> tuple[Params, Params]:
    """`(params, state)` of `models.efficientnet` from a `.pth` file with that model's state dict.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it cannot be read, or is not of this config, naming what differs.
    """
    like = jax.eval_shape(lambda key: init_efficientnet(key, config), jax.random.key(0))
    params, state = from_state_dict(
        load_pth(path), like, EFFICIENTNET_NAMES, ignore=r"\.num_batches_tracked$"
    )
    return params, state


def efficientnet_pixels(images: Array | np.ndarray) -> Array | np.ndarray:
    """`(x - 127) / 128`: pixels 0 to 255 as EfficientNet-Lite was trained on."""
    return (images - 127.0) / 128.0
