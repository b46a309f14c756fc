"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
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
from experiments.transfer.pictures import Accuracies


def spread(values: Sequence[float]) -> str:
    """Mean and range, in percent."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def table_of(found: Accuracies) -> tuple[list[str], list[list[str]]]:
    """The header, and a row for each number of labels."""
    header = ["labels", *found]
    counts = sorted({n for by_labels in found.values() for n in by_labels})
    rows = [
        [f"{n:,}", *(spread(by[n]) if n in by else "–" for by in found.values())] for n in counts
    ]
    return header, rows


def verdict(found: Accuracies) -> str:
    """By how many points the frozen base is above the net from scratch, at each number of labels.

    With features of those depths that held-out labels chose, where there is a choice.
    """
    scratch = found["scratch"]
    frozen = found.get("frozen, chosen", found["frozen, last level"])
    gains = {n: 100 * float(np.mean(frozen[n]) - np.mean(scratch[n])) for n in sorted(scratch)}
    told = ", ".join(f"{gain:+.1f} with {n:,}" for n, gain in gains.items())
    return f"The frozen base is above the net from scratch by {told} labels (points)."


def print_results(base: Base, found: Accuracies, seconds: Mapping[str, float]) -> None:
    """The results on the terminal."""
    header, rows = table_of(found)
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(f"{base.name}: test accuracy (%) of {len(base.test_y):,} examples, mean and range")
    for row in (header, *rows):
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print("seconds of a run: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items()))
    print(verdict(found))


def write_report(run: Run, base: Base, found: Accuracies, seconds: Mapping[str, float]) -> Path:
    """The picture as a PNG file and `report.html`; returns the report's path."""
    described = read_config(run)
    header, rows = table_of(found)
    text = (
        f"{base.about}\n\n"
        "Frozen: logistic regression on the base's features, which are computed once. The base's "
        "own head sees the last ones; those of all levels, the average over space after each "
        "block's depthwise convolution, know more of what the base was not trained on. A fifth of "
        "the labels chooses between them, and the strength of the penalty. Both tuned "
        "methods begin with the head that logistic regression found on the last features. Each "
        "seed draws its own labelled examples, as many of each class, from the same pool; all are "
        "tested on the same examples."
    )
    blocks: list[Block] = [
        Paragraph(text),
        saved_picture(
            run, "labels.png", pictures.learning_curves(found),
            "Lines are means, dots are seeds with their range. By chance it would be "
                f"{100 / len(base.classes):.0f} %.",
        ),
        Table(header, rows, "Test accuracy in percent: mean, and range over seeds."),
        Table(
            ("method", "seconds"), [(name, f"{s:.1f}") for name, s in seconds.items()],
            "Of one run, its mean, without compiling where that was done before; the base's "
            "features are there already.",
        ),
    ]  # fmt: skip
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
