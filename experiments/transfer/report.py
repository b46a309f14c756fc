"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.report import (
    Block,
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
from experiments.transfer import pictures
from experiments.transfer.base import Base
from experiments.transfer.held_out import Learned
from experiments.transfer.labels import shared
from experiments.transfer.results import (
    FROZEN,
    SCRATCH,
    TO_THE_END,
    Found,
    beside,
    declined,
    said,
    settled,
    values,
)

Rows = tuple[list[str], list[list[str]]]
"""The header, and a row for each number of labels."""


def spread(results: Sequence[Learned]) -> str:
    """Mean and range of accuracies, in percent."""
    percent = [100 * accuracy for accuracy in values(results, "accuracy")]
    mean = f"{float(np.mean(percent)):.1f}"
    return mean if len(percent) == 1 else f"{mean} ({min(percent):.1f} to {max(percent):.1f})"


def mean_of(field: str, digits: int) -> Callable[[Sequence[Learned]], str]:
    """Of a number, over seeds."""
    return lambda results: f"{float(np.mean(values(results, field))):.{digits}f}"


def table_of(found: Found, cell: Callable[[Sequence[Learned]], str]) -> Rows:
    """Each method's results with each number of labels."""
    counts = sorted({n for by_labels in found.values() for n in by_labels})
    rows = [[f"{n:,}", *(cell(by[n]) if n in by else "–" for by in found.values())] for n in counts]
    return ["labels", *found], rows


def tuned(found: Found) -> list[str]:
    """The methods that start from the frozen base and go on."""
    return [name.removesuffix(f", {TO_THE_END}") for name in found if name.endswith(TO_THE_END)]


def comparisons(found: Found) -> Rows:
    """Points above the frozen base, and the frozen base above the net from scratch, by seed."""
    names = [part for name in tuned(found) for part in (name, f"{name}, {TO_THE_END}")]
    pairs = [(FROZEN, SCRATCH), *((name, FROZEN) for name in names)]
    judged = {f"{method} less {other}": beside(found, method, other) for method, other in pairs}
    counts = sorted(found[FROZEN])
    rows = [
        [f"{n:,}", *(said(by[n]) if n in by else "–" for by in judged.values())] for n in counts
    ]
    return ["labels", *judged], rows


def verdict(found: Found) -> str:
    """What the seeds decide, in sentences."""
    header, rows = comparisons(found)
    sentences = []
    for i, name in enumerate(header[1:], 1):
        told = "; ".join(f"with {row[0]} labels {row[i]}" for row in rows if row[i] != "–")
        sentences.append(f"{name[0].upper()}{name[1:]}, in points of accuracy: {told}.")
    return " ".join(sentences)


def warning(base: Base, found: Found) -> str:
    """Where seeds are no fresh draws, as their labels are most of the pool; empty where nowhere."""
    n_classes = len(base.classes)
    shares = {n: shared(base.train_y, n, n_classes) for n in sorted(found[FROZEN])}
    near = [f"{100 * share:.0f} % of {n:,}" for n, share in shares.items() if share > 0.5]
    if not near:
        return ""
    return (
        f"Two seeds have {', '.join(near)} labels in common, as these are most of the pool: there "
        "ranges and intervals understate what other examples would change."
    )


def print_results(base: Base, found: Found) -> None:
    """The results on the terminal."""
    print(f"{base.name}: test accuracy (%) of {len(base.test_y):,} examples, mean and range")
    _print(table_of(found, spread))
    print("their mean loss (nats)")
    _print(table_of(found, mean_of("loss", 2)))
    print("what held-out labels chose (in how many runs), or was fixed where they were too few")
    _print(table_of(_curves(found), settled))
    print("in how many runs the held-out labels chose not to tune")
    _print(table_of({name: found[name] for name in tuned(found)}, declined))
    print("seconds of a run, the choice included")
    _print(table_of(found, mean_of("seconds", 1)))
    print(verdict(found))
    if warned := warning(base, found):
        print(warned)


def _print(table: Rows) -> None:
    lines = [table[0], *table[1]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _curves(found: Found) -> Found:
    return {name: by for name, by in found.items() if not name.endswith(TO_THE_END)}


def write_report(run: Run, base: Base, found: Found) -> Path:
    """The picture as a PNG file and `report.html`; returns the report's path."""
    described = read_config(run)
    text = (
        f"{base.about}\n\n"
        "Frozen: logistic regression on the base's features, which are computed once. Its "
        "penalty, and whether it sees what the base's own head does or all levels (the average "
        "over space after each block's depthwise convolution too), is chosen by the loss of "
        "labels held out in five folds, or one fold of more than 1,000 labels. The tuned methods "
        "begin with that head on the same features, keep its penalty, and choose their rate and a "
        "third of ten epochs' steps, two thirds, all or none of them by a fifth of the labels (by "
        "its loss at the best temperature), before they learn from all. For that choice the head "
        "is another one, its penalty and its features chosen without that fifth, by folds of the "
        "other four: not to tune is an alternative as new to the fifth as any. Beside it stands "
        "what comes of all steps at that rate, even where none was the choice. The net from "
        "scratch chooses alike, but never none, and is given more steps. With fewer than 40 "
        "labels, or 5 of a class, nothing is chosen: a setting that was fixed before is taken. "
        "Each seed draws its own labelled examples, as many of each class, from the same pool; all "
        "are tested on the same examples, by which nothing is chosen."
    )
    most = np.bincount(base.test_y).max() / len(base.test_y)
    blocks: list[Block] = [
        Paragraph(text),
        saved_picture(
            run, "labels.png", pictures.learning_curves(_curves(found)),
            "Lines are means, dots are seeds with their range. By chance it would be "
                f"{100 / len(base.classes):.0f} %, and {100 * most:.0f} % if all were said to be "
                "of the largest class.",
        ),
        Table(
            *table_of(found, spread),
            f"Test accuracy in percent: mean, and range over seeds. {warning(base, found)}".strip(),
        ),
        Table(
            *comparisons(found),
            "Differences in points, by seed, with their 95 % intervals (Student's t), and whether "
            "the first is more accurate; half a point is the least that counts.",
        ),
        Table(*table_of(found, mean_of("loss", 2)), "Mean test loss, in nats."),
        Table(
            *table_of(_curves(found), settled),
            "What the held-out labels chose, and in how many runs; or what was fixed before, where "
            "labels were too few to hold some out.",
        ),
    ]  # fmt: skip
    if tuned(found):
        chosen = {name: found[name] for name in tuned(found)}
        caption = "In how many runs the held-out labels chose not to tune."
        blocks.append(Table(*table_of(chosen, declined), caption))
    caption = (
        "Seconds of a run, mean over seeds: choice, learning and test, and compilation in the "
        "first. The base's features are there already."
    )
    blocks.append(Table(*table_of(found, mean_of("seconds", 1)), caption))
    report = Report(
        title=f"Transfer to {base.name}",
        summary=verdict(found),
        sections=[
            Section("What labels are worth", blocks),
            Section("Settings", [config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))
