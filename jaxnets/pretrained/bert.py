"""BERT's encoders (MiniLM is one) from PyTorch state dicts, and embeddings of sentences."""

import os

import jax
import jax.numpy as jnp

from jaxnets.models.transformer import encoder, init_encoder
from jaxnets.models.transformer_block import TransformerConfig
from jaxnets.pretrained.names import Rules, from_state_dict
from jaxnets.pretrained.safetensors import load_safetensors
from jaxnets.types import Array, Params


def _linear(place: str, name: str) -> Rules:
    return {rf"{place}/kernel": rf"{name}.weight", rf"{place}/bias": rf"{name}.bias"}


def _norm(place: str, name: str) -> Rules:
    return {rf"{place}/scale": rf"{name}.weight", rf"{place}/bias": rf"{name}.bias"}


_BLOCK = r"blocks/(\d+)"
_LAYER = r"encoder.layer.\1"

BERT_NAMES: Rules = {
    "embedding/embedding": "embeddings.word_embeddings.weight",
    "positions/embedding": "embeddings.position_embeddings.weight",
    "token_types/embedding": "embeddings.token_type_embeddings.weight",
    **_norm("embedding_norm", "embeddings.LayerNorm"),
    **_linear(rf"{_BLOCK}/attention/(query|key|value)", rf"{_LAYER}.attention.self.\2"),
    **_linear(rf"{_BLOCK}/attention/out", rf"{_LAYER}.attention.output.dense"),
    **_norm(rf"{_BLOCK}/attention_norm", rf"{_LAYER}.attention.output.LayerNorm"),
    **_linear(rf"{_BLOCK}/mlp/up", rf"{_LAYER}.intermediate.dense"),
    **_linear(rf"{_BLOCK}/mlp/down", rf"{_LAYER}.output.dense"),
    **_norm(rf"{_BLOCK}/mlp_norm", rf"{_LAYER}.output.LayerNorm"),
}
"""Of Hugging Face's `BertModel`, but for its pooler."""

MINILM = TransformerConfig(
    30_522,
    depth=6,
    features=384,
    heads=12,
    max_length=512,
    pre_norm=False,
    embedding_norm=True,
    norm_eps=1e-12,
    token_types=2,
)
"""All-MiniLM-L6-v2: sentences as vectors of 384; trained on at most 256 tokens."""


def load_bert(
    path: str | os.PathLike[str],
    config: TransformerConfig = MINILM,
) -> Params:
    """Parameters of `models.encoder` from a safetensors file with a `BertModel`'s state dict.

    `to_state_dict(params, BERT_NAMES)` is the way back; the pooler, which no sentence embedding
    uses, is left out.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it cannot be read, or is not of this config, naming what differs.
    """
    like = jax.eval_shape(lambda key: init_encoder(key, config), jax.random.key(0))
    ignore = r"^(pooler\.|embeddings\.position_ids$)"
    return from_state_dict(load_safetensors(path), like, BERT_NAMES, ignore=ignore)


def sentence_embedding(
    params: Params, config: TransformerConfig, ids: Array, mask: Array | None = None
) -> Array:
    """`m / |m|`, the mean of a text's features as a vector of length 1 (Reimers and Gurevych, 2019).

    The scalar product of two is their cosine.

    Args:
      params: from `init_encoder` or `load_bert`.
      config: the same as there.
      ids: integers `[..., T]`.
      mask: `[..., T]`, true where there is a token; all by default.

    Returns:
      `[..., features]`, in float32 (float64 for float64); 0 where there is no token.

    Raises:
      ValueError: as `encoder`.
    """  # noqa: E501
    x = encoder(params, config, ids, mask=mask)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if mask is not None:
        x = jnp.where(jnp.broadcast_to(jnp.asarray(mask, bool)[..., None], x.shape), x, 0)
    # the sum has the mean's direction
    total = jnp.sum(x, -2)
    square = jnp.sum(total**2, -1, keepdims=True)
    return total * jnp.broadcast_to(jnp.where(square > 0, square, 1) ** -0.5, total.shape)
