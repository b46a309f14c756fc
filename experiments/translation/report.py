"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.report import (
    Paragraph,
    Report,
    Section,
    Table,
    config_table,
    render,
    saved_picture,
    versions_line,
)
from experiments.run import Run, read_config, write_text
from experiments.translation import pictures
from experiments.translation.pairs import Pair
from experiments.translation.scoring import Score
from experiments.translation.training import Trained

SHOWN = 24
"""Held-out pairs whose translations are shown."""


class Looks(NamedTuple):
    """What the net looks at as it writes one translation."""

    pair: Pair
    source: Sequence[str]
    target: Sequence[str]
    weights: NDArray[np.float32]


class Results(NamedTuple):
    """All that the experiment found."""

    trained: Trained
    pairs: int
    """Trained on."""
    left_out: int
    """Not trained on for a sentence that is held out."""
    parameters: int
    test: Sequence[Pair]
    translations: Mapping[str, Sequence[str]]
    """Of the test pairs, by way of decoding; the last way is the one that is shown."""
    scores: Mapping[str, Score]
    decoding_seconds: Mapping[str, float]
    """Of all test pairs, without compilation."""
    looks: Sequence[Looks]


def print_results(results: Results) -> None:
    """The results on the terminal."""
    trained = results.trained
    best = trained.epochs[trained.best]
    print(
        f"validation: {best.held_out:.3f} nats a token, perplexity {np.exp(best.held_out):.1f}, in "
        f"epoch {trained.best + 1} of {len(trained.epochs)}; trained in {trained.seconds:.0f} s "
        f"({trained.cpu_seconds:.0f} s of CPU)"
    )
    for name, score in results.scores.items():
        print(
            f"{name}: BLEU {score.bleu:.2f}, chrF {score.chrf:.1f} on {len(results.test)} held-out "
            f"pairs (decoded in {results.decoding_seconds[name]:.1f} s)"
        )
    shown = list(results.translations)[-1]
    for pair, said in list(zip(results.test, results.translations[shown], strict=True))[:5]:
        print(f"  {pair.source}\n    = {pair.target}\n    → {said}")


def write_report(run: Run, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    name, score = list(results.scores.items())[-1]
    summary = (
        f"Trained on {results.pairs:,} sentences and their translations, a {config['model']} with "
        f"{results.parameters:,} parameters translates {len(results.test):,} others with a BLEU of "
        f"{score.bleu:.1f} ({name})."
    )
    report = Report(
        title=f"Translation: {Path(config['data']).stem}",
        summary=summary,
        facts={
            "BLEU": f"{score.bleu:.1f}",
            "chrF": f"{score.chrf:.1f}",
            "seconds of training": f"{results.trained.seconds:.0f}",
            "of CPU": f"{results.trained.cpu_seconds:.0f}",
        },
        sections=[
            _scores(results),
            _translations(results),
            _looks(run, config, results),
            _learning(run, results),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _scores(results: Results) -> Section:
    rows = [
        (name, f"{score.bleu:.2f}", f"{score.chrf:.1f}", f"{results.decoding_seconds[name]:.1f}")
        for name, score in results.scores.items()
    ]
    signature = next(iter(results.scores.values())).signature
    text = (
        "Corpus BLEU is the geometric mean of the shares of runs of one to four words that the "
        "reference has too, times a penalty for being short; chrF counts runs of letters. Each "
        "sentence has one reference, and a translation that words the same otherwise loses by it. "
        "Seconds are of decoding all of them, compilation left out. "
        "The test pairs were neither trained on nor looked at before the end. No sentence of "
        "theirs, on either side, is among those that were, case, punctuation and spacing aside; "
        "pairs left out of those to train on for a sentence that is held out: "
        f"{results.left_out:,}."
    )
    caption = f"{len(results.test):,} held-out pairs; sacrebleu {signature}."
    return Section(
        "How good", [Paragraph(text), Table(("", "BLEU", "chrF", "seconds"), rows, caption)]
    )


def _translations(results: Results) -> Section:
    name, said = list(results.translations.items())[-1]
    rows = [
        (pair.source, pair.target, text)
        for pair, text in list(zip(results.test, said, strict=True))[:SHOWN]
    ]
    table = Table(
        ("sentence", "reference", "translation"),
        rows,
        f"The first of the test pairs, which are in random order; decoded by {name}.",
    )
    return Section("Translations", [table])


def _looks(run: Run, config: Mapping[str, Any], results: Results) -> Section:
    where = (
        "the last block, mean over its heads" if config["model"] == "transformer" else "each step"
    )
    text = (
        "Each row is a token of the translation as it is about to be written, each column one of "
        "the sentence: the darker, the more it is looked at."
    )
    found = [
        saved_picture(
            run,
            f"attention-{index}.png",
            pictures.attention(looks.weights, looks.source, looks.target),
            f"Attention of {where}. “{looks.pair.source}” The reference: “{looks.pair.target}”",
        )
        for index, looks in enumerate(results.looks)
    ]
    return Section("What it looks at", [Paragraph(text), *found])


def _learning(run: Run, results: Results) -> Section:
    trained = results.trained
    figure = pictures.learning(trained.epochs, trained.best)
    caption = (
        "Cross-entropy by epoch: in training with dropout and smoothed labels, on the validation "
        "pairs without either. Dotted: the epoch whose parameters were kept, the best on the "
        "validation pairs."
    )
    return Section("Learning", [saved_picture(run, "learning.png", figure, caption)])
