"""Pictures of what is forgotten, each a function from arrays to a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.plots import PALETTE, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrices = Mapping[str, NDArray[np.float32]]
"""By method: `[seeds, T, T]`."""


def heat_maps(found: Matrices, names: Sequence[str], chance: float) -> "Figure":
    """Each method's accuracies: a row after each task, a column for each task's test."""
    n = len(names)
    with new_figure(2.3 * len(found) + 1.6, 3.5) as figure:
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, (name, matrices) in zip(panels, found.items(), strict=True):
            mean = matrices.mean(0)
            # what was not learned yet is no forgetting: left white
            shown = np.ma.masked_where(np.triu(np.ones((n, n), bool), 1), mean)
            image = axes.imshow(shown, cmap="viridis", vmin=chance, vmax=1)
            for row in range(n):
                for column in range(row + 1):
                    dark = mean[row, column] < chance + 0.6 * (1 - chance)
                    axes.text(
                        column, row, f"{100 * mean[row, column]:.0f}", ha="center", va="center",
                        color="white" if dark else "black", fontsize=8,
                    )  # fmt: skip
            axes.set_title(name)
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.set_xticks(range(n), labels=literal(names), rotation=45, ha="right",
                            rotation_mode="anchor", fontsize=8)  # fmt: skip
            axes.set_xlabel("tested on")
        panels[0].set_yticks(range(n), labels=literal(names), fontsize=8)
        panels[0].set_ylabel("after training on")
        figure.colorbar(image, ax=list(panels), label="accuracy", shrink=0.8)
    return figure


def figures(accuracy: Matrices, lost: Matrices) -> "Figure":
    """Average accuracy and forgetting by method: a dot for each seed, a bar for the mean."""
    names = list(accuracy)
    with new_figure(8.4, 2.9) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, values, label in (
            (left, accuracy, "average accuracy after the last task (%)"),
            (right, lost, "forgetting (points)"),
        ):
            for place, name in enumerate(names):
                color = PALETTE[place % len(PALETTE)]
                each = 100 * np.asarray(values[name])
                axes.barh(place, each.mean(), color=color, alpha=0.35, height=0.62)
                spread = np.linspace(-0.2, 0.2, len(each))
                axes.plot(each, place + spread, "o", color=color, markersize=3.5)
            axes.set_xlabel(label)
            axes.set_yticks(range(len(names)), labels=names)
            axes.grid(visible=False, axis="y")
        left.invert_yaxis()
        left.set_xlim(0, 100)
        right.axvline(0, color="#888888", linewidth=0.8)
    return figure


def first_task(found: Matrices, names: Sequence[str]) -> "Figure":
    """The accuracy on the first task while the others are learned: mean, and range over seeds."""
    with new_figure(7.2, 3.6) as figure:
        axes = figure.subplots()
        tasks = np.arange(1, len(names) + 1)
        for (name, matrices), color in zip(found.items(), PALETTE, strict=False):
            first = 100 * matrices[:, :, 0]
            axes.plot(tasks, first.mean(0), "o-", label=name, color=color, markersize=4)
            axes.fill_between(tasks, first.min(0), first.max(0), color=color, alpha=0.12)
        axes.set_xticks(tasks)
        axes.set_xlabel("tasks learned")
        axes.set_ylabel("accuracy on the first (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
