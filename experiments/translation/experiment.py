"""Translate from English to Portuguese, by a transformer or an LSTM with attention."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UsageError
from experiments.flags import filled, require_positive, require_seed, require_shares
from experiments.run import append_metrics, open_run
from experiments.translation import nets, scoring, vocabulary
from experiments.translation.nets import Kind, Net
from experiments.translation.pairs import Split, fingerprint, load_pairs, split
from experiments.translation.report import Looks, Results, print_results, write_report
from experiments.translation.training import Trained, Training, fit, steps_of
from experiments.translation.vocabulary import BEGIN, Vocabulary, until_end
from jaxnets.types import Params

BUCKETS = 4
MAPS = 2
"""Attention maps in the report."""


@dataclass(frozen=True)
class Config:
    """Learn to translate from pairs of sentences, and measure it on others."""

    data: str = "bible"
    """bible, or the path of a .tsv file with a sentence, a tab and its translation in each line"""
    data_folder: Path | None = None
    """where the data set's files are, if not found by themselves"""
    model: Kind | None = None
    """transformer, or lstm (with attention) (quick: lstm, otherwise transformer)"""
    words: int = 20
    """of the longer side, at most, in held-out pairs"""
    train_words: int | None = None
    """the same in pairs to train on (quick: 20, otherwise 40)"""
    validation: int = 500
    """held-out pairs that choose the epoch"""
    test: int = 1000
    """held-out pairs that are translated at the end"""
    vocabulary: int | None = None
    """tokens of the byte-pair encoding of both languages (quick: 2000, otherwise 8000)"""
    features: int | None = None
    """size of the vectors (quick: 192, of the transformer 128; otherwise 512)"""
    depth: int | None = None
    """blocks or layers, of each of the two (transformer: quick 2, otherwise 6; lstm: 1 and 2)"""
    heads: int | None = None
    """of the transformer (quick: 4, otherwise 8)"""
    dropout: float | None = None
    """from 0 to below 1 (quick: 0.1, otherwise 0.3)"""
    label_smoothing: float = 0.1
    """the share of each label that is spread over all tokens, from 0 to below 1"""
    learning_rate: float | None = None
    """at its highest (quick: 2e-3; otherwise 7e-4, of the lstm 1e-3)"""
    warmup: float = 0.1
    """the share of all steps in which the rate grows; then it falls to 0 as a cosine"""
    weight_decay: float = 0.01
    """of AdamW, from 0"""
    batch_size: int | None = None
    """pairs per step (quick: 32, otherwise 64)"""
    epochs: int | None = None
    """passes over the training pairs (quick: 7, otherwise 40)"""
    beams: int = 4
    """of the beam search, beside greedy decoding"""
    length_penalty: float = 1.0
    """the power of the length that a beam's log-probability is divided by, from 0"""
    seed: int = 0
    """of the held-out pairs, initial weights and batches"""
    quick: bool = False
    """a small net and few epochs, for two CPU cores, unless other flags say otherwise"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty (or to be resumed)"""
    resume: bool = False
    """go on with the run in --folder, from the end of its last epoch"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    model: Kind
    train_words: int
    vocabulary: int
    features: int
    depth: int
    heads: int
    dropout: float
    learning_rate: float
    batch_size: int
    epochs: int


QUICK: dict[Kind, Amounts] = {
    "lstm": Amounts("lstm", 20, 2000, 192, 1, 1, 0.1, 2e-3, 32, 7),
    "transformer": Amounts("transformer", 20, 2000, 128, 2, 4, 0.1, 2e-3, 32, 7),
}
FULL: dict[Kind, Amounts] = {
    "transformer": Amounts("transformer", 40, 8000, 512, 6, 8, 0.3, 7e-4, 64, 40),
    "lstm": Amounts("lstm", 40, 8000, 512, 2, 1, 0.3, 1e-3, 64, 40),
}
"""By model, the default first."""


def settle(config: Config) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    forms = QUICK if config.quick else FULL
    form = forms[config.model] if config.model else next(iter(forms.values()))
    amounts = filled(config, form)
    counts = ("words", "validation", "test", "beams")
    positive = amounts._asdict() | {name: getattr(config, name) for name in counts}
    del positive["dropout"], positive["model"]
    require_positive(positive)
    shares = {name: getattr(config, name) for name in ("label_smoothing", "warmup")}
    require_shares({"dropout": amounts.dropout, **shares})
    for name in ("weight_decay", "length_penalty"):
        if not 0 <= getattr(config, name) < np.inf:
            raise UsageError(
                f"--{name.replace('_', '-')} must be from 0, got {getattr(config, name)}"
            )
    if amounts.model == "transformer" and amounts.features % amounts.heads:
        raise UsageError(f"--heads must divide {amounts.features} features, got {amounts.heads}")
    if amounts.model == "lstm" and amounts.features % 2:
        raise UsageError(f"--features must be even for the lstm, got {amounts.features}")
    require_seed(config.seed)
    return amounts


def main(config: Config) -> int:
    """Split, encode, train, translate, report; returns the exit code."""
    amounts = settle(config)
    config = replace(config, **amounts._asdict())
    pairs = load_pairs(config.data, config.data_folder)
    parts = split(
        pairs, words_at_most=config.words, train_words_at_most=amounts.train_words,
        validation=config.validation, test=config.test, seed=config.seed,
    )  # fmt: skip
    if len(parts.train) < BUCKETS * amounts.batch_size:
        raise UsageError(
            f"--batch-size must be at most a quarter of the {len(parts.train)} training pairs, got "
            f"{amounts.batch_size}"
        )
    vocab = vocabulary.learn(parts.train, amounts.vocabulary)
    rows = {
        name: vocabulary.rows(vocab, getattr(parts, name))
        for name in ("train", "validation", "test")
    }
    longest = max(part[side].shape[1] for part in rows.values() for side in ("source", "target"))
    net = nets.make(
        amounts.model, vocabulary=vocab.size, features=amounts.features, depth=amounts.depth,
        heads=amounts.heads, dropout=amounts.dropout, longest=longest,
    )  # fmt: skip
    data = vocabulary.buckets(rows["train"], BUCKETS)
    shapes = " + ".join(f"{r['source'].shape[1]}/{r['target'].shape[1]}" for r in data)
    print(
        f"{config.data}: {len(parts.train):,} pairs to train on ({parts.left_out} left out for a "
        f"sentence that is held out), {vocab.size:,} tokens, at most "
        f"{shapes} a pair; {amounts.model} with {nets.size(net):,} parameters, "
        f"{sum(steps_of(data, amounts.batch_size))} steps an epoch, on "
        f"{jax.devices()[0].device_kind}"
    )
    training = Training(
        amounts.learning_rate, config.warmup, config.weight_decay, config.label_smoothing,
        amounts.batch_size, amounts.epochs,
    )  # fmt: skip
    opened = open_run(
        config.runs, "translate", config, data=fingerprint(pairs), folder=config.folder,
        resume=config.resume, may_differ={"folder", "resume", "runs", "data_folder"},
    )  # fmt: skip
    with opened as folder:
        trained = fit(
            folder, config, net, training, data, rows["validation"],
            seed=config.seed, resume=config.resume,
        )  # fmt: skip
        # no translation is longer than those that were learned from
        steps = data[-1]["target"].shape[1] - 1
        results = _results(config, parts, vocab, net, trained, rows["test"], steps)
        scores = {name: score._asdict() for name, score in results.scores.items()}
        append_metrics(folder, [{"step": trained.epochs[-1].step, "test": scores}])
        print_results(results)
        print(f"report: {write_report(folder, results)}")
    return 0


def _results(
    config: Config,
    parts: Split,
    vocab: Vocabulary,
    net: Net,
    trained: Trained,
    rows: vocabulary.Rows,
    steps: int,
) -> Results:
    ways = {"greedy decoding": 1, f"beam search, {config.beams} beams": config.beams}
    if config.beams == 1:
        ways = {"greedy decoding": 1}
    translations, seconds = {}, {}
    for name, beams in ways.items():
        translate = scoring.translator(
            net, steps, beams=beams, length_penalty=config.length_penalty
        )
        ids, seconds[name] = translate(trained.params, rows)
        translations[name] = scoring.texts(vocab, ids)
    references = [pair.target for pair in parts.test]
    return Results(
        trained,
        len(parts.train),
        parts.left_out,
        nets.size(net),
        parts.test,
        translations,
        {name: scoring.score(said, references) for name, said in translations.items()},
        seconds,
        _looks(parts, vocab, net, trained.params, rows, ids),
    )


def _looks(
    parts: Split,
    vocab: Vocabulary,
    net: Net,
    params: Params,
    rows: vocabulary.Rows,
    ids: np.ndarray,
) -> list[Looks]:
    """Of the first test pairs of middling length, as they were translated."""
    found = []
    middling = np.argsort(np.abs(rows["length"] - np.median(rows["length"])), kind="stable")
    for index in middling[:MAPS]:
        source = rows["source"][index, : rows["length"][index]]
        said = until_end(ids[index])
        target = jnp.array([BEGIN, *said])
        weights = net.look(params, source, target, jnp.asarray(len(source)))
        written = [*vocab.tokens(said), "[end]"]
        found.append(Looks(parts.test[index], vocab.tokens(source), written, np.asarray(weights)))
    return found
