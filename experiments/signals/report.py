"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import plots
from experiments.data.signals import Signals, Split
from experiments.report import (
    Block,
    Paragraph,
    Report,
    Section,
    config_table,
    render,
    saved_picture,
    versions_line,
)
from experiments.run import Run, read_config, write_text
from experiments.sequences import Trained
from experiments.sequences_report import accuracy_line, training_blocks
from experiments.signals import pictures
from experiments.signals.nets import Recipe


class Examined(NamedTuple):
    """What the first seed's net makes of each signal that is tested on."""

    predictions: NDArray[np.intp]
    norms: NDArray[np.float32]
    """`‖∇loss‖` of each alone."""


class Results(NamedTuple):
    """All that the experiment found."""

    signals: Signals
    tested: Split
    """As they are stored."""
    trained: Sequence[Trained]
    examined: Sequence[Examined]


def tested_on(config: Any) -> str:
    """What to call what is tested on."""
    return "validation" if config.validate else "test"


def print_results(results: Results, config: Any) -> None:
    """The results on the terminal."""
    for trained, examined in zip(results.trained, results.examined, strict=True):
        print(
            f"{trained.classifier.name}: {tested_on(config)} accuracy {accuracy_line(trained)}; "
            f"{trained.cpu_seconds:.0f} CPU seconds for all seeds"
        )
        classes = results.signals.classes
        for index in plots.hardest_first(examined.norms)[:3]:
            label, said = results.tested.y[index], examined.predictions[index]
            print(
                f"  signal {index}: class {classes[label]}, read as {classes[said]}, "
                f"gradient norm {examined.norms[index]:.3g}"
            )


def write_report(run: Run, config: Any, recipes: Mapping[str, Recipe], results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    signals, tested = results.signals, tested_on(config)
    summary = " ".join(
        f"The {t.classifier.name} names the class of {accuracy_line(t)} of the "
        f"{len(results.tested.y):,} {tested} signals rightly."
        for t in results.trained
    )
    note = "" if config.validate else "In this run nothing is chosen by the test signals."
    settings = {**described["config"], **{m: r._asdict() for m, r in recipes.items()}}
    report = Report(
        title=f"Classes of signals: {signals.name}",
        summary=summary,
        facts={
            **{t.classifier.name: f"{100 * t.accuracy.mean():.2f} %" for t in results.trained},
            "CPU seconds": f"{sum(t.cpu_seconds for t in results.trained):.0f}",
        },
        sections=[
            Section("The signals", [_signals(run, signals)]),
            Section("Training", training_blocks(run, results.trained, tested, tested, note)),
            *(
                Section(f"The {t.classifier.name}", _net(run, model, t, examined, results, tested))
                for model, t, examined in zip(
                    recipes, results.trained, results.examined, strict=True
                )
            ),
            Section("Settings", [config_table(settings)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _signals(run: Run, signals: Signals) -> Block:
    figure = pictures.examples(signals.train, signals.classes)
    caption = "A row for each class: the first training signals of it, a line for each channel."
    return saved_picture(run, "signals.png", figure, caption)


def _net(
    run: Run, model: str, trained: Trained, examined: Examined, results: Results, tested: str
) -> list[Block]:
    predictions, norms = examined
    signals, classes = results.tested, results.signals.classes
    hardest = pictures.hardest(signals, predictions, norms, classes)
    spread = plots.gradient_norms(norms, signals.y, classes)
    confusion = plots.confusion_matrix(signals.y, predictions, classes)
    text = (
        f"Of seed {trained.seeds[0]}. Each {tested} signal has a gradient of its own: how the net "
        "would have to change for that signal alone. Its norm is large where the net is wrong or "
        "unsure."
    )
    return [
        Paragraph(text),
        saved_picture(
            run, f"confusion-{model}.png", confusion, "Every label against every reading."
        ),
        saved_picture(
            run,
            f"hardest-{model}.png",
            hardest,
            f"The {tested} signals of largest gradient norm: class → reading, norm; wrong readings "
            "in red.",
        ),
        saved_picture(run, f"norms-{model}.png", spread, "Gradient norms by class."),
    ]
