"""How sure the model was of each token, as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments import plots
from experiments.generate.generation import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

A_ROW = 20
"""Tokens side by side."""


def certainty(pieces: Sequence[str], scores: Scores) -> "Figure":
    """Each token's probability as a bar over its text, orange where another was likelier."""
    rows = [range(start, min(start + A_ROW, len(pieces))) for start in range(0, len(pieces), A_ROW)]
    labels = plots.literal(pieces)
    with plots.new_figure(9.0, 1.9 * len(rows)) as figure:
        grid = figure.subplots(len(rows), squeeze=False)
        for axes, row in zip(grid[:, 0], rows, strict=True):
            heights = scores.probabilities[row.start : row.stop]
            best = scores.likeliest_probabilities[row.start : row.stop, 0]
            colors = [
                plots.BLUE if h >= b else plots.ORANGE for h, b in zip(heights, best, strict=True)
            ]
            axes.bar(range(len(row)), heights, color=colors, width=0.8)
            axes.plot(range(len(row)), best, "_", color="#555555", markersize=10)
            axes.set(xlim=(-0.6, A_ROW - 0.4), ylim=(0, 1.02), yticks=(0, 0.5, 1))
            axes.set_xticks(
                range(len(row)),
                labels=labels[row.start : row.stop],
                rotation=60,
                ha="right",
                rotation_mode="anchor",
                fontsize=8,
            )
            axes.grid(visible=False, axis="x")
            axes.set_ylabel("probability")
    return figure
