"""The picture of what labels are worth."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.plots import PALETTE, new_figure
from experiments.transfer.results import Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(found: Found) -> "Figure":
    """Accuracy against labels: the mean with its range over seeds, each seed a dot."""
    with new_figure(7.8, 4.4) as figure:
        axes = figure.subplots()
        for place, (name, by_labels) in enumerate(found.items()):
            color = PALETTE[place % len(PALETTE)]
            labels = sorted(by_labels)
            accuracies = {n: 100 * np.array([r.accuracy for r in by_labels[n]]) for n in labels}
            means = [float(accuracies[n].mean()) for n in labels]
            axes.plot(labels, means, "-", label=name, color=color, linewidth=1.6)
            # set apart a little, or dots of the same number of labels hide each other
            shift = 1.03 ** (place - (len(found) - 1) / 2)
            for n in labels:
                each = accuracies[n]
                axes.plot(np.full(len(each), n * shift), each, "o", color=color, markersize=3.5)
                axes.plot([n * shift] * 2, [each.min(), each.max()], color=color, linewidth=1)
        axes.set_xscale("log")
        ticks = sorted({n for by_labels in found.values() for n in by_labels})
        axes.set_xticks(ticks, labels=[f"{n:,}" for n in ticks])
        axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.5)
        axes.minorticks_off()
        axes.set_xlabel("labels")
        axes.set_ylabel("test accuracy (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
