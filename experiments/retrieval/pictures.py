"""Curves, what was found, and similarities, each a function from arrays to a figure."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.plots import BLUE, GREEN, PALETTE, VERMILLION, new_figure, show_image
from experiments.retrieval.measure import KS, Recall

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOUND = 6
"""Pictures, or captions, shown for each query."""


def curves(
    losses: Sequence[NDArray[np.float64]], recalls: Sequence[Sequence[Recall]], guessed: float
) -> "Figure":
    """Of each run: the loss while training, and recall@5 of the held-out pairs, by epoch."""
    with new_figure(9.6, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for run, (loss, found) in enumerate(zip(losses, recalls, strict=True)):
            epochs = np.arange(1, len(loss) + 1)
            first = run == 0
            left.plot(epochs, loss, color=PALETTE[run % len(PALETTE)], linewidth=1.4)
            for way, color in (("images", BLUE), ("texts", VERMILLION)):
                values = [100 * getattr(recall, way)[KS.index(5)] for recall in found]
                name = {"images": "pictures by caption", "texts": "captions by picture"}[way]
                label = name if first else None
                right.plot(epochs, values, color=color, linewidth=1.2, alpha=0.8, label=label)
        right.axhline(100 * guessed, color="#555555", linewidth=0.9, linestyle=":", label="chance")
        right.axhline(
            1000 * guessed, color=GREEN, linewidth=0.9, linestyle="--", label="ten times chance"
        )
        left.set(xlabel="epoch", ylabel="loss (training)")
        right.set(xlabel="epoch", ylabel="recall@5 on held-out pairs (%)")
        right.set_ylim(bottom=0)
        right.legend(fontsize=8)
    return figure


def _short(text: str, width: int = 18, lines: int = 2) -> str:
    """Text in a few lines, without the dollars that begin a formula."""
    whole = text.replace("$", r"\$")
    return "\n".join(textwrap.wrap(whole, width, max_lines=lines, placeholder=" …")) or "–"


def pictures_by_caption(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    similarities: NDArray[np.floating],
    queries: Sequence[int],
) -> "Figure":
    """A row for each query: its caption, and the pictures found, the right one framed.

    Args:
      images: `[n, height, width, 3]`.
      captions: `[n]`.
      similarities: `[n, n]`, of pictures (rows) and captions.
      queries: which captions.
    """
    with new_figure(1.15 * (FOUND + 1.4), 1.25 * len(queries)) as figure:
        grid = figure.subplots(
            len(queries), FOUND + 1, squeeze=False, width_ratios=[1.4, *[1] * FOUND]
        )
        for row, query in zip(grid, queries, strict=True):
            row[0].axis("off")
            text = _short(captions[query], 16, 4)
            row[0].text(1, 0.5, text, ha="right", va="center", fontsize=9)
            order = np.argsort(-similarities[:, query], kind="stable")[:FOUND]
            for axes, found in zip(row[1:], order, strict=False):
                value = f"{similarities[found, query]:.2f}"
                show_image(axes, images[found] / 255, "", value, marked=found == query)
            for axes in row[1 + len(order) :]:
                axes.axis("off")
    return figure


def captions_by_picture(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    similarities: NDArray[np.floating],
    queries: Sequence[int],
    *,
    columns: int = 2,
) -> "Figure":
    """A picture for each query, and the captions found, the right one in bold."""
    rows = -(-len(queries) // columns)
    with new_figure(4.4 * columns, 1.35 * rows) as figure:
        grid = figure.subplots(
            rows, 2 * columns, squeeze=False, width_ratios=[1, 2.2] * columns
        ).reshape(-1, 2)
        for (left, right), query in zip(grid, queries, strict=False):
            show_image(left, images[query] / 255, "", "", marked=False)
            right.axis("off")
            order = np.argsort(-similarities[query], kind="stable")[:FOUND]
            for line, found in enumerate(order):
                right.text(
                    0.0,
                    0.92 - line * 0.168,
                    f"{similarities[query, found]:.2f}  {_short(captions[found], 34, 1)}",
                    fontsize=8,
                    va="center",
                    fontweight="bold" if found == query else "normal",
                    color=VERMILLION if found == query else "#333333",
                )
        for pair in grid[len(queries) :]:
            for axes in pair:
                axes.axis("off")
    return figure


def similarity_matrix(
    images: NDArray[np.uint8], captions: Sequence[str], similarities: NDArray[np.floating]
) -> "Figure":
    """Cosines of a few pictures (columns) and captions (rows); pairs are on the diagonal."""
    n = len(captions)
    with new_figure(3.6 + 0.42 * n, 0.9 + 0.42 * n) as figure:
        # the squares' size is given: what is left belongs to the labels
        figure.set_layout_engine("compressed")
        axes = figure.subplots()
        limit = float(np.abs(similarities).max())
        shown = axes.imshow(similarities.T, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_yticks(range(n), labels=[_short(text, 24, 1) for text in captions], fontsize=8)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.set_ylim(n - 0.5, -1.6)
        for i, image in enumerate(images):
            axes.imshow(image, extent=(i - 0.45, i + 0.45, -0.6, -1.5), aspect="equal")
        axes.set_xlim(-0.5, n - 0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(shown, ax=axes, shrink=0.7, label="cosine")
    return figure
