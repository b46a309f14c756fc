"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.claims.verdict import Arm, Comparison, Judged, judge
from experiments.data import Dataset
from experiments.forgetting import pictures
from experiments.forgetting.methods import Method, at_an_end
from experiments.forgetting.tasks import PROTOCOLS, Protocol
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
from jaxnets import train

HALF = 0.5
"""A method halves forgetting if it forgets less than so much of what plain training does, by the
same seeds, and the 95 % interval of the difference says so."""
LEAST_FORGOTTEN = 0.05
"""By plain training, for there to be something to halve."""


class Found(NamedTuple):
    """One protocol's results."""

    protocol: Protocol
    names: Sequence[str]
    """Of the tasks of the first seed."""
    chance: float
    seeds: Sequence[int]
    chosen: Mapping[str, Method]
    matrices: Mapping[str, NDArray[np.float32]]
    """By method, `[seeds, T, T]`, on the test images."""


def lost(found: Found) -> dict[str, NDArray[np.float32]]:
    """By method, of each seed."""
    return {name: np.asarray(train.forgetting(m)) for name, m in found.matrices.items()}


def kept(found: Found) -> dict[str, NDArray[np.float32]]:
    """By method, the average accuracy of each seed."""
    return {name: np.asarray(train.average_accuracy(m)) for name, m in found.matrices.items()}


def spread(values: NDArray[np.float32]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    if len(values) == 1:
        return f"{100 * values.mean():.1f}"
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"


def strength_of(method: Method) -> str:
    """The number that was chosen."""
    plain = Method()
    words = {"rate": "rate × {:g}", "l2": "λ = {:g}", "ewc": "λ = {:g}", "replay": "as often"}
    changed = [
        words[name].format(float(np.asarray(value)))
        for name, value in method._asdict().items()
        if value != getattr(plain, name)
    ]
    return ", ".join(changed) or "–"


def halving(found: Found) -> dict[str, Judged]:
    """Of each method, whether it forgets less than half of what plain training does; empty where
    that hardly forgets.
    """
    by_method = lost(found)
    naive = np.asarray(by_method.pop("naive"))
    if naive.mean() < LEAST_FORGOTTEN:
        return {}
    # not as a ratio, since some seeds may forget nothing, or less
    half = Arm("half of naive", HALF * naive)
    return {
        name: judge(Comparison("", "forgetting", Arm(name, values), half, "less", 0.0))
        for name, values in by_method.items()
    }


def ends(found: Found) -> list[str]:
    """The methods whose strength was chosen at an end of what was tried."""
    return [name for name, chosen in found.chosen.items() if at_an_end(name, chosen)]


def rows_of(found: Found) -> list[tuple[str, ...]]:
    """Method, its strength, average accuracy, forgetting, backward transfer."""
    marked = ends(found)
    return [
        (
            name, strength_of(found.chosen[name]) + "*" * (name in marked),
            spread(kept(found)[name]), spread(lost(found)[name]),
            spread(np.asarray(train.backward_transfer(matrix))),
        )
        for name, matrix in found.matrices.items()
    ]  # fmt: skip


def print_results(data: Dataset, results: Sequence[Found]) -> None:
    """The results on the terminal."""
    for found in results:
        print(f"{data.name}: {PROTOCOLS[found.protocol]}; {len(found.seeds)} seeds")
        print(
            f"  {'':<12} {'strength':<12} {'accuracy %':<14} {'forgetting':<14} backward transfer"
        )
        for name, strength, *numbers in rows_of(found):
            print(f"  {name:<12} {strength:<12} {numbers[0]:<14} {numbers[1]:<14} {numbers[2]}")
        print(f"  {verdict(found)}")


def verdict(found: Found) -> str:
    """Which methods halve forgetting, which do not, and which the seeds do not decide."""
    judged = halving(found)
    means = {name: 100 * float(values.mean()) for name, values in lost(found).items()}
    right = {name: 100 * float(values.mean()) for name, values in kept(found).items()}
    parts = [
        f"Plain training forgets {means['naive']:.1f} points, and is {right['naive']:.0f} % right "
        "in the end"
    ]
    if not judged:
        parts.append("that is too little to ask what halves it")
    for as_claimed, words in (
        (True, "less than half as much is forgotten with"),
        (False, "more than half with"),
        (None, f"{len(found.seeds)} seeds do not decide of"),
    ):
        # little is forgotten by what has learned little, too
        told = [
            f"{name} ({means[name]:.1f}, and {right[name]:.0f} % right)"
            for name, one in judged.items()
            if one.as_claimed is as_claimed
        ]
        if told:
            parts.append(f"{words} {', '.join(told)}")
    at_end = ends(found)
    edge = (
        " At an end of the strengths tried, beyond which a better one may lie, was that of "
        f"{', '.join(at_end)}."
        if at_end
        else ""
    )
    return "; ".join(parts) + "." + edge


def write_report(run: Run, data: Dataset, results: Sequence[Found]) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    text = (
        "A net learns tasks one after the other and never sees an earlier task's images again, but "
        "for those that replay keeps. R[i, j] is the accuracy on task j after training on task i; "
        "forgetting is how far the last row lies below the best that each earlier task had, on "
        "average (Chaudhry et al., 2018), and backward transfer how far above the diagonal: "
        "negative where tasks got worse (Lopez-Paz and Ranzato, 2017).\n\n"
        "Lower rate: smaller steps from the second task on. L2 to start: λ/2 Σ (θ - θ*)², where "
        "θ* is where the last task ended. EWC: the same weighted by the diagonal of the Fisher "
        "information of all earlier tasks, of labels that the net itself draws. Replay: a "
        "reservoir of earlier examples, as many in each batch as of the task's own. Strengths "
        "were chosen on five other seeds, by the average accuracy on training images that were "
        "held out for it; the test images and the seeds below had no part in that. An asterisk "
        "marks one at an end of those tried. A method halves forgetting if the 95 % interval "
        "(Student's t, by seed) of what it forgets less half of what plain training forgets is "
        f"below 0; that is asked only where plain training forgets {100 * LEAST_FORGOTTEN:g} "
        "points or more."
    )
    summary = " ".join(
        f"{found.protocol.capitalize()} ({PROTOCOLS[found.protocol]}): {verdict(found)}"
        for found in results
    )
    report = Report(
        title=f"Forgetting on {data.name}",
        summary=summary,
        sections=[
            Section("What is measured", [Paragraph(text)]),
            *(_section(run, found) for found in results),
            Section("Settings", [config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _section(run: Run, found: Found) -> Section:
    caption = f"Mean of {len(found.seeds)} seeds, in percent"
    name = found.protocol
    blocks: list[Block] = [
        Paragraph(verdict(found)),
        Table(
            ("method", "strength", "average accuracy (%)", "forgetting (points)",
             "backward transfer (points)"),
            rows_of(found),
            f"Mean and standard deviation over {len(found.seeds)} seeds, all run at once by vmap.",
        ),
        saved_picture(
            run, f"{name}-matrices.png",
            pictures.heat_maps(found.matrices, found.names, found.chance),
            f"{caption}. Down a column: what becomes of a task as others follow; white: not "
            "learned yet.",
        ),
        saved_picture(
            run, f"{name}-figures.png", pictures.figures(kept(found), lost(found)),
            "Bars are means, dots are seeds.",
        ),
        saved_picture(
            run, f"{name}-first.png", pictures.first_task(found.matrices, found.names),
            "Mean over seeds, and their range.",
        ),
    ]  # fmt: skip
    return Section(f"{name.capitalize()}: {PROTOCOLS[name]}", blocks)
