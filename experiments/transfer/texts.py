"""MiniLM, trained on sentences that belong together, and film reviews that praise or blame."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data.reviews import CLASSES, NAME, Part, load_reviews
from experiments.data.weights import WEIGHTS, fetch_weights
from experiments.transfer.base import LAST, Base, Features
from experiments.transfer.cached import cached, key_of
from experiments.transfer.learner import Indices, Learner
from experiments.transfer.scratch import from_scratch
from jaxnets import models, nn, pretrained, train
from jaxnets.models.transformer import embed
from jaxnets.models.transformer_block import run_blocks
from jaxnets.types import Array, Params, PyTree

BASE = "minilm-l6"
FROZEN_BLOCKS = 4
"""Of six."""
RATES = (6e-5, 2e-4)
TOKENS = 64
"""Of each text: the first quarter from its beginning, the others from its end."""


def shortened(ids: NDArray[np.int32], mask: NDArray[np.bool_], most: int) -> PyTree:
    """At most so many tokens of each text, those that mark its ends among them."""
    short = np.zeros((len(ids), most), np.int32)
    kept = np.zeros((len(ids), most), bool)
    head = most // 4
    for row, (text, there) in enumerate(zip(ids, mask, strict=True)):
        tokens = text[there]
        if len(tokens) > most:
            tokens = np.concatenate([tokens[:head], tokens[len(tokens) - (most - head) :]])
        short[row, : len(tokens)] = tokens
        kept[row, : len(tokens)] = True
    return {"ids": short, "mask": kept}


def _some(part: Part, n: int) -> Part:
    chosen = np.random.default_rng(0).permutation(len(part.labels))[:n]
    return Part(tuple(part.texts[i] for i in chosen), part.labels[chosen])


def load_texts(
    data_folder: Path | None, weights_folder: Path | None, *, train_texts: int, test_texts: int
) -> tuple[Base, str]:
    """The base and the task, and the fingerprint of the texts that are used."""
    reviews = load_reviews(NAME, data_folder)
    known, test = _some(reviews.train, train_texts), _some(reviews.test, test_texts)
    weights, tokenizer_path = fetch_weights(BASE, weights_folder)
    config = pretrained.MINILM
    params = pretrained.load_bert(weights, config)
    tokenizer = pretrained.load_tokenizer(tokenizer_path)
    lower = replace(config, depth=FROZEN_BLOCKS)
    upper = replace(config, depth=config.depth - FROZEN_BLOCKS)

    def below(params: Params, batch: PyTree) -> Array:
        x = embed(params, config, batch["ids"])
        x, _ = run_blocks(params["blocks"][:FROZEN_BLOCKS], lower, x, key_mask=batch["mask"])
        return x

    def pooled(params: Params, below: PyTree) -> Array:
        mask = below["mask"]
        x = below["x"].astype(jnp.float32)
        x, _ = run_blocks(params["blocks"][FROZEN_BLOCKS:], upper, x, key_mask=mask)
        mean = jnp.sum(jnp.where(mask[..., None], x, 0), -2)
        mean = mean / jnp.sum(mask, -1, keepdims=True)
        # of length √d, so that each feature is about 1
        return nn.rms_norm({"scale": jnp.ones(mean.shape[-1])}, mean)

    def apply(params: Params, batch: PyTree) -> PyTree:
        x = below(params, batch)
        kept = {"x": x.astype(jnp.float16), "mask": batch["mask"]}
        return {"last": pooled(params, kept | {"x": x}), **kept}

    def features(part: Part) -> tuple[Features, PyTree]:
        tokens = pretrained.tokenize(tokenizer, part.texts)
        short = shortened(tokens.ids, tokens.mask, TOKENS)
        key = key_of(1, *short.values(), *WEIGHTS[BASE].sha256.values(), FROZEN_BLOCKS)
        found = cached(key, lambda: train.features(apply, params, short, 50), ("last", "x", "mask"))
        return Features({LAST: found["last"]}, {k: found[k] for k in ("x", "mask")}), short

    (train_features, train_ids), (test_features, test_ids) = features(known), features(test)

    lower_blocks = "|".join(map(str, range(FROZEN_BLOCKS)))
    base = Base(
        name="film reviews",
        classes=CLASSES,
        train=train_features,
        train_y=known.labels,
        test=test_features,
        test_y=test.labels,
        params=params,
        features=lambda params, below: {LAST: pooled(params, below)},
        tuned={rf"embedding|^positions|^token_types|^blocks/({lower_blocks})/": False, ".*": True},
        depths={"^classifier/": 3, f"^blocks/{config.depth - 1}/": 0, ".*": 1},
        adapted={rf"^blocks/({lower_blocks})/|embedding|^positions|^token_types": 0,
                 "(query|key|value)/kernel$": 1, "kernel$": -1, ".*": 0},
        stages={f"^blocks/{config.depth - 1}/": 0, ".*": 1},
        rates=RATES,
        scratch=_scratch(train_ids, known.labels, test_ids),
        about=(
            f"The base is MiniLM, trained to embed sentences; it sees {TOKENS} tokens of each "
            "review, a quarter from its beginning and the others from its end. Fine-tuned are its "
            f"upper {config.depth - FROZEN_BLOCKS} of {config.depth} blocks, the lower ones at "
            "half the rate, at once or (gradually unfrozen) in turn: for half of the steps the "
            "last block and the head alone. Adapters are at all kernels of these blocks. What lies "
            "below is frozen, and its activations are computed once. From scratch: the mean of "
            "learned embeddings of the same tokens, and a hidden layer."
        ),
    )  # fmt: skip
    return base, key_of(known.texts, known.labels, test.texts, test.labels)


def _scratch(ids: PyTree, labels: NDArray[np.int32], test_ids: PyTree) -> Learner:
    head = models.MLPConfig(32, 2, hidden=(32,), dropout_rate=0.3)

    def init(key: Array) -> tuple[Params, PyTree]:
        embed_key, head_key = jax.random.split(key)
        embedding = nn.init_embedding(embed_key, 30_522, 32)
        return {"embedding": embedding, "head": models.init_mlp(head_key, head)}, ()

    def apply(
        params: Params, fixed: PyTree, moments: PyTree, batch: PyTree, key: Array | None
    ) -> tuple[Array, PyTree]:
        x = nn.embedding(params["embedding"], batch["ids"])
        mask = batch["mask"][..., None]
        mean = jnp.sum(jnp.where(mask, x, 0), -2) / jnp.sum(mask, -2)
        return models.mlp(params["head"], head, mean, key=key), moments

    def inputs(chosen: Indices | None) -> PyTree:
        if chosen is None:
            return test_ids
        return {name: leaf[chosen] for name, leaf in ids.items()}

    return from_scratch(init, apply, inputs, labels)
