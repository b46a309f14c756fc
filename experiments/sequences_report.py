"""What reports of classifiers of sequences have in common."""

from collections.abc import Sequence

import numpy as np

from experiments import plots
from experiments.report import Block, Table, saved_picture
from experiments.run import Run
from experiments.sequences import Trained


def accuracy_line(trained: Trained) -> str:
    """The mean accuracy of the seeds, and its range."""
    found = 100 * trained.accuracy
    if len(found) == 1:
        return f"{found[0]:.2f} % (seed {trained.seeds[0]})"
    return (
        f"{found.mean():.2f} % (seeds {trained.seeds[0]} to {trained.seeds[-1]}: "
        f"{', '.join(f'{value:.2f}' for value in found)})"
    )


def curve_lines(trained: Sequence[Trained], name: str, split: str) -> list[plots.Line]:
    """The mean over seeds of what was recorded as `name`, by epoch."""
    return [
        plots.Line(
            t.classifier.name,
            np.arange(t.history[name].shape[-1]) + 1,
            np.nanmean(t.history[name], 0),
            split,
        )
        for t in trained
    ]


def accuracy_table(trained: Sequence[Trained], tested: str) -> Table:
    """A row for each net and seed."""
    rows = [
        (t.classifier.name, seed, f"{100 * accuracy:.2f} %", f"{t.cpu_seconds / len(t.seeds):.0f}")
        for t in trained
        for seed, accuracy in zip(t.seeds, t.accuracy, strict=True)
    ]
    caption = "CPU seconds are of all threads, compilation included, shared evenly by the seeds."
    return Table(("net", "seed", f"{tested} accuracy", "CPU seconds"), rows, caption)


def training_blocks(
    run: Run, trained: Sequence[Trained], watched: str, tested: str, note: str
) -> list[Block]:
    """Loss and accuracy by epoch, and a table of all seeds.

    Args:
      run: where the pictures go.
      trained: all nets.
      watched: what to call the data that are watched while training.
      tested: what to call those that are tested on.
      note: said beneath the accuracy.
    """
    losses = [
        *curve_lines(trained, "loss", "train"),
        *curve_lines(trained, "held_out_loss", watched),
    ]
    accuracies = curve_lines(trained, "held_out_accuracy", watched)
    return [
        saved_picture(
            run,
            "loss.png",
            plots.loss_curves(losses, x_label="epoch"),
            "Cross-entropy by epoch, mean of the seeds.",
        ),
        saved_picture(
            run,
            "accuracy.png",
            plots.accuracy_curves(accuracies, x_label="epoch"),
            f"Accuracy by epoch, mean of the seeds. {note}",
        ),
        accuracy_table(trained, tested),
    ]
