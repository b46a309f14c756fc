"""Pictures of losses, sharpness and spectra, each a function from runs to a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.curvature.autoencoder import TARGETS, Curve, lowest, steps_to
from experiments.curvature.cost import Cost
from experiments.curvature.stability import Descent, Spectrum
from experiments.plots import PALETTE, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _color(i: int) -> str:
    return PALETTE[i % len(PALETTE)]


def losses(curves: Mapping[str, Sequence[Curve]], costs: Mapping[str, Cost]) -> "Figure":
    """The loss of each optimizer's best settings, against steps and against CPU time."""
    with new_figure(9.6, 4.0) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for i, (name, found) in enumerate(curves.items()):
            best = lowest(found)
            mean = np.mean([curve.losses for curve in best], axis=0)
            for axes, unit in ((left, 1.0), (right, costs[name].cpu)):
                for curve in best:
                    at = curve.steps[1:] * unit
                    axes.plot(at, curve.losses[1:], color=_color(i), alpha=0.3, linewidth=0.8)
                axes.plot(best[0].steps[1:] * unit, mean[1:], color=_color(i), label=name)
        left.set(xscale="log", yscale="log", xlabel="step", ylabel="loss (nats an image)")
        right.set(xscale="log", xlabel="CPU seconds")
        for axes in (left, right):
            _plain_log(axes.xaxis)
        _plain_ticks(left, [14, 15, 16, 18, 20, 25, 30, 40])
        seen = np.concatenate([c.losses for found in curves.values() for c in lowest(found)])
        # a run that diverged has losses that are no numbers
        left.set_ylim(0.98 * float(np.min(seen[np.isfinite(seen)])), 32)
        left.legend()
    return figure


def _plain_ticks(axes: Any, at: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_yticks(at, labels=[f"{y:g}" for y in at])
    axes.yaxis.set_minor_locator(NullLocator())


def _plain_log(axis: Any) -> None:
    """Numbers written out, at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def steps_needed(curves: Mapping[str, Sequence[Curve]]) -> "Figure":
    """The fewest steps of any settings to each loss; harder losses to the right."""
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        for i, (name, found) in enumerate(curves.items()):
            steps = np.array([steps_to(found, target)[0] for target in TARGETS])
            there = np.isfinite(steps)
            axes.plot(
                np.array(TARGETS)[there], steps[there],
                color=_color(i), marker="o", markersize=4, label=name,
            )  # fmt: skip
        axes.set(yscale="log", xlabel="loss to be reached (nats an image)", ylabel="steps")
        axes.invert_xaxis()
        _plain_log(axes.yaxis)
        axes.legend()
    return figure


def reconstructions(images: ArrayLike, made: Mapping[str, ArrayLike]) -> "Figure":
    """Rows of images `[n, 8, 8]`: those of the data, and what each net makes of them."""
    rows = {"image": np.asarray(images), **{name: np.asarray(x) for name, x in made.items()}}
    columns = len(rows["image"])
    with new_figure(0.72 * columns + 1.4, 0.8 * len(rows)) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for row, (name, pictures) in zip(grid, rows.items(), strict=True):
            for axes, picture in zip(row, pictures, strict=True):
                axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def sharpness(descents: Sequence[Descent]) -> "Figure":
    """The sharpness of each run, with the `2 / η` of its rate, and its loss."""
    with new_figure(9.6, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        full = max(d.batch_size for d in descents)
        rates = list(dict.fromkeys(d.learning_rate for d in descents))
        highest = max(float(np.max(d.sharpness)) for d in descents)
        for descent in descents:
            color = _color(rates.index(descent.learning_rate))
            small = descent.batch_size < full
            label = f"η = {descent.learning_rate:g}"
            label += f", batches of {descent.batch_size}" if small else ""
            style = {"color": color, "linestyle": ":" if small else "-", "linewidth": 1.4}
            left.plot(descent.steps, descent.sharpness, label=label, **style)
            right.plot(descent.steps, descent.losses, label=label, **style)
            limit = 2 / descent.learning_rate
            if not small and limit < 1.2 * highest:
                left.axhline(limit, color=color, linewidth=0.9, linestyle="--")
                left.annotate(
                    f"2/{descent.learning_rate:g}", (1.01, limit),
                    xycoords=("axes fraction", "data"), color=color, fontsize=8, va="center",
                )  # fmt: skip
        left.set(xlabel="step", ylabel="largest eigenvalue of the Hessian")
        lowest_seen = min(float(np.min(d.sharpness)) for d in descents)
        left.set_ylim(0.85 * lowest_seen, 1.08 * highest)
        right.set(xlabel="step", ylabel="loss", yscale="log")
        _plain_log(right.yaxis)
        right.legend(fontsize=8)
    return figure


def spectra(found: Mapping[str, Spectrum]) -> "Figure":
    """Densities of eigenvalues on a logarithmic axis, the largest ones marked."""
    with new_figure(7.2, 2.5 * len(found)) as figure:
        rows: NDArray[Any] = np.atleast_1d(figure.subplots(len(found), sharex=True))
        for i, (axes, (name, spectrum)) in enumerate(zip(rows, found.items(), strict=True)):
            floor = 1e-6
            shown = np.maximum(spectrum.density, floor)
            axes.fill_between(spectrum.grid, floor, shown, color=_color(i), alpha=0.35)
            axes.plot(spectrum.grid, shown, color=_color(i), linewidth=1)
            axes.plot(
                spectrum.top, np.full(len(spectrum.top), 3 * floor), "|",
                color=VERMILLION, markersize=11, label=f"the {len(spectrum.top)} largest",
            )  # fmt: skip
            axes.set(yscale="log", ylim=(floor, None), ylabel="density")
            axes.set_title(name)
        rows[-1].set_xlabel("eigenvalue of the Hessian")
        rows[0].legend(loc="upper right")
    return figure
