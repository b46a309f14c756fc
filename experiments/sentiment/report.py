"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import plots
from experiments.data.reviews import CLASSES, Reviews
from experiments.report import (
    Block,
    Code,
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
from experiments.sentiment import pictures
from experiments.sentiment.saliency import Explained
from experiments.sequences import Trained
from experiments.sequences_report import accuracy_line, training_blocks

SHOWN = 10
"""Mistakes in the report."""

EXCERPT = 400
"""Characters of a mistake, from its end."""


class Results(NamedTuple):
    """All that the experiment found."""

    reviews: Reviews
    trained: Trained
    praise: NDArray[np.float64]
    """The probability of praise that the first seed's net gives each test review."""
    explained: Sequence[Explained]


def mistakes(results: Results) -> NDArray[np.intp]:
    """Test reviews that are misread, the surest first."""
    wrong = (results.praise > 0.5) != (results.reviews.test.labels == 1)
    order = np.argsort(-np.abs(results.praise - 0.5), kind="stable")
    misread: NDArray[np.intp] = order[wrong[order]]
    return misread


def _verdict(results: Results, index: int) -> str:
    label = CLASSES[results.reviews.test.labels[index]]
    return f"{label}; probability of praise {results.praise[index]:.3f}"


def _end(text: str) -> str:
    plain = " ".join(text.replace("<br />", " ").split())
    return plain if len(plain) <= EXCERPT else f"… {plain[-EXCERPT:]}"


def print_results(results: Results) -> None:
    """The results on the terminal."""
    trained = results.trained
    print(
        f"{trained.classifier.name}: test accuracy {accuracy_line(trained)}; "
        f"{trained.cpu_seconds:.0f} CPU seconds for all seeds"
    )
    for index in mistakes(results)[:3]:
        print(f"  review {index}: {_verdict(results, index)}")


def write_report(run: Run, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described, trained = read_config(run), results.trained
    summary = (
        f"The {trained.classifier.name} tells praise from blame in {accuracy_line(trained)} of the "
        f"{len(results.praise):,} long reviews it is tested on."
    )
    report = Report(
        title=f"Sentiment of {results.reviews.name}",
        summary=summary,
        facts={
            "mean test accuracy": f"{100 * trained.accuracy.mean():.2f} %",
            "CPU seconds": f"{trained.cpu_seconds:.0f}",
        },
        sections=[
            Section("Training", _training(run, results)),
            Section("The surest mistakes", _mistakes(results)),
            Section("By which words", _words(run, results)),
            Section("Settings", [config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _training(run: Run, results: Results) -> list[Block]:
    note = "The parameters of the epoch of least loss on the reviews held out are kept, and tested."
    confusion = plots.confusion_matrix(
        results.reviews.test.labels, (results.praise > 0.5).astype(int), CLASSES
    )
    return [
        *training_blocks(run, [results.trained], "held out", "test", note),
        saved_picture(
            run,
            "confusion.png",
            confusion,
            f"Test reviews of seed {results.trained.seeds[0]}, every label against every reading.",
        ),
    ]


def _mistakes(results: Results) -> list[Block]:
    rows = [
        (
            int(index),
            CLASSES[results.reviews.test.labels[index]],
            f"{results.praise[index]:.3f}",
            _end(results.reviews.test.texts[index]),
        )
        for index in mistakes(results)[:SHOWN]
    ]
    return [Table(("review", "label", "probability of praise", "how it ends"), rows)]


def _words(run: Run, results: Results) -> list[Block]:
    text = (
        "The gradient of the verdict (the difference of the two logits) with respect to each "
        "word's vector, times that vector: to first order, what the verdict would lose without the "
        "word. Blue speaks for praise, red for blame, each text on a scale of its own. The texts "
        "are as the net reads them: in lower case, without commas, long ones without their middle."
    )
    blocks: list[Block] = [Paragraph(text)]
    for number, (index, words, saliency) in enumerate(results.explained):
        if not words:
            blocks.append(Code("(a review without words)"))
            continue
        figure = pictures.coloured_words(words, saliency)
        caption = f"Review {index}: {_verdict(results, index)}."
        blocks.append(saved_picture(run, f"words-{number}.png", figure, caption))
    return blocks
