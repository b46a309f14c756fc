"""What the claims' figures have in common: lines with the spread of seeds, and points by seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")


@contextmanager
def panels(titles: Sequence[str], *, share_y: bool = True) -> Iterator[tuple["Figure", Any]]:
    """A row of axes, one under each title; the figure, and the axes in order."""
    width = {1: 6.4, 2: 8.4}.get(len(titles), 9.6)
    with plots.new_figure(width, 3.6) as figure:
        row = figure.subplots(1, len(titles), squeeze=False, sharey=share_y)[0]
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title)
        yield figure, row


def draw_lines(
    axes: "Axes",
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    *,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    marked: bool = True,
) -> None:
    """Each name's `[seeds, len(x)]`: the median over seeds as a line, least to greatest as a band.

    Values that are not finite leave a gap.
    """
    for index, (name, values) in enumerate(lines.items()):
        color = plots.PALETTE[index % len(plots.PALETTE)]
        finite = np.ma.masked_invalid(np.asarray(values, np.float64))
        axes.fill_between(
            np.asarray(x), finite.min(0), finite.max(0), color=color, alpha=0.18, linewidth=0
        )
        axes.plot(
            np.asarray(x),
            np.ma.median(finite, 0).filled(np.nan),  # type: ignore[no-untyped-call]
            color=color,
            label=name,
            marker=MARKERS[index % len(MARKERS)] if marked else None,
            markersize=4,
            linewidth=1.6,
        )
    if log_x:
        axes.set_xscale("log")
        if len(places := np.asarray(x)) < 8:
            # where each point is, since powers of ten alone would be few
            axes.set_xticks(places, labels=[f"{place:g}" for place in places])
            axes.minorticks_off()
    if log_y:
        _log_y(axes)
    axes.set_xlabel(x_label)
    if y_label:
        axes.set_ylabel(y_label)


def draw_seeds(
    axes: "Axes",
    groups: Mapping[str, ArrayLike],
    *,
    y_label: str = "",
    log_y: bool = False,
    colors: Sequence[int] | None = None,
) -> None:
    """Each name's `[seeds]` as points above it, with their mean as a bar.

    On a logarithmic axis the mean is geometric, as a ratio's effect is. Groups of the same number
    in `colors` have the same colour; by default each has its own.
    """
    for index, (name, values) in enumerate(groups.items()):
        points = np.asarray(values, np.float64)
        color = plots.PALETTE[(colors[index] if colors else index) % len(plots.PALETTE)]
        spread = np.linspace(-0.12, 0.12, len(points)) if len(points) > 1 else np.zeros(1)
        axes.plot(index + spread, points, "o", color=color, markersize=4, alpha=0.8, label=name)
        mean = np.exp(np.mean(np.log(points))) if log_y else np.mean(points)
        axes.plot([index - 0.25, index + 0.25], [mean] * 2, color=color, linewidth=2)
    axes.set_xticks(range(len(groups)), labels=plots.literal(list(groups)))
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(visible=False, axis="x")
    if log_y:
        _log_y(axes)
    if y_label:
        axes.set_ylabel(y_label)


def _log_y(axes: "Axes") -> None:
    """A logarithmic axis; where it spans few powers of ten, with the numbers between them."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 1.05:
        # equal values span nothing, and an axis of nothing shows nothing
        around = [(0.0, low / 1.2), (0.0, high * 1.2)]
        axes.update_datalim(around, updatex=False)
        axes.autoscale_view()
    if high / low > 100:
        return
    named = "1235" if high / low > 3 else "123456789"

    def label(value: float, _: float) -> str:
        return f"{value:g}" if f"{value:e}"[0] in named else ""

    axes.yaxis.set_major_formatter(label)
    axes.yaxis.set_minor_formatter(label)
