"""Pictures of signals, each a function from arrays to a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.data.signals import Split
from experiments.plots import BLUE, PALETTE, VERMILLION, hardest_first, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _draw(axes: "Axes", signals: Split, index: int, color: str | None = None) -> None:
    """A signal up to its length, a line for each channel."""
    signal = signals.x[index, : signals.lengths[index]]
    for channel, values in enumerate(signal.T):
        shown = color or PALETTE[channel % len(PALETTE)]
        axes.plot(values, color=shown, linewidth=0.8, alpha=0.9)
    axes.tick_params(labelsize=6, length=2)


def examples(signals: Split, classes: Sequence[str], *, count: int = 4) -> "Figure":
    """A row for each class: its first `count` signals."""
    with new_figure(1.9 * count, 0.4 + 0.95 * len(classes)) as figure:
        grid = figure.subplots(len(classes), count, squeeze=False, sharex=True)
        for row, name in enumerate(classes):
            chosen = np.flatnonzero(signals.y == row)[:count]
            for axes, index in zip(grid[row], chosen, strict=False):
                _draw(axes, signals, index)
            for axes in grid[row, len(chosen) :]:
                axes.axis("off")
            grid[row, 0].set_ylabel(name.replace("$", r"\$"), fontsize=8)
    return figure


def hardest(
    signals: Split,
    predictions: NDArray[np.intp],
    norms: NDArray[np.float32],
    classes: Sequence[str],
    *,
    count: int = 15,
    columns: int = 5,
) -> "Figure":
    """The `count` signals with the largest norms, largest first: label → reading, and the norm."""
    order = hardest_first(norms)[:count]
    columns = min(columns, len(order))
    rows = -(-len(order) // columns)
    with new_figure(1.9 * columns, 1.45 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(order) :]:
            axes.axis("off")
        for axes, index in zip(grid.flat, order, strict=False):
            label, said = signals.y[index], predictions[index]
            _draw(axes, signals, index, BLUE if label == said else VERMILLION)
            text = f"{classes[label]} → {classes[said]}, {norms[index]:.3g}"
            axes.set_title(text.replace("$", r"\$"), fontsize=8, pad=3)
    return figure
