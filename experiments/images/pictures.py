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
    named = any(grid.rows)
    cell = 0.62
    left = 2.3 if named else 0.1
    with new_figure(left + cell * columns, cell * height / width * rows + 0.3) as figure:
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.01, h_pad=0.01, hspace=0, wspace=0)
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        for row, column in np.ndindex(rows, columns):
            cell_axes = axes[row, column]
            picture = grid.images[row, column]
            shown = picture[..., :3] if channels >= 3 else picture[..., 0]
            cell_axes.imshow(shown, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            cell_axes.set(xticks=[], yticks=[])
            cell_axes.grid(visible=False)
            for spine in cell_axes.spines.values():
                spine.set(visible=True, color="#bbbbbb", linewidth=0.5)
            if row == 0 and grid.columns:
                cell_axes.set_title(grid.columns[column].replace("$", r"\$"), fontsize=8, pad=2)
            if column == 0 and named:
                cell_axes.set_ylabel(
                    grid.rows[row], rotation=0, ha="right", va="center", fontsize=8
                )
    return figure
