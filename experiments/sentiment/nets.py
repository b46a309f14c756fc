"""The nets that read reviews."""

import jax
import jax.numpy as jnp

from experiments.sequences import Classifier
from jaxnets import models, nn
from jaxnets.models.rnn import mean_over_time
from jaxnets.nn.unroll import within_lengths
from jaxnets.types import Array, Key, Params

NAMES = {
    "gru": "bidirectional GRU",
    "lstm": "bidirectional LSTM",
    "transformer": "transformer encoder",
}


def make_classifier(
    model: str, *, vocabulary: int, tokens: int, width: int, depth: int, dropout: float
) -> Classifier:
    """The net called `model` for texts of at most `tokens` words.

    The parameters' `"embedding"` is the table of word vectors.
    """
    if model == "transformer":
        return _transformer(
            models.TransformerConfig(
                vocabulary, depth, 2 * width, heads=4, max_length=tokens, dropout_rate=dropout
            )
        )
    config = models.RNNConfig(
        width, 2, "lstm" if model == "lstm" else "gru", (width,) * depth,
        bidirectional=True, readout="mean", vocabulary=vocabulary, dropout_rate=dropout,
    )  # fmt: skip

    def logits(params: Params, x: Array, lengths: Array, key: Key | None = None) -> Array:
        return models.rnn(params, config, x, lengths=lengths, key=key)

    return Classifier(NAMES[model], lambda key: models.init_rnn(key, config), logits)


def _transformer(config: models.TransformerConfig) -> Classifier:
    """An encoder, the mean of what it makes of the words, and a linear readout."""

    def init(key: Key) -> Params:
        head = nn.init_dense(jax.random.fold_in(key, 1), config.features, 2)
        return {**models.init_encoder(key, config), "head": head}

    def logits(params: Params, x: Array, lengths: Array, key: Key | None = None) -> Array:
        mask = within_lengths("transformer", lengths, x.shape)
        features = models.encoder(params, config, x, mask=mask, key=key)
        mean = mean_over_time(jnp.where(mask[..., None], features, 0), lengths)
        return nn.dense(params["head"], mean)

    return Classifier(NAMES["transformer"], init, logits)
