"""What the digits experiment shows: on the terminal, in plots, and in its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import plots
from experiments.classification import Examples
from experiments.curves import Curve
from experiments.data import Dataset
from experiments.nets import NetConfig, net
from experiments.report import (
    Block,
    Code,
    Paragraph,
    Report,
    Section,
    Table,
    config_table,
    render,
    resumption_lines,
    saved_picture,
    versions_line,
)
from experiments.run import Run, read_config, write_text
from jaxnets import models

NAMES = {models.CNNConfig: "A convolutional net", models.ResNetConfig: "A residual net"}


class Results(NamedTuple):
    """All that the experiment found."""

    seeds: Sequence[Curve]
    """Of the optimizer that was asked for, one for each seed."""
    counterpart: Curve | None
    """The other library's, with the first of the seeds; `None` if it was not asked for."""
    examples: Examples
    """What the first seed's net makes of the test images."""


class Difference(NamedTuple):
    """How far two libraries' optimizers came apart on the same run."""

    loss: float
    """Largest absolute difference of the two training-loss curves."""
    at_step: int
    params: float
    """Largest difference of a final parameter, relative to its leaf's largest magnitude."""


def compare(ours: Curve, theirs: Curve) -> Difference:
    """The largest differences of two curves that should coincide, as far as both go."""
    steps = min(len(ours.train_loss), len(theirs.train_loss))
    apart = np.abs(ours.train_loss[:steps] - theirs.train_loss[:steps])
    pairs = zip(
        jax.tree.leaves(ours.state.params), jax.tree.leaves(theirs.state.params), strict=True
    )
    relative = [
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(np.abs(b).max(), 1e-30))
        for a, b in pairs
    ]
    return Difference(float(apart.max()), int(apart.argmax()) + 1, max(relative))


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.2f} %"


def accuracies(results: Results) -> list[float]:
    """The test accuracy of each seed."""
    return [curve.test["accuracy"] for curve in results.seeds]


def accuracy_line(results: Results) -> str:
    """The mean test accuracy of the seeds, and its range."""
    found = accuracies(results)
    if len(found) == 1:
        return percent(found[0])
    seeds = f"seeds {results.seeds[0].seed} to {results.seeds[-1].seed}"
    return (
        f"{percent(float(np.mean(found)))} "
        f"(mean of {seeds}; from {percent(min(found))} to {percent(max(found))})"
    )


def difference_line(ours: Curve, theirs: Curve) -> str:
    """What `compare` finds, in a sentence."""
    difference = compare(ours, theirs)
    names = f"{ours.label} and {theirs.label}"
    steps = _steps([ours, theirs])
    if difference.loss == difference.params == 0 and len(ours.train_loss) == len(theirs.train_loss):
        return (
            f"{names}: largest difference 0: all {steps} losses and all final "
            "parameters are equal bit for bit"
        )
    return (
        f"{names}: the loss curves differ by at most "
        f"{difference.loss:.2e} (at step {difference.at_step} of {steps}), "
        f"the final parameters by at most {difference.params:.2e} of their leaf's largest"
    )


def _steps(curves: Sequence[Curve]) -> str:
    """How many steps a curve has, or from how many to how many."""
    counts = sorted({len(curve.train_loss) for curve in curves})
    return " to ".join(map(str, counts[:1] + counts[1:][-1:]))


def print_results(results: Results, data: Dataset) -> None:
    """The results on the terminal."""
    print(f"test accuracy of {results.seeds[0].optimizer}: {accuracy_line(results)}")
    if results.counterpart is not None:
        print(difference_line(results.seeds[0], results.counterpart))
    print("hardest test images, by the norm of their own gradient:")
    examples = results.examples
    for index in plots.hardest_first(examples.norms)[:5]:
        label, said = (data.classes[c] for c in (data.test_y[index], examples.predictions[index]))
        verdict = "read rightly" if label == said else f"read as {said}"
        print(f"  image {index}: {label}, {verdict}, gradient norm {examples.norms[index]:.3g}")


def write_report(run: Run, config: Any, data: Dataset, model: NetConfig, results: Results) -> Path:
    """The plots as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    # without patience, the test images themselves are watched, and nothing is chosen by them
    held_out = "test" if config.patience is None else "held-out"
    first, other = results.seeds[0], results.counterpart
    curves = [*results.seeds, *([] if other is None else [other])]
    sections = [
        Section("Training", _training(run, results, curves, held_out)),
        Section("The hardest images", _examples(run, data, results.examples)),
        Section("The net", [Code(_summary(first, model, data.test_x.shape[1:]))]),
        Section("Settings", [config_table(described["config"])]),
    ]
    facts = {
        "test accuracy": percent(float(np.mean(accuracies(results)))),
        "steps per run": _steps(curves),
        "seconds for all runs": f"{sum(curve.seconds for curve in curves):.1f}",
    }
    if other is not None:
        loss = compare(first, other).loss
        facts["largest loss difference"] = f"{loss:.1e}" if loss else "0"
    report = Report(
        title=f"{NAMES[type(model)]} on {data.name}",
        summary=_headline(results, data),
        sections=sections,
        facts=facts,
        footer=[versions_line(described["environment"]), *resumption_lines(described)],
    )
    return write_text(run, "report.html", render(report))


def _headline(results: Results, data: Dataset) -> str:
    text = (
        f"Trained by {results.seeds[0].optimizer}, the net names {accuracy_line(results)} of the "
        f"{len(data.test_y):,} test images rightly."
    )
    if results.counterpart is not None:
        text += f" {difference_line(results.seeds[0], results.counterpart)}."
    return text


def _running_mean(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The last step of each window, and the window's mean."""
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(width, len(values) + 1), means


def _watched(curve: Curve, metric: str, held_out: str) -> plots.Line:
    """A held-out metric over the steps; curves that stop early have fewer."""
    values = curve.held_out[metric]
    steps = (np.arange(len(values)) + 1) * (len(curve.train_loss) // len(values))
    return plots.Line(curve.label, steps, values, held_out)


def _training(run: Run, results: Results, curves: Sequence[Curve], held_out: str) -> list[Block]:
    other = results.counterpart
    pair = [results.seeds[0], *([] if other is None else [other])]
    width = max(1, min(len(curve.train_loss) for curve in pair) // 200)
    loss = [plots.Line(c.label, *_running_mean(c.train_loss, width)) for c in pair]
    loss += [_watched(c, "loss", held_out) for c in pair]
    accuracy = [_watched(c, "accuracy", held_out) for c in curves]
    blocks: list[Block] = [
        saved_picture(
            run,
            "loss.png",
            plots.loss_curves(loss),
            f"Cross-entropy of the training batches (running mean of {width} steps), and of the "
            f"{held_out} images after each epoch.",
        ),
        saved_picture(
            run,
            "accuracy.png",
            plots.accuracy_curves(accuracy),
            f"Accuracy on the {held_out} images after each epoch, every run.",
        ),
    ]
    rows = [
        (
            c.label,
            len(c.train_loss),
            percent(c.test["accuracy"]),
            c.test["loss"],
            f"{c.seconds:.1f}",
        )
        for c in curves
    ]
    header = ("run", "steps", "test accuracy", "test loss", "seconds")
    return [*blocks, Table(header, rows, "The first run of each optimizer includes compilation.")]


def _examples(run: Run, data: Dataset, examples: Examples) -> list[Block]:
    text = (
        "Each test image has a gradient of its own: how the net would have to change for that "
        "image alone. Its norm is small where the net is sure and right. The images with the "
        "largest norms are those the net finds hardest; wrong readings are framed."
    )
    hardest = plots.hardest_examples(
        data.test_x, data.test_y, examples.predictions, examples.norms, data.classes
    )
    norms = plots.gradient_norms(examples.norms, data.test_y, data.classes)
    confusion = plots.confusion_matrix(data.test_y, examples.predictions, data.classes)
    return [
        Paragraph(text),
        saved_picture(
            run, "hardest.png", hardest, "Label → reading, and the gradient's norm, largest first."
        ),
        saved_picture(run, "norms.png", norms, "Gradient norms of all test images, by class."),
        saved_picture(run, "confusion.png", confusion, "Every label against every reading."),
    ]


def _summary(curve: Curve, model: NetConfig, shape: tuple[int, ...]) -> str:
    def forward(params: Any, x: Any) -> Any:
        return net(params, model, x, state=curve.state.model_state)[0]

    image = jax.ShapeDtypeStruct(shape, model.dtype or np.float32)
    return models.summary(curve.state.params, forward, image)
