"""MiniLM, trained on sentences that belong together, and film reviews that praise or blame."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data.reviews import CLASSES, NAME, Part, load_reviews
from experiments.data.weights import WEIGHTS, fetch_weights
from experiments.transfer.base import Base, Features, FromScratch
from experiments.transfer.cached import cached, key_of
from jaxnets import losses, models, nn, optim, pretrained, train
from jaxnets.models.transformer import embed
from jaxnets.models.transformer_block import run_blocks
from jaxnets.types import Array, Params, PyTree

BASE = "minilm-l6"
FROZEN_BLOCKS = 4
"""Of six."""
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
    params = params | {"classifier": nn.init_dense(jax.random.key(0), config.features, 2)}
    tokenizer = pretrained.load_tokenizer(tokenizer_path)
    lower = replace(config, depth=FROZEN_BLOCKS)
    upper = replace(config, depth=config.depth - FROZEN_BLOCKS)

    def below(params: Params, batch: PyTree) -> Array:
        x = embed(params, config, batch["ids"])
        x, _ = run_blocks(params["blocks"][:FROZEN_BLOCKS], lower, x, key_mask=batch["mask"])
        return x

    def pooled(params: Params, below: PyTree) -> Array:
        mask = below["mask"]
        x, _ = run_blocks(params["blocks"][FROZEN_BLOCKS:], upper, below["x"], key_mask=mask)
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
        return Features(found["last"], None, {k: found[k] for k in ("x", "mask")}), short

    (train_features, train_ids), (test_features, test_ids) = features(known), features(test)

    def logits(params: Params, below: PyTree) -> Array:
        return nn.dense(params["classifier"], pooled(params, below))

    lower_blocks = "|".join(map(str, range(FROZEN_BLOCKS)))
    base = Base(
        name="film reviews",
        classes=CLASSES,
        train=train_features,
        train_y=known.labels,
        test=test_features,
        test_y=test.labels,
        params=params,
        logits=logits,
        tuned={rf"embedding|^positions|^token_types|^blocks/({lower_blocks})/": False, ".*": True},
        depths={"^classifier/": 0, f"^blocks/{config.depth - 1}/": 1, ".*": 2},
        adapted={rf"^blocks/({lower_blocks})/|embedding|^positions|^token_types|^classifier": 0,
                 "(query|key|value)/kernel$": 1, "kernel$": -1, ".*": 0},
        from_scratch=_scratch(train_ids, known.labels, test_ids, test.labels),
        about=(
            f"The base is MiniLM, trained to embed sentences; it sees {TOKENS} tokens of each "
            "review, a quarter from its beginning and the others from its end. Fine-tuned are its "
            f"upper {config.depth - FROZEN_BLOCKS} of {config.depth} blocks and the head; adapters "
            "are at all kernels of these blocks. What lies below is frozen, and its activations "
            "are computed once. From scratch: the mean of learned embeddings of the same tokens, "
            "and a hidden layer."
        ),
    )  # fmt: skip
    return base, key_of(known.texts, known.labels, test.texts, test.labels)


def _scratch(
    ids: PyTree, labels: NDArray[np.int32], test_ids: PyTree, test_y: NDArray[np.int32]
) -> FromScratch:
    head = models.MLPConfig(32, 2, hidden=(32,), dropout_rate=0.3)

    def logits(params: Params, batch: PyTree, key: Array | None = None) -> Array:
        x = nn.embedding(params["embedding"], batch["ids"])
        mask = batch["mask"][..., None]
        mean = jnp.sum(jnp.where(mask, x, 0), -2) / jnp.sum(mask, -2)
        return models.mlp(params["head"], head, mean, key=key)

    def run(seed: Array, known: PyTree, test: PyTree, steps: int) -> Array:
        optimizer = optim.adam(optim.cosine_decay_schedule(3e-3, steps))
        n = len(known["y"])
        embed_key, head_key, run_key, batch_key = jax.random.split(jax.random.key(seed), 4)
        params = {
            "embedding": nn.init_embedding(embed_key, 30_522, 32),
            "head": models.init_mlp(head_key, head),
        }

        def loss(params: Params, batch: PyTree, key: Array) -> Array:
            value = losses.softmax_cross_entropy_with_integer_labels(
                logits(params, batch, key), batch["y"]
            )
            return jnp.mean(value)

        step = train.step(loss, optimizer, has_key=True)
        state = train.init_state(params, optimizer, run_key)

        def one(state: train.TrainState, key: Array) -> tuple[train.TrainState, None]:
            chosen = jax.random.randint(key, (min(32, n),), 0, n)
            return step(state, jax.tree.map(lambda leaf: leaf[chosen], known))[0], None

        state, _ = jax.lax.scan(one, state, jax.random.split(batch_key, steps))
        return jnp.mean(jnp.argmax(logits(state.params, test), -1) == test["y"])

    compiled = jax.jit(run, static_argnums=3)

    def from_scratch(seed: int, chosen: NDArray[np.intp], steps: int) -> float:
        known = {name: leaf[chosen] for name, leaf in ids.items()} | {"y": labels[chosen]}
        return float(compiled(jnp.asarray(seed), known, test_ids | {"y": test_y}, steps))

    return from_scratch
