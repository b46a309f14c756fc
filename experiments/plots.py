"""Plots of a run, each a function from arrays to a Matplotlib figure.

Figures are made without pyplot: no backend is chosen, no window or global list holds them, and
Matplotlib's settings are as they were once a function returns.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

_STYLE: dict[str, Any] = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


class Line(NamedTuple):
    """One line of a plot: a value of a run over its steps."""

    run: str
    """Lines of the same run share a colour."""
    steps: ArrayLike
    values: ArrayLike
    split: str = "train"
    """`"train"` is drawn solid, others (`"test"`, `"held out"`) dashed with markers."""


@contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, in the style of all plots while it is drawn on."""
    from matplotlib import style
    from matplotlib.figure import Figure

    # from the defaults, so that a user's own settings do not change a report
    with style.context(["default", _STYLE]):
        yield Figure(figsize=(width, height))


def loss_curves(lines: Sequence[Line], *, x_label: str = "step") -> "Figure":
    """The loss of several runs over their steps, on a logarithmic axis if any is positive."""
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        _draw(axes, lines, x_label, "loss")
        if any(np.any(np.asarray(line.values) > 0) for line in lines):
            axes.set_yscale("log")
    return figure


def accuracy_curves(lines: Sequence[Line], *, x_label: str = "step") -> "Figure":
    """The accuracy (0 to 1) of several runs over their steps, in percent."""
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        percent = [line._replace(values=100 * np.asarray(line.values)) for line in lines]
        _draw(axes, percent, x_label, "accuracy (%)")
        axes.set_ylim(top=100.5)
    return figure


def _draw(axes: "Axes", lines: Sequence[Line], x_label: str, y_label: str) -> None:
    if not lines:
        raise ValueError(f"no lines to draw for {y_label}")
    runs = list(dict.fromkeys(line.run for line in lines))
    for line in lines:
        index = runs.index(line.run)
        test = line.split != "train"
        axes.plot(
            np.asarray(line.steps),
            np.asarray(line.values),
            label=f"{line.run}, {line.split}",
            color=PALETTE[index % len(PALETTE)],
            # earlier runs are drawn broader beneath later ones: equal curves both stay visible
            linewidth=1.3 + (2.4 if index < len(runs) - 1 else 0),
            alpha=0.55 if index < len(runs) - 1 else 1,
            linestyle="--" if test else "-",
            marker="o" if test else None,
            markersize=5 if index < len(runs) - 1 else 3,
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend()


def gradient_norms(norms: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> "Figure":
    """Per-example gradient norms, one histogram per class over a common logarithmic axis.

    The mark in each row is the class's median. Zeros are drawn at the smallest positive norm.
    """
    values, of = np.asarray(norms, np.float64), np.asarray(labels)
    values = _require_examples(values, of)
    floor = values[values > 0].min(initial=np.inf)
    values = np.maximum(values, floor if np.isfinite(floor) else 1e-12)
    low, high = np.log10(values.min()), np.log10(values.max())
    bins = np.logspace(low, max(high, low + 0.1), 41)
    bins[0], bins[-1] = min(bins[0], values.min()), max(bins[-1], values.max())  # despite rounding
    counts = [np.histogram(values[of == index], bins)[0] for index in range(len(classes))]
    tallest = max(1, *(int(count.max()) for count in counts))
    with new_figure(7.2, 1.0 + 0.38 * len(classes)) as figure:
        axes = figure.subplots()
        for row, count in enumerate(counts):
            base, height = -row, 0.85 * count / tallest
            axes.stairs(base + height, bins, baseline=base, fill=True, color=SKY, alpha=0.7)
            axes.stairs(base + height, bins, baseline=base, color=BLUE, linewidth=0.8)
            if count.sum():
                median = float(np.median(values[of == row]))
                axes.plot([median] * 2, [base, base + 0.6], color=VERMILLION, linewidth=2)
                axes.annotate(
                    f"n = {count.sum()}",
                    (1.01, base + 0.1),
                    xycoords=("axes fraction", "data"),
                    fontsize=8,
                    color="#555555",
                    annotation_clip=False,
                )
        axes.set_xscale("log")
        axes.set_yticks([-row + 0.1 for row in range(len(classes))], labels=literal(classes))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-len(classes) + 0.8, 1.1)
        axes.set_xlabel("gradient norm of one example (mark: the class's median)")
        axes.set_ylabel("class")
    return figure


def _require_examples(values: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    if values.shape != labels.shape or values.ndim != 1 or not values.size:
        raise ValueError(
            f"expected one norm and one label per example, got {values.shape} and {labels.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("gradient norms must be finite to be drawn")
    return values


def hardest_examples(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    norms: ArrayLike,
    classes: Sequence[str],
    *,
    count: int = 24,
    columns: int = 8,
) -> "Figure":
    """The `count` examples with the largest norms, largest first, each with label and prediction.

    Wrong predictions are set in bold and framed. Images are `[n, height, width, channels]`, each
    stretched to its own range.
    """
    x, of, said = np.asarray(images), np.asarray(labels), np.asarray(predictions)
    sizes = _require_examples(np.asarray(norms, np.float64), of)
    order = hardest_first(sizes)[:count]
    names = literal(classes)
    columns = min(columns, len(order))
    rows = -(-len(order) // columns)
    # names that would run into their neighbours' take two lines
    arrow = " → " if max(map(len, classes)) < 6 else " →\n"
    with new_figure(1.15 * columns, (1.55 if arrow == " → " else 1.75) * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(order) :]:
            axes.axis("off")
        for axes, index in zip(grid.flat, order, strict=False):
            show_image(
                axes,
                x[index],
                f"{names[of[index]]}{arrow}{names[said[index]]}",
                f"{sizes[index]:.3g}",
                marked=of[index] != said[index],
            )
    return figure


def show_image(axes: "Axes", image: ArrayLike, above: str, below: str, *, marked: bool) -> None:
    """An image `[height, width, channels]`, stretched to its own range, between two short texts.

    What is `marked` is framed, with its text in bold.
    """
    axes.imshow(_picture(np.asarray(image)), cmap="gray_r", interpolation="nearest")
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        color = VERMILLION if marked else "#bbbbbb"
        spine.set(visible=True, color=color, linewidth=2.5 if marked else 0.8)
    axes.set_title(
        above,
        fontsize=8,
        fontweight="bold" if marked else "normal",
        color=VERMILLION if marked else "#333333",
        pad=3,
    )
    axes.set_xlabel(below, fontsize=8, labelpad=2)


def _picture(image: NDArray[Any]) -> NDArray[Any]:
    """In colour from three channels on, else the first."""
    shown = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    low, high = float(shown.min()), float(shown.max())
    scaled: NDArray[Any] = (shown - low) / (high - low if high > low else 1)
    return scaled


def hardest_first(norms: NDArray[Any]) -> NDArray[Any]:
    """The examples' indices by falling gradient norm."""
    # stable, so that equal norms keep the data's order on every machine
    return np.argsort(-norms, kind="stable")


def literal(names: Sequence[str]) -> list[str]:
    """For Matplotlib, to which dollars begin a formula."""
    return [name.replace("$", r"\$") for name in names]


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str]) -> "Figure":
    """How often each class was taken for each; shades are relative to the row's class.

    The diagonal is blue and the errors are orange, on a scale of their own, so that few are seen.
    """
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (np.asarray(labels), np.asarray(predictions)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(n, dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0)), 1e-9)
    side = 2.2 + 0.48 * n
    with new_figure(side, side) as figure:
        axes = figure.subplots()
        axes.imshow(np.ma.masked_where(~diagonal, shares), cmap="Blues", vmin=0, vmax=1.4)
        axes.imshow(np.ma.masked_where(diagonal, shares), cmap="Oranges", vmin=0, vmax=1.6 * worst)
        for row, column in np.argwhere(counts):
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8)
        turn = 45 if max(map(len, classes)) > 3 else 0
        axes.set_xticks(
            range(n),
            labels=literal(classes),
            rotation=turn,
            ha="right" if turn else "center",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(n), labels=literal(classes))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
    return figure


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file, the same bytes each time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()
