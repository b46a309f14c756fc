"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import plots
from experiments.benchmarks.timing import Timing
from experiments.classification import Examples
from experiments.data import Dataset
from experiments.influence import pictures
from experiments.influence.cost import PLAIN
from experiments.influence.labels import Labels
from experiments.influence.scores import (
    RANKINGS,
    Scores,
    found_first,
    most_influential,
    precision,
)
from experiments.influence.training import Epochs
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
from experiments.run import Run, read_config, write_text

EACH = 5
"""Helpful, and harmful, training images pictured for each test image."""


class OneRun(NamedTuple):
    """A seed's labels, training and scores."""

    seed: int
    labels: Labels
    accuracy: float
    """On the test images."""
    epochs: Epochs
    scores: Scores


class Results(NamedTuple):
    """All that the experiment found."""

    runs: Sequence[OneRun]
    examples: Examples
    """What the first run's net makes of the test images."""
    tests: NDArray[np.intp]
    """The test images on which influences were computed."""
    timings: Mapping[str, Timing]
    """Of one step, by what it computes."""


def precisions(results: Results) -> dict[str, list[float]]:
    """By ranking, of every run."""
    return {
        name: [precision(getattr(run.scores, name), run.labels.flipped) for run in results.runs]
        for name in RANKINGS
    }


def range_line(values: Sequence[float]) -> str:
    """The mean as a percentage, and the range if there are several."""
    mean = f"{100 * float(np.mean(values)):.1f} %"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def seeds_line(results: Results) -> str:
    """Which seeds a mean is of."""
    seeds = [run.seed for run in results.runs]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def print_results(data: Dataset, results: Results) -> None:
    """The results on the terminal."""
    count = int(results.runs[0].labels.flipped.sum())
    accuracy = range_line([run.accuracy for run in results.runs])
    print(f"test accuracy: {accuracy}; {seeds_line(results)}")
    print(f"wrong labels among the {count} training images ranked highest:")
    for name, values in precisions(results).items():
        print(f"  by {RANKINGS[name]:<26} {range_line(values)}")
    for name, timing in results.timings.items():
        ratio = timing.median / results.timings[PLAIN].median
        print(f"  {name:<26} {1e3 * timing.median:8.2f} ms  {ratio:.2f}x")
    print("hardest test images, by the norm of their own gradient:")
    examples = results.examples
    for index in plots.hardest_first(examples.norms)[:5]:
        label, said = (data.classes[c] for c in (data.test_y[index], examples.predictions[index]))
        print(f"  image {index}: {label}, read as {said}, norm {examples.norms[index]:.3g}")


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    found = precisions(results)["self_influence"]
    count = int(results.runs[0].labels.flipped.sum())
    summary = (
        f"{count} of the {len(data.train_y):,} training labels of {data.name} were made wrong. Of "
        f"the {count} images that are most influential on themselves, {range_line(found)} are "
        f"among them ({seeds_line(results)})."
    )
    report = Report(
        title=f"Wrong labels, influence and noise on {data.name}",
        summary=summary,
        sections=[
            _wrong_labels(run, data, results),
            _influences(run, data, results),
            _hardest(run, data, results),
            _noise(run, results, config["batch_size"]),
            _cost(results, config["batch_size"]),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _wrong_labels(run: Run, data: Dataset, results: Results) -> Section:
    text = (
        "The net is trained on the wrong labels with the others. An image's self-influence is the "
        "squared norm of its own gradient, times the learning rate, summed over the checkpoints of "
        "the run (TracInCP): large where only the image itself could teach its label. Beside it "
        "stands that of the last layer's parameters alone, as it is often approximated. The mean "
        "loss over the same checkpoints needs no gradients, and is here to compare; the loss and "
        "the gradient's norm at the end are of the last checkpoint alone, when the net has begun "
        "to learn the wrong labels by heart."
    )
    flipped = results.runs[0].labels.flipped
    rows = [(RANKINGS[name], range_line(values)) for name, values in precisions(results).items()]
    table = Table(
        ("ranked by", "wrong labels among the first"),
        rows,
        f"Of the {int(flipped.sum())} ranked highest, as many as are wrong; {seeds_line(results)}. "
        f"By chance it would be {100 * flipped.mean():.1f} %.",
    )
    curves = {
        RANKINGS[name]: np.mean(
            [found_first(getattr(r.scores, name), r.labels.flipped) for r in results.runs], axis=0
        )
        for name in RANKINGS
    }
    first = results.runs[0]
    highest = plots.hardest_examples(
        data.train_x,
        data.train_y,
        first.labels.given,
        first.scores.self_influence,
        data.classes,
    )
    return Section(
        "Wrong labels",
        [
            Paragraph(text),
            table,
            saved_picture(
                run,
                "rankings.png",
                pictures.rankings(curves, float(flipped.mean())),
                "Wrong labels found by looking at the images in each order; mean of "
                f"{seeds_line(results)}. Dotted: as many as are wrong.",
            ),
            saved_picture(
                run,
                "mislabelled.png",
                highest,
                f"Seed {first.seed}: the training images of highest self-influence; true → given "
                "label, framed where it was made wrong.",
            ),
        ],
    )


def _influences(run: Run, data: Dataset, results: Results) -> Section:
    first = results.runs[0]
    found = [most_influential(values, EACH) for values in first.scores.influence.T]
    harmful = np.concatenate([influences.harmful for influences in found])
    text = (
        "The influence of a training image on a test image is the inner product of their "
        "gradients, times the learning rate, summed over the checkpoints: what steps on the one "
        "take off the loss of the other, to first order (momentum, which lengthens all steps "
        "alike, is left out). "
        f"Of the {len(harmful)} most harmful images below, "
        f"{int(first.labels.flipped[harmful].sum())} have a wrong label."
    )
    figure = pictures.influences(
        data,
        first.labels,
        results.tests,
        results.examples.predictions,
        first.scores.influence,
        found,
    )
    caption = (
        f"Seed {first.seed}: test images (label → reading), the hardest first and then some drawn "
        "at random; right of each, the training images that helped it most and harmed it most, "
        "with the label they were given, framed where that is wrong, and their influence."
    )
    picture = saved_picture(run, "influences.png", figure, caption)
    return Section("Which training images made it so", [Paragraph(text), picture])


def _hardest(run: Run, data: Dataset, results: Results) -> Section:
    examples = results.examples
    figure = plots.hardest_examples(
        data.test_x, data.test_y, examples.predictions, examples.norms, data.classes
    )
    caption = "Label → reading, and the norm of the image's own gradient; framed, wrong readings."
    return Section("The hardest test images", [saved_picture(run, "hardest.png", figure, caption)])


def _noise(run: Run, results: Results, batch_size: int) -> Section:
    first = results.runs[0]
    text = (
        "The noise scale is the batch size at which the noise of the gradient is as large as the "
        "gradient. The diversity of a batch of n says how much of it is not repetition; that of "
        f"a sample cannot say much beyond n = {batch_size}, the dotted line. On the right, how far "
        "the gradient of each kernel stands out of its noise. All are of every step, from the "
        "factors that also gave its gradient; numerators and denominators are averaged over an "
        "epoch and then divided. Gaps: the estimate of the gradient's square is not positive."
    )
    figure = pictures.noise(first.epochs, batch_size)
    caption = f"Seed {first.seed}, by epoch."
    return Section(
        "Noise while training", [Paragraph(text), saved_picture(run, "noise.png", figure, caption)]
    )


def _cost(results: Results, batch_size: int) -> Section:
    plain = results.timings[PLAIN].median
    rows = [
        (name, f"{1e3 * timing.median:.2f}", f"{timing.median / plain:.2f}")
        for name, timing in results.timings.items()
    ]
    caption = f"Batches of {batch_size}; medians of turns taken side by side."
    return Section("What it costs", [Table(("", "ms", "× step"), rows, caption)])
