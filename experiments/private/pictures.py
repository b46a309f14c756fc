"""What privacy costs and what an audit sees, as Matplotlib figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.plots import BLUE, PALETTE, VERMILLION, new_figure
from experiments.private.classifier import Judged

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cost(private: Sequence[Judged], baseline: Judged) -> "Figure":
    """Test accuracy against `ε`: the seeds' mean, their range as bars; the other as a line."""
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        epsilons = [judged.level.epsilon for judged in private]
        values = [_percent(judged) for judged in private]
        means = np.array([np.mean(row) for row in values])
        ends = np.array([[np.min(row), np.max(row)] for row in values]).T
        axes.errorbar(
            epsilons, means, np.abs(ends - means), color=BLUE, marker="o", capsize=3, label="DP-SGD"
        )
        other = _percent(baseline)
        axes.axhline(float(np.mean(other)), color=VERMILLION, label="not private")
        axes.axhspan(min(other), max(other), color=VERMILLION, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(epsilons, labels=[f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set_xlabel("ε")
        axes.set_ylabel("test accuracy (%)")
        axes.legend(loc="lower right")
    return figure


def _percent(judged: Judged) -> list[float]:
    return [100 * float(outcome.test) for outcome in judged.seeds]


def clipping(private: Sequence[Judged]) -> "Figure":
    """The share of examples clipped at each step, of the first seed."""
    with new_figure(7.2, 3.4) as figure:
        axes = figure.subplots()
        for index, judged in enumerate(private):
            share = 100 * np.asarray(judged.seeds[0].clipped)
            axes.plot(
                np.arange(len(share)) + 1,
                share,
                color=PALETTE[index % len(PALETTE)],
                linewidth=1,
                label=judged.level.name,
            )
        axes.set_ylim(0, 100.5)
        axes.set_xlabel("step")
        axes.set_ylabel("examples clipped (%)")
        axes.legend()
    return figure


def scores(
    coins: Sequence[NDArray[np.bool_]], values: Sequence[NDArray[np.float64]], names: Sequence[str]
) -> "Figure":
    """Histograms of the canaries' scores, a panel for each run: those there, and the others."""
    with new_figure(7.2, 3.2) as figure:
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, there, score, name in zip(panels, coins, values, names, strict=True):
            bins = np.linspace(score.min(), score.max(), 41)
            axes.hist(score[~there], bins, color=BLUE, alpha=0.6, label="not there")
            axes.hist(score[there], bins, color=VERMILLION, alpha=0.6, label="there")
            axes.set_title(name)
            axes.set_xlabel("score")
        panels[0].set_ylabel("canaries")
        panels[0].legend()
    return figure
