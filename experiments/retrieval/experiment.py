"""Find pictures by captions, and captions by pictures, that two towers were not trained on."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.data.captioned import SIDE, Captioned, load_captioned
from experiments.errors import UsageError
from experiments.flags import (
    filled,
    require_batch,
    require_not_negative,
    require_positive,
    require_seed,
    require_shares,
)
from experiments.retrieval.images import pretrained_features, shrink
from experiments.retrieval.measure import Split, split
from experiments.retrieval.report import OneRun, part, print_results, write_report
from experiments.retrieval.training import (
    Training,
    batch_of,
    make_program,
    parameters,
    run,
)
from experiments.retrieval.words import Texts, encode, make_vocabulary
from experiments.run import Run, append_metrics, open_run
from jaxnets import models


@dataclass(frozen=True)
class Config:
    """Train an image tower and a text tower on captioned pictures; find those held out."""

    data: str = "emoji"
    """emoji, stamps, or the path of an .npz file of images and captions"""
    data_folder: Path | None = None
    """where the files of the data set are, if not found by themselves"""
    tower: Literal["resnet", "efficientnet"] = "resnet"
    """of the images: trained from scratch, or a small one on EfficientNet-Lite0 as it is"""
    weights_folder: Path | None = None
    """where EfficientNet-Lite0's weights are, if not found by themselves"""
    text: Literal["bag", "gru", "transformer"] = "bag"
    """the text tower: the mean of the words and their parts, or a net over the words in order"""
    loss: Literal["clip", "siglip"] = "clip"
    """which contrastive loss"""
    side: int = 32
    """of the pictures that the resnet sees: 16, 32, 64 or 128"""
    width: int | None = None
    """channels of the resnet's first stage (32, with --quick 16)"""
    views: int | None = None
    """how often EfficientNet sees each picture, once as it is, then augmented (8, --quick 2)"""
    features: int = 128
    """size of the space where pictures and captions meet"""
    held_out: float = 0.2
    """share of the kinds of pictures that are not trained on"""
    validate: bool = False
    """hold out a fifth of the kinds left to train on and report on them, not on those held out
    already: to choose by"""
    learning_rate: float = 1e-3
    """of AdamW, positive"""
    weight_decay: float = 0.1
    """of AdamW"""
    word_dropout: float = 0.1
    """share of the words that are taken for unknown ones while training"""
    batch_size: int = 64
    """pairs per step, each the others' negatives"""
    epochs: int | None = None
    """passes over the training pairs (100, with --quick 60)"""
    seed: int = 0
    """of the first run's split, initial weights and batches"""
    seeds: int | None = None
    """how many runs, with seeds one after the other (3, with --quick 1)"""
    quick: bool = False
    """one seed, a narrower net, fewer epochs, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    width: int
    epochs: int
    seeds: int
    views: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    defaults = Amounts(16, 60, 1, 2) if config.quick else Amounts(32, 100, 3, 8)
    amounts = filled(config, defaults)
    positive = amounts._asdict() | {
        name: getattr(config, name) for name in ("learning_rate", "features")
    }
    require_positive(positive)
    if config.side not in (16, 32, 64, SIDE):
        raise UsageError(f"--side must be 16, 32, 64 or {SIDE}, got {config.side}")
    if config.batch_size < 2:
        raise UsageError(f"--batch-size must be at least 2, got {config.batch_size}")
    require_shares({name: getattr(config, name) for name in ("word_dropout", "held_out")})
    require_not_negative({"weight_decay": config.weight_decay})
    require_seed(config.seed, amounts.seeds)
    return amounts


def main(config: Config) -> int:
    """Split, train, find, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    data = load_captioned(config.data, config.data_folder)
    splits = [
        split(data.families, config.held_out, config.seed + i, validate=config.validate)
        for i in range(amounts.seeds)
    ]
    fewest = min(len(s.train) for s in splits)
    require_batch(config.batch_size, fewest, "pairs")
    opened = open_run(
        config.runs, "retrieval", config, data=fingerprint(data), folder=config.folder
    )
    with opened as folder:
        images: NDArray[Any] = shrink(data.images, config.side)
        if config.tower == "efficientnet":
            images = pretrained_features(
                data.images, amounts.views, config.seed, config.weights_folder
            )
        results = [
            _one_run(folder, config, amounts, data, images, s, config.seed + i)
            for i, s in enumerate(splits)
        ]
        print_results(config, data, results)
        print(f"report: {write_report(folder, data, results)}")
    return 0


def fingerprint(data: Captioned) -> str:
    """The SHA-256 of all that `data` holds, its name aside."""
    digest = hashlib.sha256(repr(data.captions).encode())
    for array in (data.images, data.families):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def make_model(
    config: Config, width: int, texts: Texts, words: int, n_in: int
) -> models.TwoTowerConfig:
    """The towers' shapes; `n_in` is the size of a picture's features, where they are given."""
    image: models.MLPConfig | models.ResNetConfig
    if config.tower == "efficientnet":
        image = models.MLPConfig(n_in, config.features, hidden=(256,), dropout_rate=0.3)
    else:
        channels = (width, 2 * width, 4 * width)
        image = models.ResNetConfig(3, config.features, (1, 1, 1), channels)
    text: models.BagOfWordsConfig | models.RNNConfig | models.TransformerConfig
    match config.text:
        case "bag":
            text = models.BagOfWordsConfig(words, features=config.features, dropout_rate=0.1)
        case "gru":
            text = models.RNNConfig(
                config.features, config.features, "gru", (config.features,),
                bidirectional=True, readout="mean", vocabulary=words, dropout_rate=0.1,
            )  # fmt: skip
        case "transformer":
            text = models.TransformerConfig(
                words, depth=2, features=128, heads=4, max_length=texts.ids.shape[-1],
                dropout_rate=0.1,
            )  # fmt: skip
    return models.TwoTowerConfig(image, text, config.loss)


def _one_run(
    folder: Run,
    config: Config,
    amounts: Amounts,
    data: Captioned,
    images: NDArray[Any],
    pairs: Split,
    seed: int,
) -> OneRun:
    known = [data.captions[i] for i in pairs.train]
    vocabulary = make_vocabulary(known, pieces=config.text == "bag")
    texts = encode(data.captions, vocabulary)
    model = make_model(config, amounts.width, texts, len(vocabulary), images.shape[-1])
    training = Training(
        config.learning_rate,
        config.weight_decay,
        config.batch_size,
        amounts.epochs,
        config.word_dropout,
    )
    program = make_program(training, model, len(pairs.train))
    sizes = parameters(jax.eval_shape(program.init, np.int32(seed)).params)
    print(
        f"{data.name}, seed {seed}: {len(pairs.train):,} pairs to train on, "
        f"{len(pairs.held_out)} {part(config.validate)}; towers of "
        f"{sizes['image']:,} and {sizes['text']:,} parameters, on {jax.devices()[0].device_kind}"
    )
    trained = run(
        training,
        program,
        batch_of(images, texts, pairs.train),
        batch_of(images, texts, pairs.held_out),
        batch_of(images, texts, pairs.known),
        seed,
    )
    steps = len(pairs.train) // config.batch_size
    append_metrics(
        folder,
        [
            {"step": steps * (i + 1), "seed": seed, "loss": loss, "held_out": found._asdict()}
            for i, (loss, found) in enumerate(zip(trained.losses, trained.recalls, strict=True))
        ],
    )
    return OneRun(seed, pairs, trained)
