"""Pictures of estimates and searches over the seeds, each a function to a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from experiments.plots import PALETTE, new_figure
from jaxnets.train import selection
from jaxnets.train.selection import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGHEST = 10.0
"""Nats up to which losses are shown: what diverges goes on for decades."""


def by_seed(found: Mapping[str, ArrayLike], label: str, *, zero: bool = False) -> "Figure":
    """A dot for each seed, the mean with its 95 % interval (Student's t) beside."""
    from scipy.stats import t

    with new_figure(7.6, 1.1 + 0.45 * len(found)) as figure:
        axes = figure.subplots()
        for place, (_, values) in enumerate(found.items()):
            each = np.asarray(values, np.float64)
            color = PALETTE[place % len(PALETTE)]
            spread = np.linspace(-0.18, 0.18, len(each))
            axes.plot(each, place + spread, "o", color=color, alpha=0.55, markersize=4)
            error = float(t.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) / np.sqrt(len(each)))
            axes.errorbar(
                each.mean(), place + 0.33, xerr=error, fmt="D", color=color, capsize=3, markersize=5
            )
        axes.set_yticks(range(len(found)), labels=list(found))
        axes.set_ylim(len(found) - 0.4, -0.5)
        axes.grid(visible=False, axis="y")
        if zero:
            axes.axvline(0, color="#888888", linewidth=0.9, linestyle="--")
        axes.set_xlabel(label)
    return figure


def on_log_axis(figure: "Figure") -> "Figure":
    """Losses up to `HIGHEST` on a logarithmic axis, with numbers written out."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.axes[0]
    axes.set_yscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], HIGHEST))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def halvings(
    searches: Sequence[selection.Halving], plans: Sequence[Sequence[selection.Rung]]
) -> "Figure":
    """The library's picture, on a logarithmic axis."""
    return on_log_axis(pictures.plot_halving(searches, plans, score="held-out loss (nats)"))
