"""Pictures of losses and of images in rows, each a function from arrays to a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.images.task import Grid
from experiments.plots import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200
"""Of a curve: each is the mean of as many steps."""


def losses(found: Mapping[str, Mapping[str, NDArray[np.floating[Any]]]]) -> "Figure":
    """A panel for each model: its losses over its steps, in as many means as can be seen."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    with new_figure(3.3 * columns, 2.6 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(found) :]:
            axes.axis("off")
        for axes, (name, curves) in zip(grid.flat, found.items(), strict=False):
            for (label, values), color in zip(curves.items(), PALETTE, strict=False):
                width = max(1, len(values) // POINTS)
                means = values[: len(values) // width * width].reshape(-1, width).mean(1)
                steps = width * (np.arange(len(means)) + 1)
                axes.plot(steps, means, label=label.replace("_", " "), color=color, linewidth=1.3)
            axes.set(title=name, xlabel="step")
            if all(np.all(values > 0) for values in curves.values()):
                axes.set_yscale("log")
            if len(curves) > 1:
                axes.legend(fontsize=8)
    return figure


def images(grid: Grid) -> "Figure":
    """Images in rows under their columns' names and beside their rows', black on white if grey."""
    rows, columns, height, width, channels = grid.images.shape
    cell, gap, tall = 0.62, 0.06, height / width
    left = 2.6 if any(grid.rows) else 0.2
    with new_figure(left + cell * columns * (1 + gap), cell * (tall + gap) * rows + 0.4) as figure:
        axes: Any = figure.subplots()
        for row, column in np.ndindex(rows, columns):
            picture = grid.images[row, column]
            x, y = column * (1 + gap), row * (tall + gap)
            axes.imshow(
                picture[..., :3] if channels >= 3 else picture[..., 0],
                extent=(x, x + 1, y + tall, y),
                cmap="gray_r", vmin=0, vmax=1, interpolation="nearest",
            )  # fmt: skip
        axes.set_facecolor("#cccccc")
        axes.set_xlim(-gap, columns * (1 + gap))
        axes.set_ylim(rows * (tall + gap), -gap)
        axes.set_aspect("equal")
        names = [name.replace("$", r"\$") for name in grid.columns]
        axes.set_xticks([i * (1 + gap) + 0.5 for i in range(len(names))], labels=names, fontsize=8)
        beside = [i * (tall + gap) + tall / 2 for i in range(rows)]
        axes.set_yticks(beside, labels=grid.rows, fontsize=8)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figure
