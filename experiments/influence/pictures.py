"""Pictures of rankings, influences and noise, each a function from arrays to a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset
from experiments.influence.labels import Labels
from experiments.influence.scores import Influences, Values
from experiments.influence.training import Epochs
from experiments.plots import BLUE, PALETTE, VERMILLION, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rankings(found: Mapping[str, Values], flipped: float) -> "Figure":
    """The share of the flipped labels among those ranked highest, by how many are looked at.

    Args:
      found: by name, `[n + 1]` of each ranking.
      flipped: the share of all labels that are wrong; a perfect ranking finds all by then.
    """
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        for (name, shares), color in zip(found.items(), PALETTE, strict=False):
            looked_at = 100 * np.arange(len(shares)) / (len(shares) - 1)
            axes.plot(looked_at, 100 * shares, label=name, color=color, linewidth=1.6)
        axes.axvline(100 * flipped, color="#888888", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, min(100, 500 * flipped))
        axes.set_ylim(0, 101)
        axes.set_xlabel("training images looked at, highest first (%)")
        axes.set_ylabel("wrong labels found (%)")
        axes.legend(loc="lower right")
    return figure


def influences(
    data: Dataset,
    labels: Labels,
    tests: NDArray[np.intp],
    predictions: NDArray[np.intp],
    influence: Values,
    found: Sequence[Influences],
) -> "Figure":
    """A row for each test image: itself, what helped it most, and what harmed it most.

    Training images carry the label they were given, framed where it is wrong; a test image carries
    label → reading, framed where that is wrong.
    """
    each = len(found[0].helpful)
    # narrow empty columns set the groups apart
    widths = [1, 0.15, *[1] * each, 0.15, *[1] * each]
    arrow = " → " if max(map(len, data.classes)) < 6 else " →\n"
    with new_figure(1.02 * (2 * each + 1) + 0.6, (1.5 if "\n" not in arrow else 1.7) * len(tests)) \
            as figure:  # fmt: skip
        grid = figure.subplots(len(tests), len(widths), squeeze=False, width_ratios=widths)
        for axes in (*grid[:, 1], *grid[:, 2 + each]):
            axes.axis("off")
        for row, (test, (helpful, harmful)) in enumerate(zip(tests, found, strict=True)):
            label, said = data.test_y[test], predictions[test]
            text = f"{data.classes[label]}{arrow}{data.classes[said]}"
            show_image(grid[row, 0], data.test_x[test], text, "test image", marked=label != said)
            cells = (*grid[row, 2 : 2 + each], *grid[row, 3 + each :])
            for axes, index in zip(cells, (*helpful, *harmful), strict=True):
                show_image(
                    axes,
                    data.train_x[index],
                    data.classes[labels.given[index]],
                    f"{influence[index, row]:+.3g}",
                    marked=bool(labels.flipped[index]),
                )
        for column, text in ((2, "helped most"), (3 + each, "harmed most")):
            grid[0, column].annotate(
                text, (0, 1.25), xycoords="axes fraction", fontsize=10, annotation_clip=False
            )
    return figure


def noise(epochs: Epochs, batch_size: int) -> "Figure":
    """The noise scale and the batch size that diversity allows; and each kernel's SNR."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    count = np.arange(len(epochs.loss)) + 1
    kernels = {k: v for k, v in epochs.signal_to_noise.items() if k.endswith("kernel")}
    with new_figure(9.6, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        _line(left, count, epochs.noise_scale, "noise scale tr Σ / ‖G‖²", BLUE)
        _line(left, count, epochs.batch_size, "n · diversity of the batches", VERMILLION)
        left.axhline(batch_size, color="#888888", linewidth=0.8, linestyle=":")
        left.set(xlabel="epoch", ylabel="examples", yscale="log")
        left.legend()
        for (path, ratio), color in zip(kernels.items(), PALETTE, strict=False):
            _line(right, count, ratio, path, color)
        right.axhline(1, color="#888888", linewidth=0.8, linestyle=":")
        right.set(xlabel="epoch", ylabel="signal to noise of a batch's gradient", yscale="log")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _line(axes: "Axes", x: NDArray[np.int_], y: Values, label: str, color: str) -> None:
    # where noise drowns the signal, the line has a gap
    shown = np.where(np.isfinite(y) & (y > 0), y, np.nan)
    axes.plot(x, shown, label=label, color=color, linewidth=1.4, marker="o", markersize=3)
