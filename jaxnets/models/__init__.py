"""Models as a frozen config and two functions: `init_x(key, config)`, `x(params, config, …)`."""

from jaxnets.models.cnn import CNNConfig, cnn, init_cnn
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.models.rnn import RNNConfig, init_rnn, rnn, rnn_with_carry, zero_rnn_carry
from jaxnets.models.summary import flops, summary

__all__ = [
    "CNNConfig",
    "MLPConfig",
    "RNNConfig",
    "cnn",
    "flops",
    "init_cnn",
    "init_mlp",
    "init_rnn",
    "mlp",
    "rnn",
    "rnn_with_carry",
    "summary",
    "zero_rnn_carry",
]
