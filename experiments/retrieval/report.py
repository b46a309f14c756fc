"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.captioned import Captioned
from experiments.influence.report import range_line
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
from experiments.retrieval import pictures
from experiments.retrieval.measure import KS, VALIDATED, Recall, Split, chance, ranks
from experiments.retrieval.training import Trained
from experiments.run import Run, read_config, write_text

SHOWN = 12
"""Queries pictured of each kind."""

WAYS = {"images": "pictures found by their captions", "texts": "captions found by their pictures"}


class OneRun(NamedTuple):
    """A seed's split and training."""

    seed: int
    pairs: Split
    trained: Trained


def part(validate: bool) -> str:
    """What to call the pairs that are measured."""
    return "of validation" if validate else "held out"


def _seeds(results: Sequence[OneRun]) -> str:
    seeds = [run.seed for run in results]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _guessed(results: Sequence[OneRun]) -> tuple[float, ...]:
    return chance(len(results[0].pairs.held_out))


def _at_five(results: Sequence[OneRun], way: str) -> list[float]:
    return [getattr(run.trained.recalls[-1], way)[KS.index(5)] for run in results]


def _rows(results: Sequence[OneRun], measured: str) -> list[tuple[str, ...]]:
    """Recall at each k: of what is measured, of what was trained on, and by chance."""

    def row(name: str, found: Sequence[Recall], way: str) -> tuple[str, ...]:
        return name, *(range_line([getattr(r, way)[i] for r in found]) for i in range(len(KS)))

    held = [run.trained.recalls[-1] for run in results]
    known = [run.trained.known for run in results]
    rows = [row(f"{text}, {measured}", held, way) for way, text in WAYS.items()]
    rows += [row(f"{text}, trained on", known, way) for way, text in WAYS.items()]
    return [*rows, ("by chance", *(f"{100 * p:.1f} %" for p in _guessed(results)))]


def print_results(config: Any, data: Captioned, results: Sequence[OneRun]) -> None:
    """The results on the terminal."""
    print(f"recall at {', '.join(map(str, KS))} of {data.name}, {_seeds(results)}:")
    rows = _rows(results, part(config.validate))
    width = max(len(name) for name, *_ in rows)
    for name, *values in rows:
        print(f"  {name:<{width}}   {'   '.join(values)}")
    for way, text in WAYS.items():
        times = min(_at_five(results, way)) / _guessed(results)[KS.index(5)]
        print(f"{text}: recall@5 is at least {times:.1f} times chance in every run")


def write_report(run: Run, data: Captioned, results: Sequence[OneRun]) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    n, guessed = len(results[0].pairs.held_out), _guessed(results)[KS.index(5)]
    by_text, by_image = (_at_five(results, way) for way in WAYS)
    summary = (
        f"Of {n} {data.name} {part(config['validate'])}, not trained on, the right picture is "
        f"among the first five found by its caption for {range_line(by_text)}, the right caption "
        f"among the first five found by its picture for {range_line(by_image)}; by chance it "
        f"would be {100 * guessed:.1f} % ({_seeds(results)})."
    )
    report = Report(
        title=f"Pictures by captions and captions by pictures: {data.name}",
        summary=summary,
        sections=[
            _recalls(run, results, config["validate"]),
            _found(run, data, results[0]),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _recalls(run: Run, results: Sequence[OneRun], validate: bool) -> Section:
    text = (
        "A tower for pictures and one for captions give unit vectors, trained so that a pair's "
        "cosine is larger than those with the rest of its batch. Held-out captions look for "
        "their picture among all held-out ones, and the other way round. Near-duplicates "
        "(variants of one drawing, pictures that differ little, equal captions) are on one side of "
        "the split, and of each such family only one pair is asked. Ties count as not found. "
        + (
            f"In this run the pairs that are measured are of validation: {VALIDATED:.0%} of the "
            "kinds of pictures that would else be trained on, to choose by; those of the test are "
            "not looked at. "
            if validate
            else "In this run the pairs that are measured are those of the test. "
        )
        + "What is given is the end of training: no epoch was chosen."
    )
    n, known = len(results[0].pairs.held_out), len(results[0].pairs.known)
    header = ("recall", *(f"@{k}" for k in KS))
    trained = [one.trained for one in results]
    figure = pictures.curves(
        [t.losses for t in trained], [t.recalls for t in trained], _guessed(results)[KS.index(5)]
    )
    return Section(
        "Recall",
        [
            Paragraph(text),
            Table(
                header,
                _rows(results, part(validate)),
                f"Each among {n}, by chance too; those trained on, one of a kind drawn by the "
                f"seed, among {known}. Mean{' (and range)' if len(results) > 1 else ''} of "
                f"{_seeds(results)}.",
            ),
            saved_picture(
                run, "curves.png", figure,
                "The loss on augmented training pairs, and recall@5 on held-out pairs after each "
                "epoch; a line for each seed.",
            ),
        ],
    )  # fmt: skip


def _found(run: Run, data: Captioned, one: OneRun) -> Section:
    chosen = one.pairs.held_out
    images, captions = data.images[chosen], [data.captions[i][0] for i in chosen]
    similarities = one.trained.images @ one.trained.texts.T
    rng = np.random.default_rng(one.seed)
    shown = rng.permutation(len(chosen))[: 2 * SHOWN]
    half = len(shown) // 2
    median = int(np.median(ranks(similarities.T))) + 1
    few = np.sort(shown[: min(16, len(shown))])
    text = (
        f"Seed {one.seed}. The queries are drawn at random, not chosen. The right picture's median "
        f"rank is {median} of {len(chosen)}."
    )
    return Section(
        "What is found",
        [
            Paragraph(text),
            saved_picture(
                run, "pictures.png",
                pictures.pictures_by_caption(images, captions, similarities, shown[:half].tolist()),
                "Held-out captions, and the held-out pictures of the largest cosine; the right one "
                "is framed.",
            ),
            saved_picture(
                run, "captions.png",
                pictures.captions_by_picture(images, captions, similarities, shown[half:].tolist()),
                "Held-out pictures, and the held-out captions of the largest cosine; the right one "
                "is bold.",
            ),
            saved_picture(
                run, "similarities.png",
                pictures.similarity_matrix(
                    images[few], [captions[i] for i in few], similarities[np.ix_(few, few)]
                ),
                "Cosines of some held-out pictures and captions; pairs are on the diagonal.",
            ),
        ],
    )  # fmt: skip
