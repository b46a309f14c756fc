"""Pictures of reviews, each a function from words and numbers to a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 100
"""Characters of a line."""

WIDTH, HEIGHT = 0.0717, 0.17
"""Of a character, in inches, at 8.5 points."""


def lines_of(words: Sequence[str], columns: int = COLUMNS) -> list[list[int]]:
    """Which words stand on each line."""
    lines: list[list[int]] = [[]]
    used = 0
    for index, word in enumerate(words):
        if lines[-1] and used + len(word) > columns:
            lines.append([])
            used = 0
        lines[-1].append(index)
        used += len(word) + 1
    return lines


def coloured_words(words: Sequence[str], saliency: NDArray[np.float32]) -> "Figure":
    """A text, each word on a ground of blue where it speaks for praise, and of red for blame."""
    from matplotlib import colormaps

    lines = lines_of(words)
    strongest = max(float(np.abs(saliency).max(initial=0)), 1e-30)
    colors = colormaps["RdBu"](0.5 + 0.35 * np.asarray(saliency) / strongest)
    with new_figure(WIDTH * COLUMNS + 0.2, HEIGHT * (len(lines) + 1)) as figure:
        width, height = figure.get_size_inches()
        for number, line in enumerate(lines):
            column = 0
            for index in line:
                figure.text(
                    (0.1 + WIDTH * column) / width,
                    1 - HEIGHT * (number + 1) / height,
                    words[index].replace("$", r"\$"),
                    family="monospace",
                    fontsize=8.5,
                    verticalalignment="baseline",
                    bbox={"facecolor": colors[index], "edgecolor": "none", "pad": 1.2},
                )
                column += len(words[index]) + 1
    return figure
