"""Pictures of learning and of attention, each a function from arrays to a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from experiments.plots import BLUE, VERMILLION, new_figure
from experiments.translation.training import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning(epochs: Sequence[Epoch], best: int) -> "Figure":
    """The loss in training and on validation pairs; dotted: the epoch that was kept."""
    steps = [epoch.step for epoch in epochs]
    with new_figure(7.2, 4.0) as figure:
        axes = figure.subplots()
        axes.plot(steps, [e.loss for e in epochs], color=BLUE, label="training, smoothed labels")
        axes.plot(
            steps, [e.held_out for e in epochs],
            color=VERMILLION, marker="o", markersize=3, linestyle="--", label="validation",
        )  # fmt: skip
        axes.axvline(steps[best], color="#888888", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylabel="nats a token")
        axes.legend()
    return figure


def attention(weights: ArrayLike, source: Sequence[str], target: Sequence[str]) -> "Figure":
    """How much each token that is written (rows) looks at each that is read (columns)."""
    shown = np.asarray(weights)[: len(target), : len(source)]
    with new_figure(1.6 + 0.34 * len(source), 1.4 + 0.3 * len(target)) as figure:
        axes = figure.subplots()
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(len(source)), labels=[_literal(s) for s in source], rotation=60)
        axes.set_yticks(range(len(target)), labels=[_literal(s) for s in target])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
    return figure


def _literal(text: str) -> str:
    """For Matplotlib, to which dollars begin a formula; a space that is seen."""
    return text.replace("$", r"\$").replace(" ", "·")
