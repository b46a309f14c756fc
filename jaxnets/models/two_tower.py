"""Two towers, one for images and one for texts, that meet in one space of unit vectors.

`u = f(image) / |f(image)|` and `v = g(text) / |g(text)|`: a picture and its caption are trained to
have a large `u·v`, by `jaxnets.losses.clip_loss` or `siglip_loss` (Radford et al., "Learning
transferable visual models from natural language supervision", 2021; Zhai et al., "Sigmoid loss for
language image pre-training", 2023). Either tower is any net of these models.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.checks import require_same_shape
from jaxnets.losses import clip_loss, siglip_loss
from jaxnets.losses.cosine import unit
from jaxnets.models.cnn import CNNConfig, cnn, init_cnn
from jaxnets.models.efficientnet import EfficientNetConfig, efficientnet, init_efficientnet
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.models.resnet import ResNetConfig, init_resnet, resnet
from jaxnets.models.rnn import RNNConfig, init_rnn, rnn
from jaxnets.models.transformer import encoder, init_encoder
from jaxnets.models.transformer_block import TransformerConfig
from jaxnets.nn import dense, dropout, embedding, init_dense, init_embedding
from jaxnets.types import Array, DTypeLike, Key, Params


@jax.tree_util.register_static
@dataclass(frozen=True)
class BagOfWordsConfig:
    """A text as the mean of its words' vectors; static, so it crosses `jit` like any argument.

    Attributes:
      vocabulary: number of word ids.
      features: size of a word's vector.
      dropout_rate: in `[0, 1]`, of the mean.
      dtype: of the computation; `None` is the parameters' own.
      param_dtype: of the parameters.
    """

    vocabulary: int
    features: int = 128
    dropout_rate: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.features) < 1:
            raise ValueError(f"BagOfWordsConfig: every size must be positive, got {self}")


ImageConfig: TypeAlias = CNNConfig | ResNetConfig | EfficientNetConfig | MLPConfig
TextConfig: TypeAlias = BagOfWordsConfig | RNNConfig | TransformerConfig


@jax.tree_util.register_static
@dataclass(frozen=True)
class TwoTowerConfig:
    """Two towers' shapes; static, so it crosses `jit` like any argument.

    Attributes:
      image: the image tower, whose `n_out` is the size of the embedding. An MLP takes vectors: what
        a net that stays as it is makes of the images.
      text: the text tower. A recurrent net has a `vocabulary` and the same `n_out`. A transformer
        is an encoder; its features, or the words' vectors of a bag, are averaged over the text and
        mapped to the embedding.
      loss: `"clip"` or `"siglip"`: where the learned scale starts, and whether there is a bias.
    """

    image: ImageConfig
    text: TextConfig
    loss: Literal["clip", "siglip"] = "clip"

    def __post_init__(self) -> None:
        for name, allowed in (("image", ImageConfig), ("text", TextConfig)):
            if not isinstance(getattr(self, name), allowed):
                raise TypeError(
                    f"TwoTowerConfig: {name} must be a config of "
                    f"{', '.join(kind.__name__ for kind in allowed.__args__)}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.loss not in ("clip", "siglip"):
            raise ValueError(f"TwoTowerConfig: loss must be 'clip' or 'siglip', got {self.loss!r}")
        if not isinstance(self.text, RNNConfig):
            return
        if not self.text.vocabulary or self.text.readout == "each":
            raise ValueError(
                "TwoTowerConfig: a recurrent text tower needs a vocabulary and the readout 'last' "
                f"or 'mean', got {self.text.vocabulary} and {self.text.readout!r}"
            )
        if self.text.n_out != self.image.n_out:
            raise ValueError(
                "TwoTowerConfig: both towers must have one n_out, got "
                f"{self.image.n_out} and {self.text.n_out}"
            )


def init_two_tower(key: Key, config: TwoTowerConfig) -> tuple[Params, Params]:
    """`(params, state)`: `{"image", "text", "log_scale", ("bias")}`, and the image tower's moments.

    `"text"` is a recurrent net's own parameters, else `{"words", "projection"}`. The scale starts
    at 1 / 0.07, as in CLIP; with SigLIP's loss at 10, and the bias at -10.
    """
    image_key, text_key, projection_key = jax.random.split(key, 3)
    image: Params
    state: Params = {}
    match config.image:
        case CNNConfig():
            image, state = init_cnn(image_key, config.image)
        case ResNetConfig():
            image, state = init_resnet(image_key, config.image)
        case EfficientNetConfig():
            image, state = init_efficientnet(image_key, config.image)
        case MLPConfig():
            image = init_mlp(image_key, config.image)
    words: Params
    match config.text:
        case RNNConfig():
            words = init_rnn(text_key, config.text)
        case TransformerConfig():
            words = init_encoder(text_key, config.text)
        case BagOfWordsConfig(n, features):
            words = init_embedding(text_key, n, features, dtype=config.text.param_dtype)
    dtype = config.text.param_dtype
    text = words
    if not isinstance(config.text, RNNConfig):
        projection = init_dense(
            projection_key, config.text.features, config.image.n_out, bias=False, dtype=dtype
        )
        text = {"words": words, "projection": projection}
    scale = 1 / 0.07 if config.loss == "clip" else 10.0
    params = {"image": image, "text": text, "log_scale": jnp.asarray(math.log(scale), dtype)}
    if config.loss == "siglip":
        params["bias"] = jnp.asarray(-10.0, dtype)
    return params, state


def embed_images(
    params: Params,
    config: TwoTowerConfig,
    images: Array,
    *,
    state: Params,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, Params]:
    """Unit vectors of images, and the image tower's state.

    Args:
      params: from `init_two_tower`.
      config: the same as there.
      images: `[..., height, width, channels]`; for an MLP, vectors `[..., n_in]`.
      state: the running moments of batch norm, from `init_two_tower`.
      train: whether batch norm uses, and moves the running moments by, this batch's.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., n_out]`, in the dtype of the computation, and the state (as it was, unless `train`).

    Raises:
      ValueError: if the images are not of the shape that the tower takes.
    """
    tower, x = params["image"], images
    match config.image:
        case CNNConfig():
            x, state = cnn(tower, config.image, x, state=state, train=train, key=key)
        case ResNetConfig():
            x, state = resnet(tower, config.image, x, state=state, train=train)
        case EfficientNetConfig():
            x, state = efficientnet(tower, config.image, x, state=state, train=train, key=key)
        case MLPConfig():
            x = mlp(tower, config.image, x, key=key)
    return _on_the_sphere(x), state


def embed_texts(
    params: Params, config: TwoTowerConfig, ids: Array, mask: Array, *, key: Key | None = None
) -> Array:
    """Unit vectors of texts.

    Args:
      params: from `init_two_tower`.
      config: the same as there.
      ids: integers `[..., T]` in `[0, vocabulary)`.
      mask: boolean `[..., T]`, true where there is a word, and for a recurrent net false only
        behind the last one. A text without a word is a vector of zeros for a bag of words.
      key: randomness for dropout; `None` is evaluation.

    Returns:
      `[..., n_out]`, in the dtype of the computation.

    Raises:
      ValueError: if `mask` has not the shape of `ids`, or there are more positions than a
        transformer has learned.
    """
    ids, mask = jnp.asarray(ids), jnp.asarray(mask)
    require_same_shape("embed_texts", ids=ids, mask=mask)
    tower = params["text"]
    match config.text:
        case RNNConfig():
            lengths = jnp.sum(mask, -1, dtype=jnp.int32)
            return _on_the_sphere(rnn(tower, config.text, ids, lengths=lengths, key=key))
        case TransformerConfig():
            x = encoder(tower["words"], config.text, ids, mask=mask, key=key)
        case BagOfWordsConfig():
            x = embedding(tower["words"], ids)
            x = x if config.text.dtype is None else x.astype(config.text.dtype)
    x = _mean(x, mask)
    if isinstance(config.text, BagOfWordsConfig):
        x = dropout(x, config.text.dropout_rate, key=key)
    return _on_the_sphere(dense(tower["projection"], x))


def two_tower(
    params: Params,
    config: TwoTowerConfig,
    images: Array,
    ids: Array,
    mask: Array,
    *,
    state: Params,
    train: bool = False,
    key: Key | None = None,
) -> tuple[Array, Array, Params]:
    """Unit vectors of images and of texts, and the state; arguments as of the two above."""
    image_key, text_key = (None, None) if key is None else jax.random.split(key)
    u, state = embed_images(params, config, images, state=state, train=train, key=image_key)
    return u, embed_texts(params, config, ids, mask, key=text_key), state


def two_tower_losses(params: Params, config: TwoTowerConfig, u: Array, v: Array) -> Array:
    """The config's loss of each pair among its batch, with the learned scale (and bias).

    Args:
      params: from `init_two_tower`.
      config: the same as there.
      u: of the images, `[..., B, n_out]`.
      v: of their texts, the same shape.

    Returns:
      `[..., B]`, in float32 or wider.
    """
    if config.loss == "clip":
        return clip_loss(u, v, params["log_scale"])
    return siglip_loss(u, v, params["log_scale"], params["bias"])


def _on_the_sphere(x: Array) -> Array:
    """`x / |x|` over the last axis, computed in float32 or wider; zeros stay zeros."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return unit(wide, jnp.zeros((), wide.dtype), -1).astype(x.dtype)


def _mean(x: Array, mask: Array) -> Array:
    """Of the vectors `[..., T, n]` that the mask includes, summed in float32 at least."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    included = jnp.broadcast_to(mask[..., None], x.shape)
    total = jnp.sum(jnp.where(included, x, 0), -2, dtype=wide)
    count = jnp.maximum(jnp.sum(included, -2, dtype=wide), 1)
    return (total / count).astype(x.dtype)
