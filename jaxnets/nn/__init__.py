"""Layers as pairs of functions: `init_dense(key, …) -> params` and `dense(params, x) -> y`."""

from jaxnets.nn import activations, initializers
from jaxnets.nn.activations import *  # noqa: F403
from jaxnets.nn.attention import attention
from jaxnets.nn.conv import conv, conv_transpose, init_conv
from jaxnets.nn.dense import attend, dense, embedding, init_dense, init_embedding
from jaxnets.nn.dropout import dropout, spatial_dropout
from jaxnets.nn.multi_head import (
    attend_to,
    attention_weights,
    cached_attention,
    init_attention,
    init_cache,
    keys_and_values,
    multi_head_attention,
)
from jaxnets.nn.norm import (
    batch_norm,
    group_norm,
    init_batch_norm,
    init_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from jaxnets.nn.pool import avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxnets.nn.position import alibi, alibi_slopes, rotary, rotary_angles, sinusoidal
from jaxnets.nn.recurrent import (
    gru_cell,
    init_gru_cell,
    init_lstm_cell,
    init_rnn_cell,
    lstm_cell,
    rnn_cell,
)
from jaxnets.nn.stack import init_stack, scan_layers
from jaxnets.nn.unroll import bidirectional, unroll, zero_carry

__all__ = [
    "activations",
    "alibi",
    "alibi_slopes",
    "attend",
    "attend_to",
    "attention",
    "attention_weights",
    "avg_pool",
    "batch_norm",
    "bidirectional",
    "cached_attention",
    "conv",
    "conv_transpose",
    "dense",
    "dropout",
    "embedding",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "gru_cell",
    "init_attention",
    "init_batch_norm",
    "init_cache",
    "init_conv",
    "init_dense",
    "init_embedding",
    "init_gru_cell",
    "init_lstm_cell",
    "init_norm",
    "init_rnn_cell",
    "init_stack",
    "initializers",
    "instance_norm",
    "keys_and_values",
    "layer_norm",
    "lstm_cell",
    "max_pool",
    "multi_head_attention",
    "rms_norm",
    "rnn_cell",
    "rotary",
    "rotary_angles",
    "scan_layers",
    "sinusoidal",
    "spatial_dropout",
    "unroll",
    "zero_carry",
    *activations.__all__,
]
