"""Weights from elsewhere: files as other libraries write them, read without running their code."""

from jaxnets.pretrained.efficientnet import EFFICIENTNET_NAMES, load_efficientnet, scale_pixels
from jaxnets.pretrained.names import from_state_dict, to_state_dict
from jaxnets.pretrained.pth import load_pth
from jaxnets.pretrained.safetensors import load_safetensors, save_safetensors

__all__ = [
    "EFFICIENTNET_NAMES",
    "from_state_dict",
    "load_efficientnet",
    "load_pth",
    "load_safetensors",
    "save_safetensors",
    "scale_pixels",
    "to_state_dict",
]
