"""Pictures of the sweeps, each a function from arrays to a Matplotlib figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.optimizers.functions import Function
from experiments.optimizers.ranking import TOLERANCE, Best
from experiments.plots import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#222222")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

_GRAYS = ("#ffffff", "#f6f7f8", "#edeff1", "#e4e7ea", "#dbdfe3", "#d2d7dc", "#c9cfd5")


class Track(NamedTuple):
    """An optimizer's way on every function, at its best rate there."""

    name: str
    values: Sequence[NDArray[np.float64]]
    """By function, `[steps + 1]`."""
    points: Sequence[NDArray[np.float64]]
    """By function, `[steps + 1, *shape]`."""
    best: Sequence[Best]


def trajectories(functions: Sequence[Function], tracks: Sequence[Track]) -> "Figure":
    """All ways from the same starts, each until it has arrived, over the functions' contours."""
    columns = min(3, len(functions))
    rows = -(-len(functions) // columns)
    with new_figure(4.1 * columns, 3.3 * rows + 0.5) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(functions) :]:
            axes.axis("off")
        for index, (axes, function) in enumerate(zip(grid.flat, functions, strict=False)):
            _contours(axes, function)
            for number, track in enumerate(tracks):
                end = track.best[index].steps
                _way(axes, track.points[index][: None if end is None else end + 1], number)
            axes.plot(*function.start, "o", color="black", markersize=7, zorder=9)
            for minimum in function.minima:
                axes.plot(
                    *minimum, "*", color="gold", markeredgecolor="black", markersize=19, zorder=8
                )
            axes.set_title(function.name)
        _legend(figure, [track.name for track in tracks])
    return figure


def _contours(axes: "Axes", function: Function) -> None:
    left, right, bottom, top = function.window
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    with jax.enable_x64(True):
        z = np.asarray(jax.vmap(jax.vmap(function.loss))(jnp.stack([x, y], axis=-1)))
    # levels by quantiles show the shape, whatever the range
    levels = np.unique(np.quantile(z, np.linspace(0, 1, len(_GRAYS) + 1)))
    axes.contourf(x, y, z, levels, colors=_GRAYS[: len(levels) - 1])
    axes.contour(x, y, z, levels[1:-1], colors="#a8b0b8", linewidths=0.5)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.grid(visible=False)


def _way(axes: "Axes", points: NDArray[np.float64], number: int) -> None:
    seen = points[np.isfinite(points).all(axis=1)]
    color = COLORS[number % len(COLORS)]
    axes.plot(*seen.T, color=color, linewidth=1.3, alpha=0.85)
    axes.plot(
        *seen[-1],
        MARKERS[number % len(MARKERS)],
        color=color,
        markeredgecolor="white",
        markersize=8,
        zorder=10 + number,
    )


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            markeredgecolor="white",
            markersize=8,
            linewidth=2,
            label=name,
        )
        for number, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(names), 7))


def convergence(function: Function, tracks: Sequence[Track]) -> "Figure":
    """The loss over the steps, at each optimizer's best rate."""
    with new_figure(8.8, 4.6) as figure:
        axes = figure.subplots()
        for number, track in enumerate(tracks):
            values = track.values[0]
            axes.plot(
                np.arange(len(values)) + 1,
                np.maximum(np.where(np.isfinite(values), values, np.nan), 1e-16),
                color=COLORS[number % len(COLORS)],
                linewidth=1.5,
                marker=MARKERS[number % len(MARKERS)],
                markevery=(0.05 + 0.01 * number, 0.12),
                markeredgecolor="white",
            )
        axes.axhline(TOLERANCE, color="#888888", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="step + 1", ylabel=function.equation)
        axes.set_ylim(bottom=1e-8)
        _legend(figure, [track.name for track in tracks])
    return figure


def arrivals(functions: Sequence[Function], tracks: Sequence[Track]) -> "Figure":
    """How many steps to the tolerance, or where it ended: optimizers by functions."""
    steps = np.array([[np.nan if b.steps is None else b.steps for b in t.best] for t in tracks])
    with new_figure(2.4 + 1.25 * len(functions), 0.9 + 0.25 * len(tracks)) as figure:
        axes = figure.subplots()
        axes.imshow(np.log10(steps), cmap="YlGn_r", aspect="auto", vmin=0)
        for row, track in enumerate(tracks):
            for column, best in enumerate(track.best):
                text = f"{best.late:.1e}" if best.steps is None else f"{best.steps}"
                style: dict[str, Any] = {"style": "italic", "color": "#777777"}
                if best.steps is not None:
                    style = {"color": "white" if best.steps < 40 else "black"}
                axes.text(column, row, text, ha="center", va="center", fontsize=8, **style)
        _name(axes, [track.name for track in tracks], [function.name for function in functions])
    return figure


def accuracies(
    names: Sequence[str],
    rates: NDArray[np.float64],
    test: NDArray[np.float64],
    diverged: NDArray[np.bool_],
    chosen: Sequence[int],
) -> "Figure":
    """Mean test accuracies (0 to 1): optimizers by rates, each optimizer's chosen rate framed.

    Args:
      names: of the optimizers.
      rates: `[rates]`.
      test: `[optimizers, rates]`.
      diverged: the same shape; these are crossed out.
      chosen: by optimizer, which of the rates.
    """
    from matplotlib.patches import Rectangle

    with new_figure(2.4 + 0.52 * len(rates), 1.1 + 0.24 * len(names)) as figure:
        axes = figure.subplots()
        shown = np.ma.masked_where(diverged, 100 * test)
        axes.imshow(shown, cmap="YlGnBu", aspect="auto", vmin=50, vmax=110)
        for (row, column), share in np.ndenumerate(test):
            if diverged[row, column]:
                axes.text(column, row, "×", ha="center", va="center", color="#999999")
            else:
                white = share > 0.93
                axes.text(
                    column,
                    row,
                    f"{100 * share:.1f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if white else "#333333",
                )
        for row, column in enumerate(chosen):
            frame = Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=VERMILLION, linewidth=1.8
            )
            axes.add_patch(frame)
        _name(axes, names, [f"{rate:.2g}" for rate in rates])
        axes.set_xlabel("learning rate")
    return figure


def _name(axes: "Axes", rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), labels=list(rows), fontsize=8)
    axes.set_xticks(range(len(columns)), labels=list(columns), fontsize=8)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
