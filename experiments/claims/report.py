"""What the claims show: on the terminal, and in their page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files
from experiments.claims.claim import Outcome, Tested
from experiments.claims.verdict import CONFIDENCE, Judged, Verdict, effect_text, verdict
from experiments.report import (
    Block,
    Contents,
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

EXPECTED = {
    "less": "less",
    "more": "more",
    "same": "no different",
    "not less": "no less",
    "not more": "no more",
}


class Examined(NamedTuple):
    """A claim and what its experiment gave."""

    name: str
    title: str
    settings: Any
    """The frozen dataclass that its experiment is a function of."""
    outcome: Outcome
    seconds: float
    cpu_seconds: float


def verdicts(examined: Examined) -> list[tuple[Tested, Verdict]]:
    """Of each sentence."""
    return [(tested, verdict(tested.comparisons)) for tested in examined.outcome.tested]


def print_verdicts(examined: Examined) -> None:
    """On the terminal."""
    print(f"{examined.title} ({examined.name}, {examined.seconds:.0f} s)")
    for tested, found in verdicts(examined):
        print(f"  {found.word}: {tested.sentence}")
        if found.conditions:
            print(f"    {found.conditions}")


def records(examined: Examined) -> Iterator[dict[str, Any]]:
    """A line of metrics for each comparison."""
    for tested, found in verdicts(examined):
        for judged in found.judged:
            c = judged.comparison
            yield {
                "claim": examined.name,
                "sentence": tested.sentence,
                "verdict": found.word,
                "condition": c.condition,
                "quantity": c.quantity,
                "treated": {c.treated.name: list(map(float, c.treated.values))},  # type: ignore[arg-type]
                "control": {c.control.name: list(map(float, c.control.values))},  # type: ignore[arg-type]
                "expected": c.expected,
                "margin": c.margin,
                "effect": judged.effect,
                "interval": [judged.low, judged.high],
                "ratio": c.ratio,
                "as_claimed": judged.as_claimed,
                "seconds": examined.seconds,
            }


def write_report(run: Run, config: Any, examined: Sequence[Examined]) -> Path:
    """`report.html` in the run's folder, and the pictures in it as files. Returns its path."""
    described = read_config(run)
    all_verdicts = [found for e in examined for _, found in verdicts(e)]
    counts = {
        word: sum(found.word == word for found in all_verdicts)
        for word in ("holds", "holds only", "does not hold", "undecided")
    }
    report = Report(
        title="What is said of training, tested",
        summary=(
            f"{len(all_verdicts)} sentences, each by {config.seeds} seeds: {counts['holds']} hold, "
            f"{counts['holds only']} hold under some conditions, "
            f"{counts['does not hold']} do not hold here, {counts['undecided']} these seeds do not "
            "decide."
        ),
        facts={
            "hold": counts["holds"],
            "hold only when …": counts["holds only"],
            "do not hold": counts["does not hold"],
            "undecided": counts["undecided"],
            "minutes": round(sum(e.seconds for e in examined) / 60, 1),
        },
        sections=[
            Section("Contents", [Contents(["Verdicts", *(e.title for e in examined), "Method"])]),
            Section("Verdicts", [_overview(examined)]),
            *(Section(e.title, _blocks(run, e)) for e in examined),
            Section("Method", [Paragraph(_METHOD), config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


_METHOD = f"""\
A sentence is tested by comparisons: a quantity with and without what the sentence speaks of, by \
the same seeds, which draw initial weights, batches and dropout. The effect is the mean over seeds \
of treated minus control, or of their ratio (the geometric mean, written ×) where a quantity spans \
decades; in brackets its {CONFIDENCE:.0%} interval by Student's t. A comparison comes out as \
claimed if the interval excludes no effect and the mean is at least the margin; as "no different", \
if the whole interval lies within the margin. It does not, if the interval excludes what was \
claimed; else the seeds do not decide. Margins were set before the runs; intervals are each \
comparison's own, not corrected for how many there are.

A sentence holds if all its comparisons come out as claimed, and holds only under the conditions \
named if some do; if none does, it does not hold, or, where no comparison speaks against it, is \
undecided. A verdict is about these nets and data: small ones, of \
which many seeds can be run."""


def _overview(examined: Sequence[Examined]) -> Table:
    rows = [
        (e.title, tested.sentence, str(found), _strongest(found))
        for e in examined
        for tested, found in verdicts(e)
    ]
    return Table(
        ("claim", "sentence", "verdict", "effect"),
        rows,
        "The effect is that of the sentence's first comparison; all are in its section.",
    )


def _strongest(found: Verdict) -> str:
    first = found.judged[0]
    return f"{first.comparison.quantity}: {effect_text(first)}"


def _blocks(run: Run, examined: Examined) -> list[Block]:
    blocks: list[Block] = [Paragraph(examined.outcome.setting)]
    for tested, found in verdicts(examined):
        blocks.append(Paragraph(f"“{tested.sentence}” {str(found).capitalize()}."))
        blocks.append(_comparisons(found.judged))
    for number, seen in enumerate(examined.outcome.seen, 1):
        name = f"{examined.name}_{number}.png"
        blocks.append(saved_picture(run, name, seen.figure, seen.caption))
    if examined.outcome.notes:
        blocks.append(Paragraph(examined.outcome.notes))
    blocks.append(config_table(files.plain(examined.settings), _cost(examined)))
    return blocks


def _cost(examined: Examined) -> str:
    return f"{examined.seconds:.0f} s, {examined.cpu_seconds:.0f} CPU seconds, all seeds."


def _comparisons(judged: Sequence[Judged]) -> Table:
    rows = [
        (
            c.condition,
            c.quantity,
            f"{c.treated.name}: {_typical(j, 'treated')}",
            f"{c.control.name}: {_typical(j, 'control')}",
            effect_text(j),
            f"{EXPECTED[c.expected]}, {'×' if c.ratio else ''}{c.margin:g}",
            {True: "yes", False: "no", None: "undecided"}[j.as_claimed],
        )
        for j in judged
        for c in [j.comparison]
    ]
    header = ("where", "quantity", "treated", "control", "effect", "claimed, margin", "so?")
    return Table(header, rows)


def _typical(judged: Judged, arm: str) -> str:
    import numpy as np

    values = np.asarray(getattr(judged.comparison, arm).values, np.float64)
    mean = np.exp(np.mean(np.log(values))) if judged.comparison.ratio else np.mean(values)
    return f"{mean:.3g}"
