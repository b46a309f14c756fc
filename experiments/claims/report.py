"""What the claims show: on the terminal, and in their page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from experiments import files
from experiments.claims.claim import Outcome, Tested
from experiments.claims.method import METHOD
from experiments.claims.verdict import (
    Answer,
    Arm,
    Judged,
    Verdict,
    Word,
    answer,
    effect_text,
    margin_text,
    verdict,
)
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
    full: Any
    """The same of its full form: itself, unless the run is a quick one."""
    outcome: Outcome
    seconds: float
    cpu_seconds: float


def verdicts(examined: Examined) -> list[tuple[Tested, Verdict]]:
    """Of each sentence."""
    return [
        (
            tested,
            Verdict("untested", tested.why, []) if tested.why else verdict(tested.comparisons),
        )
        for tested in examined.outcome.tested
    ]


def print_verdicts(examined: Examined) -> None:
    """On the terminal."""
    print(f"{examined.title} ({examined.name}, {examined.seconds:.0f} s)")
    for tested, found in verdicts(examined):
        print(f"  {found.word}: {tested.sentence}")
        for line in filter(None, (found.conditions, strongest(found))):
            print(f"    {line}")


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
                "weakly": judged.weakly,
                "seconds": examined.seconds,
            }
        if not found.judged:
            yield {
                "claim": examined.name,
                "sentence": tested.sentence,
                "verdict": found.word,
                "why": found.conditions,
            }


def write_report(
    run: Run, config: Any, examined: Sequence[Examined], untested: Mapping[str, str] | None = None
) -> Path:
    """`report.html` in the run's folder, and the pictures in it as files. Returns its path.

    `untested` says of claims why they gave no verdict.
    """
    described = read_config(run)
    all_verdicts = [found for e in examined for _, found in verdicts(e)]
    counts = {word: sum(found.word == word for found in all_verdicts) for word in get_args(Word)}
    report = Report(
        title="What is said of training, tested",
        summary=(
            f"{len(all_verdicts)} sentences, each by {config.seeds} seeds: {counts['holds']} hold, "
            f"{counts['holds weakly']} hold weakly, "
            f"{counts['holds only']} hold under some conditions, "
            f"{counts['decided in part']} are decided in part, "
            f"{counts['does not hold']} do not hold here, {counts['undecided']} these seeds do not "
            "decide."
            + (f" {counts['untested']} could not be tested." if counts["untested"] else "")
            + (" Short forms: each says what its full one has beyond it." if config.quick else "")
        ),
        facts={
            "hold": counts["holds"],
            "hold weakly": counts["holds weakly"],
            "hold only when …": counts["holds only"],
            "decided in part": counts["decided in part"],
            "do not hold": counts["does not hold"],
            "undecided": counts["undecided"],
            "minutes": round(sum(e.seconds for e in examined) / 60, 1),
        },
        sections=[
            Section("Contents", [Contents(["Verdicts", *(e.title for e in examined), "Method"])]),
            Section("Verdicts", [*_missing(untested or {}), *_verdicts_table(examined)]),
            *(Section(e.title, _blocks(run, e)) for e in examined),
            Section("Method", [Paragraph(METHOD), config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _missing(untested: Mapping[str, str]) -> list[Block]:
    return [Paragraph(f"Not tested, {name}: {why}.") for name, why in untested.items()]


def _verdicts_table(examined: Sequence[Examined]) -> list[Block]:
    return [_overview(examined)] if examined else []


def _overview(examined: Sequence[Examined]) -> Table:
    rows = [
        (e.title, tested.sentence, str(found), strongest(found))
        for e in examined
        for tested, found in verdicts(e)
    ]
    return Table(
        ("claim", "sentence", "verdict", "effect"),
        rows,
        "Of the comparisons that decided for or against a sentence, the effect is that of the "
        "strongest; all are in its section. Weakly: in the claimed direction and sure, but smaller "
        "than the margin that was set beforehand.",
    )


def strongest(found: Verdict) -> str:
    """The greatest effect among the comparisons that gave the verdict its word, and where it is.

    Among those of the first one's quantity, since effects on others do not compare. Empty where
    there is none.
    """
    if not found.judged:
        return ""
    favours: dict[Word, tuple[Answer, ...]] = {
        "undecided": ("undecided",),
        "does not hold": ("no",),
        "holds weakly": ("weakly",),
    }
    gave = favours.get(found.word, ("yes", "weakly"))
    # where some are as claimed in full, one that is so weakly is not what is told
    by_answer = [[j for j in found.judged if answer(j) == kind] for kind in gave]
    decided = next(filter(None, by_answer))
    kind = decided[0].comparison.quantity, decided[0].comparison.ratio
    alike = [j for j in decided if (j.comparison.quantity, j.comparison.ratio) == kind]

    def size(judged: Judged) -> float:
        effect = abs(np.log(judged.effect) if judged.comparison.ratio else judged.effect)
        return float(np.nan_to_num(effect, nan=-1.0))

    most = max(alike, key=size)
    where = f", {most.comparison.condition}" if len(found.judged) > 1 else ""
    return f"{most.comparison.quantity}{where}: {effect_text(most)}"


def _blocks(run: Run, examined: Examined) -> list[Block]:
    blocks: list[Block] = [Paragraph(examined.outcome.setting)]
    for tested, found in verdicts(examined):
        verb = "is " if found.word in ("undecided", "decided in part", "untested") else ""
        blocks.append(Paragraph(f"“{tested.sentence}” This {verb}{found}."))
        if found.judged:
            blocks.append(_comparisons(found.judged))
    for number, seen in enumerate(examined.outcome.seen, 1):
        name = f"{examined.name}_{number}.png"
        blocks.append(saved_picture(run, name, seen.figure, seen.caption))
    if examined.outcome.notes:
        blocks.append(Paragraph(examined.outcome.notes))
    if beyond := _beyond(examined):
        blocks.append(Paragraph(beyond))
    blocks.append(config_table(files.plain(examined.settings), _cost(examined)))
    return blocks


def _beyond(examined: Examined) -> str:
    """What the full form has that the short one does not."""
    short, full = files.plain(examined.settings), files.plain(examined.full)
    changed = [
        f"{name} {_plainly(value)} instead of {_plainly(short[name])}"
        for name, value in full.items()
        if value != short[name]
    ]
    return (
        f"This is the short form. Only the full one has: {'; '.join(changed)}." if changed else ""
    )


def _plainly(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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
            f"{EXPECTED[c.expected]}, {margin_text(c)}",
            answer(j),
        )
        for j in judged
        for c in [j.comparison]
    ]
    header = ("where", "quantity", "treated", "control", "effect", "claimed, margin", "so?")
    return Table(header, rows)


def _typical(judged: Judged, side: str) -> str:
    arm: Arm = getattr(judged.comparison, side)
    values = np.asarray(arm.values, np.float64)
    mean = np.exp(np.mean(np.log(values))) if judged.comparison.ratio else np.mean(values)
    bound = "≤ " if np.any(values <= arm.floor) else "≥ " if np.any(values >= arm.cap) else ""
    return f"{bound}{mean:.3g}"
