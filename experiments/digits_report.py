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
from experiments.report import (
    Block,
    Code,
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
from jaxnets import models


class Difference(NamedTuple):
    """How far two libraries' optimizers came apart on the same run."""

    loss: float
    """Largest absolute difference of the two training-loss curves."""
    at_step: int
    params: float
    """Largest difference of a final parameter, relative to its leaf's largest magnitude."""


def compare(ours: Curve, theirs: Curve) -> Difference:
    """The largest differences of two curves that should coincide."""
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


def accuracy_line(curves: Sequence[Curve]) -> str:
    """The mean test accuracy of the seeds of the first curve's optimizer, and its range."""
    found = [c.test["accuracy"] for c in curves if c.optimizer == curves[0].optimizer]
    if len(found) == 1:
        return percent(found[0])
    seeds = f"seeds {curves[0].seed} to {curves[0].seed + len(found) - 1}"
    return (
        f"{percent(float(np.mean(found)))} "
        f"(mean of {seeds}; from {percent(min(found))} to {percent(max(found))})"
    )


def difference_line(difference: Difference, curves: Sequence[Curve]) -> str:
    """What `compare` found, in a sentence."""
    names = f"{curves[0].label} and {curves[-1].label}"
    if difference.loss == difference.params == 0:
        return (
            f"{names}: largest difference 0: all {len(curves[0].train_loss)} losses and all final "
            "parameters are equal bit for bit"
        )
    return (
        f"{names}: the loss curves differ by at most "
        f"{difference.loss:.2e} (at step {difference.at_step} of {len(curves[0].train_loss)}), "
        f"the final parameters by at most {difference.params:.2e} of their leaf's largest"
    )


def _hardest(examples: Examples, count: int) -> np.ndarray:
    return np.argsort(-examples.norms, kind="stable")[:count]


def print_results(
    curves: Sequence[Curve], difference: Difference | None, data: Dataset, examples: Examples
) -> None:
    """The results on the terminal."""
    print(f"test accuracy of {curves[0].optimizer}: {accuracy_line(curves)}")
    if difference is not None:
        print(difference_line(difference, curves))
    print("hardest test images, by the norm of their own gradient:")
    for index in _hardest(examples, 5):
        label, said = (data.classes[c] for c in (data.test_y[index], examples.predictions[index]))
        verdict = "read rightly" if label == said else f"read as {said}"
        print(f"  image {index}: {label}, {verdict}, gradient norm {examples.norms[index]:.3g}")


def write_report(
    run: Run,
    config: Any,
    data: Dataset,
    model: models.CNNConfig,
    curves: Sequence[Curve],
    difference: Difference | None,
    examples: Examples,
) -> Path:
    """The plots as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    # without patience, the test images themselves are watched, and nothing is chosen by them
    held_out = "test" if config.patience is None else "held-out"
    sections = [
        Section("Training", _training(run, curves, difference, held_out)),
        Section("The hardest images", _examples(run, data, examples)),
        Section("The net", [Code(_summary(curves[0], model))]),
        Section("Settings", [config_table(described["config"])]),
    ]
    seconds = sum(curve.seconds for curve in curves)
    facts = {
        "test accuracy": percent(float(np.mean(_accuracies(curves)))),
        "steps per run": len(curves[0].train_loss),
        "seconds for all runs": f"{seconds:.1f}",
    }
    if difference is not None:
        facts["largest loss difference"] = f"{difference.loss:.1e}" if difference.loss else "0"
    report = Report(
        title=f"A convolutional net on {data.name}",
        summary=_headline(curves, difference, data),
        sections=sections,
        facts=facts,
        footer=versions_line(described["environment"]),
    )
    return write_text(run, "report.html", render(report))


def _accuracies(curves: Sequence[Curve]) -> list[float]:
    return [c.test["accuracy"] for c in curves if c.optimizer == curves[0].optimizer]


def _headline(curves: Sequence[Curve], difference: Difference | None, data: Dataset) -> str:
    text = (
        f"Trained by {curves[0].optimizer}, the net names {accuracy_line(curves)} of the "
        f"{len(data.test_y):,} test images rightly."
    )
    if difference is not None:
        text += f" {difference_line(difference, curves)}."
    return text


def _picture(run: Run, name: str, figure: Any, caption: str) -> Picture:
    png = plots.png(figure)
    write_bytes(run, name, png)
    return Picture(png, caption)


def _pair(curves: Sequence[Curve], difference: Difference | None) -> list[Curve]:
    return [curves[0]] if difference is None else [curves[0], curves[-1]]


def _running_mean(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The last step of each window, and the window's mean."""
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(width, len(values) + 1), means


def _training(
    run: Run, curves: Sequence[Curve], difference: Difference | None, held_out: str
) -> list[Block]:
    pair = _pair(curves, difference)
    epochs = len(pair[0].held_out["loss"])
    at = (np.arange(epochs) + 1) * len(pair[0].train_loss) // max(epochs, 1)
    width = max(1, len(pair[0].train_loss) // 200)
    loss = [plots.Curve(c.label, *_running_mean(c.train_loss, width)) for c in pair]
    loss += [plots.Curve(c.label, at, c.held_out["loss"], held_out) for c in pair]
    accuracy = [plots.Curve(c.label, at, c.held_out["accuracy"], held_out) for c in curves]
    blocks: list[Block] = [
        _picture(
            run,
            "loss.png",
            plots.loss_curves(loss),
            f"Cross-entropy of the training batches (running mean of {width} steps), and of the "
            f"{held_out} images after each epoch.",
        ),
        _picture(
            run,
            "accuracy.png",
            plots.accuracy_curves(accuracy),
            f"Accuracy on the {held_out} images after each epoch, every run.",
        ),
    ]
    rows = [
        (c.label, percent(c.test["accuracy"]), c.test["loss"], f"{c.seconds:.1f}") for c in curves
    ]
    header = ("run", "test accuracy", "test loss", "seconds")
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
        _picture(
            run, "hardest.png", hardest, "Label → reading, and the gradient's norm, largest first."
        ),
        _picture(run, "norms.png", norms, "Gradient norms of all test images, by class."),
        _picture(run, "confusion.png", confusion, "Every label against every reading."),
    ]


def _summary(curve: Curve, model: models.CNNConfig) -> str:
    def forward(params: Any, x: Any) -> Any:
        return models.cnn(params, model, x, state=curve.state.model_state)[0]

    image = jax.ShapeDtypeStruct(model.image, model.dtype or np.float32)
    return models.summary(curve.state.params, forward, image)
