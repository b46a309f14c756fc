"""Pictures of what was learned, each a function from arrays to a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.language.training import Trained
from experiments.plots import BLUE, PALETTE, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(runs: Sequence[Trained]) -> "Figure":
    """Bits per byte over the steps: of the training windows, and of what was held out."""
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        for run, color in zip(runs, PALETTE, strict=False):
            name, n = run.net.name, len(run.train_bits)
            width = max(1, n // 100)
            means = np.convolve(run.train_bits, np.full(width, 1 / width), mode="valid")
            axes.plot(
                np.arange(width, n + 1), means, color=color, linewidth=0.9, alpha=0.6,
                label=f"{name}, training windows",
            )  # fmt: skip
            axes.plot(
                run.measured_at, run.held_out_bits, color=color, linestyle="--", marker="o",
                markersize=3, label=f"{name}, held out",
            )  # fmt: skip
        # the first steps say little: from uniform bytes to their frequencies
        axes.set_ylim(top=max(float(run.held_out_bits.max()) for run in runs) + 0.3)
        axes.set_xlabel("step")
        axes.set_ylabel("bits per byte")
        axes.legend()
    return figure


def _characters(content: bytes) -> list[str]:
    shown = {10: "⏎", 32: "␣", 36: r"\$"}
    return [shown.get(b, chr(b) if 32 < b < 127 else "·") for b in content]


def attention(weights: NDArray[np.float64], content: bytes) -> "Figure":
    """`[T, T]`: a row for each byte that looks, a column for each that is looked at."""
    t = len(content)
    with new_figure(0.13 * t + 0.8, 0.13 * t + 0.6) as figure:
        axes = figure.subplots()
        axes.imshow(
            weights, cmap="Blues", vmin=0, vmax=max(0.2, float(np.quantile(weights, 0.999)))
        )
        axes.grid(visible=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(t), labels=_characters(content), fontsize=6, family="monospace")
        axes.tick_params(length=0, pad=1)
        axes.set_xlabel("looked at")
        axes.set_ylabel("looking")
    return figure


def surprise(
    values: Sequence[NDArray[np.float64]], names: Sequence[str], content: bytes
) -> "Figure":
    """Bits that each byte of a passage cost, a row of panels for each net."""
    with new_figure(0.1 * len(content) + 1.0, 1.5 * len(values) + 0.4) as figure:
        grid = figure.subplots(len(values), 1, squeeze=False, sharey=True)[:, 0]
        for axes, name, bits in zip(grid, names, values, strict=True):
            colors = np.where(bits > 6, VERMILLION, BLUE)
            axes.bar(np.arange(len(content)), bits, color=colors, width=0.85)
            axes.set_xticks(
                range(len(content)), labels=_characters(content), fontsize=7, family="monospace"
            )
            axes.tick_params(axis="x", length=0, pad=1)
            axes.grid(visible=False, axis="x")
            axes.set_xlim(-0.6, len(content) - 0.4)
            axes.set_title(name, loc="left", fontsize=9)
            axes.set_ylabel("bits")
    return figure
