"""Models as a frozen config and two functions: `init_x(key, config)`, `x(params, config, …)`."""

from jaxnets.models.cnn import CNNConfig, cnn, init_cnn
from jaxnets.models.efficientnet import (
    EfficientNetConfig,
    Stage,
    efficientnet,
    efficientnet_features,
    init_efficientnet,
)
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.models.summary import flops, summary

__all__ = [
    "CNNConfig",
    "EfficientNetConfig",
    "MLPConfig",
    "Stage",
    "cnn",
    "efficientnet",
    "efficientnet_features",
    "flops",
    "init_cnn",
    "init_efficientnet",
    "init_mlp",
    "mlp",
    "summary",
]
