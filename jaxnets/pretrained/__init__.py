"""Weights from elsewhere: files as other libraries write them, read without running their code."""

from jaxnets.pretrained.bert import BERT_NAMES, MINILM, load_bert, sentence_embedding
from jaxnets.pretrained.efficientnet import (
    EFFICIENTNET_NAMES,
    efficientnet_pixels,
    load_efficientnet,
)
from jaxnets.pretrained.gguf import GGUF, load_gguf
from jaxnets.pretrained.llama import (
    GGUF_LLAMA_NAMES,
    LLAMA_NAMES,
    half_apart,
    llama_config,
    llama_of,
    load_llama,
)
from jaxnets.pretrained.names import from_flax, from_state_dict, to_flax, to_state_dict
from jaxnets.pretrained.pth import load_pth
from jaxnets.pretrained.quantized import Quantized, dequantize
from jaxnets.pretrained.recurrent import (
    GRU_NAMES,
    LSTM_NAMES,
    join_biases,
    join_gates,
    split_biases,
    split_gates,
)
from jaxnets.pretrained.safetensors import load_safetensors, save_safetensors
from jaxnets.pretrained.tokens import Tokens, gguf_tokenizer, load_tokenizer, tokenize

__all__ = [
    "BERT_NAMES",
    "EFFICIENTNET_NAMES",
    "GGUF",
    "GGUF_LLAMA_NAMES",
    "GRU_NAMES",
    "LLAMA_NAMES",
    "LSTM_NAMES",
    "MINILM",
    "Quantized",
    "Tokens",
    "dequantize",
    "efficientnet_pixels",
    "from_flax",
    "from_state_dict",
    "gguf_tokenizer",
    "half_apart",
    "join_biases",
    "join_gates",
    "llama_config",
    "llama_of",
    "load_bert",
    "load_efficientnet",
    "load_gguf",
    "load_llama",
    "load_pth",
    "load_safetensors",
    "load_tokenizer",
    "save_safetensors",
    "sentence_embedding",
    "split_biases",
    "split_gates",
    "to_flax",
    "to_state_dict",
    "tokenize",
]
