"""Models as a frozen config and two functions: `init_x(key, config)`, `x(params, config, …)`."""

from jaxnets.models import decode
from jaxnets.models.cnn import CNNConfig, cnn, init_cnn
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.models.rnn import RNNConfig, init_rnn, rnn, rnn_with_carry, zero_rnn_carry
from jaxnets.models.summary import flops, summary
from jaxnets.models.transformer import (
    continue_transformer,
    encoder,
    init_encoder,
    init_transformer,
    transformer,
    transformer_caches,
)
from jaxnets.models.transformer_block import TransformerConfig

__all__ = [
    "CNNConfig",
    "MLPConfig",
    "RNNConfig",
    "TransformerConfig",
    "cnn",
    "continue_transformer",
    "decode",
    "encoder",
    "flops",
    "init_cnn",
    "init_encoder",
    "init_mlp",
    "init_rnn",
    "init_transformer",
    "mlp",
    "rnn",
    "rnn_with_carry",
    "summary",
    "transformer",
    "transformer_caches",
    "zero_rnn_carry",
]
