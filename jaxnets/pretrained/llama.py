"""LLaMA's decoders (SmolLM2 is one) from GGUF files or PyTorch state dicts, as `transformer`s."""

import math
import os
import re
from dataclasses import replace
from typing import TypeVar

import jax
import numpy as np

from jaxnets import tree as trees
from jaxnets.models.transformer import init_transformer
from jaxnets.models.transformer_block import TransformerConfig
from jaxnets.nn import silu
from jaxnets.pretrained.gguf import GGUF, load_gguf
from jaxnets.pretrained.names import Rules, from_state_dict
from jaxnets.types import Array, Params

Number = TypeVar("Number", int, float)

LLAMA_NAMES: Rules = {
    "embedding/embedding": "model.embed_tokens.weight",
    r"blocks/(\d+)/attention/query/kernel": r"model.layers.\1.self_attn.q_proj.weight",
    r"blocks/(\d+)/attention/key/kernel": r"model.layers.\1.self_attn.k_proj.weight",
    r"blocks/(\d+)/attention/value/kernel": r"model.layers.\1.self_attn.v_proj.weight",
    r"blocks/(\d+)/attention/out/kernel": r"model.layers.\1.self_attn.o_proj.weight",
    r"blocks/(\d+)/attention_norm/scale": r"model.layers.\1.input_layernorm.weight",
    r"blocks/(\d+)/mlp/(gate|up|down)/kernel": r"model.layers.\1.mlp.\2_proj.weight",
    r"blocks/(\d+)/mlp_norm/scale": r"model.layers.\1.post_attention_layernorm.weight",
    "norm/scale": "model.norm.weight",
    "head/kernel": "lm_head.weight",
}
"""Of Hugging Face's `LlamaForCausalLM`, whose rotations pair features half a head apart.

For parameters of interleaved rotations, as GGUF files have them, after `half_apart`.
"""

GGUF_LLAMA_NAMES: Rules = {
    "embedding/embedding": "token_embd.weight",
    r"blocks/(\d+)/attention/query/kernel": r"blk.\1.attn_q.weight",
    r"blocks/(\d+)/attention/key/kernel": r"blk.\1.attn_k.weight",
    r"blocks/(\d+)/attention/value/kernel": r"blk.\1.attn_v.weight",
    r"blocks/(\d+)/attention/out/kernel": r"blk.\1.attn_output.weight",
    r"blocks/(\d+)/attention_norm/scale": r"blk.\1.attn_norm.weight",
    r"blocks/(\d+)/mlp/(gate|up|down)/kernel": r"blk.\1.ffn_\2.weight",
    r"blocks/(\d+)/mlp_norm/scale": r"blk.\1.ffn_norm.weight",
    "norm/scale": "output_norm.weight",
    "head/kernel": "output.weight",
}
"""Of llama.cpp, whose queries and keys are permuted so that rotations pair neighbours."""

_OTHERWISE = ("rope.scaling", "expert", "attention.sliding_window", "attention.value_length")
"""Metadata of what changes the function and is not had here."""


def load_llama(path: str | os.PathLike[str]) -> tuple[Params, TransformerConfig]:
    """`(params, config)` of `models.transformer` from a GGUF file, dequantized to float32.

    Args:
      path: of the file; `load_gguf` says what it may hold.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it cannot be read, is not of LLaMA's architecture, or its tensors are not those
        that its metadata describe, naming what differs.
    """
    return llama_of(load_gguf(path))


def half_apart(params: Params, config: TransformerConfig) -> tuple[Params, TransformerConfig]:
    """The same decoder with `positions="rotary"`, for `"rotary_interleaved"`.

    Features 2i and 2i + 1 of each head's queries and keys, which are rotated together, become
    features i and i + d / 2.

    Args:
      params: of `config`, or like them: gradients.
      config: with interleaved rotations.

    Raises:
      ValueError: if the config's positions are others.
    """
    if config.positions != "rotary_interleaved":
        raise ValueError(
            f"half_apart: config.positions must be 'rotary_interleaved', got {config.positions!r}"
        )
    size = config.size_of_head
    order = np.concatenate([np.arange(0, size, 2), np.arange(1, size, 2)])

    def move(path: str, x: Array) -> Array:
        return x[..., order] if re.search("attention/(query|key)/", path) else x

    return trees.map_with_paths(move, params), replace(config, positions="rotary")


def llama_of(file: GGUF) -> tuple[Params, TransformerConfig]:
    """As `load_llama`, of a file that is read already."""
    config = llama_config(file)
    # blocks are alike, and to trace one is enough
    shallow = replace(config, depth=1)
    like = jax.eval_shape(lambda key: init_transformer(key, shallow), jax.random.key(0))
    like |= {"blocks": like["blocks"] * config.depth}
    return from_state_dict(file.tensors, like, GGUF_LLAMA_NAMES), config


def llama_config(file: GGUF) -> TransformerConfig:
    """The config that a file describes; sizes are those of its tensors.

    Raises:
      ValueError: naming the entry that is missing, out of range, or asks for what is not had here.
    """
    if (architecture := file.metadata.get("general.architecture")) != "llama":
        raise ValueError(f"llama_config: general.architecture is {architecture!r}, not 'llama'")
    for name, value in file.metadata.items():
        if name.startswith(tuple(f"llama.{other}" for other in _OTHERWISE)):
            raise ValueError(f"llama_config: {name} is {value!r}, which is not had here")
    vocabulary, features = _matrix(file, "token_embd.weight")
    hidden, _ = _matrix(file, "blk.0.ffn_up.weight")
    width, _ = _matrix(file, "blk.0.attn_q.weight")
    heads = _positive(file, "attention.head_count", int)
    kv_heads = _positive(file, "attention.head_count_kv", int, heads)
    if width % heads:
        raise ValueError(f"llama_config: {heads} heads must divide {width} features of queries")
    turned = _positive(file, "rope.dimension_count", int, width // heads)
    if turned != width // heads:
        raise ValueError(f"llama_config: {turned} of a head's {width // heads} features are turned")
    blocks = {found[1] for name in file.tensors if (found := re.match(r"blk\.([^.]*)\.", name))}
    if len(blocks) != (depth := _positive(file, "block_count", int)):
        raise ValueError(f"llama_config: block_count is {depth}, the tensors have {len(blocks)}")
    for name in (f"blk.{i}.attn_q.weight" for i in range(depth)):
        if (shape := _matrix(file, name)) != (width, features):
            raise ValueError(f"llama_config: {name!r} must be {(width, features)}, got {shape}")
    return TransformerConfig(
        vocabulary,
        depth=depth,
        features=features,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        hidden=hidden,
        activation=silu,
        gated=True,
        norm="rms_norm",
        norm_eps=_positive(file, "attention.layer_norm_rms_epsilon", float),
        positions="rotary_interleaved",
        theta=_positive(file, "rope.freq_base", float, 10_000.0),
        max_length=_positive(file, "context_length", int),
        bias=False,
        tied="output.weight" not in file.tensors,
    )


def _matrix(file: GGUF, name: str) -> tuple[int, int]:
    shape = file.tensors[name].shape if name in file.tensors else None
    if shape is None or len(shape) != 2:
        raise ValueError(f"llama_config: {name!r} must be a matrix, got {shape or 'none'}")
    return shape[0], shape[1]


def _positive(file: GGUF, name: str, kind: type[Number], default: Number | None = None) -> Number:
    value = file.metadata.get(f"llama.{name}", default)
    if type(value) is not kind or not 0 < value < math.inf:
        raise ValueError(
            f"llama_config: llama.{name} must be a positive {kind.__name__}, got "
            f"{'none' if value is None else repr(value)}"
        )
    return value
