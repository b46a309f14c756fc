"""What the sweeps show, as pictures and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset
from experiments.optimizers import pictures
from experiments.optimizers.families import Family
from experiments.optimizers.functions import ARENAS, PLANE, Function
from experiments.optimizers.images import Choice
from experiments.optimizers.pictures import Track
from experiments.optimizers.ranking import TOLERANCE, Best
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

METHOD = (
    "Every optimizer runs at every learning rate of the same grid, {grid}; all else is its "
    "default (but Shampoo takes roots every tenth step, as SOAP does), without weight decay but in "
    "the family of that name. A table shows each at its best "
    "rate: the number of steps until the loss is at most {tolerance:g} for good or, in brackets, "
    "the mean loss of the last tenth of {steps} where it is not. The minimum is 0. On the "
    "noisy function the mean alone counts. An asterisk marks a best rate at an end of the grid: "
    "beyond it there may be a better one. Best rates are chosen by what is shown, so they flatter "
    "every optimizer alike, and steps are not time: see the notes."
)


LEFT_OUT = (
    "optimizers that search along a line, being for losses without noise, and Shampoo and SOAP, "
    "whose decompositions of many matrices at once may hang on a CPU"
)
"""Of the images."""


class FamilyResult(NamedTuple):
    """A family's ways on its functions."""

    family: Family
    tracks: Sequence[Track]
    """With the references; none for a family that is run on images only."""


class ImageResult(NamedTuple):
    """An optimizer on the images, at every rate."""

    name: str
    test: NDArray[np.float64]
    """`[rates]`, the seeds' mean accuracy."""
    diverged: NDArray[np.bool_]
    """`[rates]`"""
    choice: Choice


class Results(NamedTuple):
    """All that the experiment found."""

    rates: NDArray[np.float64]
    families: Sequence[FamilyResult]
    images: Sequence[ImageResult]


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    rates = results.rates
    grid = f"{len(rates)} rates from {rates[0]:g} to {rates[-1]:g}, evenly by logarithm"
    method = METHOD.format(grid=grid, tolerance=TOLERANCE, steps=count(config["steps"], "step"))
    sections = [
        Section("How it is measured", [Paragraph(method), _function_table()]),
        *_at_a_glance(run, results),
        *(_family_section(run, result) for result in results.families if result.tracks),
        *_image_section(run, data, results, config),
        Section("Settings", [config_table(config)]),
    ]
    report = Report(
        title="Optimizers, each at its best learning rate",
        summary=_summary(data, results),
        sections=sections,
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _summary(data: Dataset, results: Results) -> str:
    on_functions = [c for r in results.families if r.tracks for c in r.family.contenders]
    text = (
        f"Optimizers: {len(on_functions) or 'none'} on test functions, "
        f"{len(results.images) or 'none'} on {data.name}."
    )
    if results.images:
        first = max(results.images, key=lambda result: result.choice.held_out)
        text += (
            f" The best on the held-out images, {first.name} at {first.choice.rate:.2g}, names "
            f"{100 * first.choice.test:.2f} % of the test images rightly."
        )
    return text


def count(number: int, noun: str) -> str:
    """`"1 seed"`, `"3 seeds"`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _function_table() -> Table:
    rows = [
        (f.name, f.equation, "0, of all entries" if not f.minima else f"{f.start}")
        for functions in ARENAS.values()
        for f in functions
    ]
    return Table(("function", "loss", "start"), rows)


def best_text(best: Best) -> str:
    """As in the tables: steps or (late mean), and the rate."""
    result = f"({best.late:.1e})" if best.steps is None else f"{best.steps}"
    return f"{result} at {best.rate:.2g}{'*' if best.at_edge else ''}"


def _at_a_glance(run: Run, results: Results) -> list[Section]:
    tracks = [t for r in results.families if r.family.arena == "plane" for t in r.tracks]
    if not tracks:
        return []
    picture = saved_picture(
        run,
        "arrivals.png",
        pictures.arrivals(PLANE, tracks),
        f"Steps until the loss is at most {TOLERANCE:g} for good, at each optimizer's best rate "
        "for each function, darker where fewer; in italics, where it does not arrive, the mean "
        "loss at the end.",
    )
    return [Section("At a glance", [picture])]


def _family_section(run: Run, result: FamilyResult) -> Section:
    family, tracks = result
    functions = ARENAS[family.arena]
    figure, caption = _family_figure(functions, tracks)
    rows = [(track.name, *map(best_text, track.best)) for track in tracks]
    blocks: list[Block] = [
        saved_picture(run, f"{family.name}.png", figure, caption),
        Table(("optimizer", *(function.name for function in functions)), rows),
    ]
    notes = [f"{c.name}: {c.note}" for c in family.contenders if c.note]
    if notes:
        blocks.append(Paragraph(f"A step takes, beside one gradient: {'; '.join(notes)}."))
    return Section(family.title, blocks)


def _family_figure(functions: Sequence[Function], tracks: Sequence[Track]) -> tuple[Any, str]:
    if len(functions) == 1:
        return (
            pictures.convergence(functions[0], tracks),
            "The loss at each optimizer's best rate; dotted, the tolerance.",
        )
    return (
        pictures.trajectories(functions, tracks),
        "From the same start (dot) to a minimum (star), each at its best rate, until it has "
        "arrived for good.",
    )


def _image_section(
    run: Run, data: Dataset, results: Results, config: dict[str, Any]
) -> list[Section]:
    found = results.images
    if not found:
        return [
            Section(
                f"On {data.name}",
                [Paragraph(f"None of these optimizers was run there. Left out: {LEFT_OUT}.")],
            )
        ]
    seeds = count(config["seeds"], "seed")
    text = (
        f"An MLP with {count(config['hidden'], 'hidden unit')}, "
        f"{count(config['epochs'], 'epoch')} of batches of {config['batch_size']}, at a fixed "
        "rate; a seed has the same initial weights and batches under every optimizer and rate. A "
        "fifth of the training images is held out, and chooses "
        "each optimizer's rate; the test images choose nothing. A cross marks where, for any seed, "
        "the mean training loss of the last epoch is above that of guessing, or not a number. "
        f"Left out: {LEFT_OUT}."
    )
    picture = saved_picture(
        run,
        "accuracies.png",
        pictures.accuracies(
            [result.name for result in found],
            results.rates,
            np.array([result.test for result in found]),
            np.array([result.diverged for result in found]),
            [result.choice.rate_index for result in found],
        ),
        f"Mean test accuracy (%) of {seeds}; framed, the rate that the held-out images choose; "
        "×, no better than guessing: diverged, or too slow.",
    )
    rows = [
        (
            result.name,
            f"{result.choice.rate:.2g}{'*' if result.choice.at_edge else ''}",
            f"{100 * result.choice.held_out:.2f} %",
            f"{100 * result.choice.test:.2f} %",
            int(result.diverged.sum()),
        )
        for result in found
    ]
    table = Table(
        (
            "optimizer",
            "chosen rate",
            "held-out accuracy",
            "test accuracy",
            "rates no better than guessing",
        ),
        rows,
        f"Means of {seeds}. An asterisk: at an end of the grid.",
    )
    return [Section(f"On {data.name}", [Paragraph(text), picture, table])]
