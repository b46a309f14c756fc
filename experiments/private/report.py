"""What privacy costs, and whether the promise holds, as pictures and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import plots
from experiments.data import Dataset
from experiments.digits_report import percent
from experiments.private import pictures
from experiments.private.bound import lower_bound
from experiments.private.canaries import Audited
from experiments.private.classifier import Judged
from experiments.private.training import Schedule
from experiments.report import (
    Block,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
    config_table,
    render,
    versions_line,
)
from experiments.run import Run, read_config, write_bytes, write_text

METHOD = (
    "An MLP with {hidden} hidden units (tanh) takes {steps} steps of DP-SGD: each of {n:,} "
    "training images is in a step's batch with probability {rate:.4g}, by itself; each gradient is "
    "clipped to a norm of {clip:g}; noise of σ times that is added to the sum. σ is the least for "
    "which the accountant (dp-accounting, privacy loss distributions) shows ε at δ = {delta:g}, "
    "for the presence of one image. The run that is not private has the same net, batches and "
    "steps, without clipping and noise. Pixels are moved to [-1, 1] by constants.\n\n"
    "A fifth of the training images is held out, and chooses each ε's learning rate among {rates}; "
    "the test images choose nothing. Not accounted for: that choice, which trains several nets on "
    "the same images (the ε of a row is that of each single run); the other settings, which were "
    "chosen once by looking at held-out results; and the shares of clipped examples shown here, "
    "which are exact. The held-out images themselves are not protected."
)

AUDIT = (
    "Is it true? {canaries} canaries are planted among the images, each there or not by a fair "
    "coin. A canary's gradient has an entry of its own, and is clipped, sampled and noised like "
    "any other. Who guesses the coins knows everything but the coins and who was drawn, sees "
    "every noisy gradient (what the accounting supposes), and scores each canary by the sum of its "
    "entry. The {half} highest scores are said to have been there, the {half} lowest not. From how "
    "many of these {guesses} guesses are right follows, for each run by itself, a lower bound on ε "
    "at 95 % confidence and δ = {delta:g} (Steinke, Nasr, Jagielski, 2023). Where a promise holds, "
    "it is above what is claimed in one run of twenty at most. {guesses} right guesses would give "
    "{most:.2f}, and no audit of this size can show more.\n\n"
    "A bound below the claim does not prove it: this attack found no fault. That it would find one "
    "is shown by the runs with a tenth of the noise and the same claim."
)


class Results(NamedTuple):
    """All that the experiment found."""

    schedule: Schedule
    private: Sequence[Judged]
    """By rising `ε`."""
    baseline: Judged
    """Without privacy."""
    audits: Sequence[Audited]


def spread(values: Sequence[float]) -> str:
    """The mean of shares as a percentage, with their range where there are several."""
    mean = percent(float(np.mean(values)))
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def _tests(judged: Judged) -> list[float]:
    return [float(outcome.test) for outcome in judged.seeds]


def _by_share(audits: Sequence[Audited]) -> dict[float, list[Audited]]:
    return {
        share: [a for a in audits if a.share == share]
        for share in dict.fromkeys(a.share for a in audits)
    }


def _bounds(audits: Sequence[Audited]) -> str:
    low, high = (f(a.guesses.bound for a in audits) for f in (min, max))
    return f"{low:.2f}" if len(audits) == 1 else f"{low:.2f} to {high:.2f}"


def audit_line(audits: Sequence[Audited], claimed: float) -> str:
    """What the audits found, in a sentence."""
    parts = []
    for share, row in _by_share(audits).items():
        above = sum(a.guesses.bound > claimed for a in row)
        noise = "the accounted noise" if share == 1 else f"{share:g} of it"
        parts.append(f"with {noise} {_bounds(row)} (above the claim in {above} of {len(row)} runs)")
    return f"lower bounds on ε, where {claimed:g} is claimed: {'; '.join(parts)}"


def print_results(results: Results, data: Dataset) -> None:
    """The results on the terminal."""
    for judged in (*results.private, results.baseline):
        print(f"{data.name}, {judged.level.name}: test accuracy {spread(_tests(judged))}")


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    claimed = audit_line(results.audits, config["audited"])
    print(claimed)
    best = results.private[-1]
    summary = (
        f"At {best.level.name} the net names {spread(_tests(best))} of the {len(data.test_y):,} "
        f"test images rightly; without privacy {spread(_tests(results.baseline))}. "
        f"The audit's {claimed}."
    )
    report = Report(
        title=f"Private training on {data.name}",
        summary=summary,
        sections=[
            Section("What privacy costs", _cost(run, results, config)),
            Section("Training", _training(run, results)),
            Section("The audit", _audit(run, results, config)),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _cost(run: Run, results: Results, config: dict[str, Any]) -> list[Block]:
    schedule = results.schedule
    method = METHOD.format(
        hidden=config["hidden"],
        steps=schedule.steps,
        n=schedule.n,
        rate=schedule.rate,
        clip=config["clip_norm"],
        delta=config["delta"],
        rates=", ".join(f"{rate:g}" for rate in config["learning_rates"]),
    )
    rows = [
        (
            f"{judged.level.epsilon:g}" if judged.level.private else "∞ (not private)",
            f"{judged.level.noise_multiplier:.3f}",
            f"{judged.rate:g}{'*' if judged.at_edge else ''}",
            spread([float(outcome.held_out[-1]) for outcome in judged.seeds]),
            spread(_tests(judged)),
            percent(float(np.mean([outcome.clipped for outcome in judged.seeds]))),
        )
        for judged in (*results.private, results.baseline)
    ]
    header = ("ε", "σ", "learning rate", "held-out accuracy", "test accuracy", "clipped")
    seeds = f"{config['seeds']} seed{'s' if config['seeds'] > 1 else ''}"
    caption = f"Mean of {seeds} (lowest to highest). An asterisk: at an end of the grid of rates."
    return [
        Paragraph(method),
        _picture(
            run,
            "cost.png",
            pictures.cost(results.private, results.baseline),
            "Test accuracy against ε: mean and range of the seeds, beside those without privacy.",
        ),
        Table(header, rows, caption),
    ]


def _training(run: Run, results: Results) -> list[Block]:
    steps = results.schedule.steps
    lines = []
    for judged in (*results.private, results.baseline):
        held_out = judged.seeds[0].held_out
        points = np.linspace(0, steps, len(held_out) + 1)[1:]
        lines.append(plots.Line(judged.level.name, points, held_out, "held-out"))
    return [
        _picture(
            run,
            "training.png",
            plots.accuracy_curves(lines),
            "Accuracy on the held-out images on the way, first seed.",
        ),
        _picture(
            run,
            "clipped.png",
            pictures.clipping(results.private),
            "The share of examples whose gradient is above the clip norm, first seed. It rises at "
            "the end where images are still named wrongly while others have next to no gradient.",
        ),
    ]


def _audit(run: Run, results: Results, config: dict[str, Any]) -> list[Block]:
    text = AUDIT.format(
        canaries=config["canaries"],
        half=config["guesses"] // 2,
        guesses=config["guesses"],
        delta=config["delta"],
        most=lower_bound(config["canaries"], config["guesses"], config["guesses"], config["delta"]),
    )
    rows = [
        (
            f"{audited.share:g} of the noise",
            audited.seed,
            f"{audited.noise_multiplier:.3f}",
            f"{audited.guesses.right} of {audited.guesses.made}",
            f"{audited.guesses.bound:.2f}",
            config["audited"],
            "broken" if audited.guesses.bound > config["audited"] else "not refuted",
            percent(audited.test),
        )
        for audited in results.audits
    ]
    header = (
        "run",
        "seed",
        "σ",
        "right guesses",
        "lower bound on ε",
        "claimed ε",
        "the claim is",
        "test accuracy",
    )
    first = [row[0] for row in _by_share(results.audits).values()]
    figure = pictures.scores(
        [audited.coins for audited in first],
        [audited.scores for audited in first],
        [f"{audited.share:g} of the noise" for audited in first],
    )
    return [
        Paragraph(text),
        Table(header, rows),
        _picture(run, "canaries.png", figure, "The canaries' scores, first seed."),
    ]


def _picture(run: Run, name: str, figure: Any, caption: str) -> Picture:
    png = plots.png(figure)
    write_bytes(run, name, png)
    return Picture(png, caption)
