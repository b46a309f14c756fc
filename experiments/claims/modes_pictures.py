"""What `modes` measures, in pictures: minima, ways between them, and the barriers on these."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_lines, draw_seeds, panels


def paths(losses: Mapping[int, Mapping[str, np.ndarray]]) -> Seen:
    """The loss along each, by width."""
    with panels([f"{width} units" for width in losses]) as (figure, row):
        for axes, found in zip(row, losses.values(), strict=True):
            at = np.linspace(0, 1, found["straight"].shape[1])
            lines = {name: np.maximum(values, 1e-5) for name, values in found.items()}
            draw_lines(axes, at, lines, x_label="from one net to the other", log_y=True,
                       marked=False)  # fmt: skip
        row[0].set_ylabel("training loss, nats")
        row[-1].legend(loc="lower center")
    return Seen(
        figure,
        "The loss on the way between two nets that were trained apart. Median of seeds; the band "
        "is from the least to the greatest.",
    )


def minima(judged: Mapping[int, Sequence[np.ndarray]]) -> Seen:
    """Training losses and test errors `[seeds, starts]` by width."""
    titles = ["training loss, nats", "test error, %"]
    with panels(titles, share_y=False) as (figure, (left, right)):
        losses = {f"{width} units": found[0].ravel() for width, found in judged.items()}
        errors = {f"{width} units": 100 * found[1].ravel() for width, found in judged.items()}
        draw_seeds(left, {name: np.maximum(values, 1e-6) for name, values in losses.items()},
                   log_y=True)  # fmt: skip
        draw_seeds(right, errors)
    return Seen(
        figure,
        "Where training ends: a point for each start of each seed, in the order of seeds, and "
        "their mean.",
    )


def barriers(found: Mapping[int, Mapping[str, np.ndarray]]) -> Seen:
    """Of each way, by width."""
    with panels([f"{width} units" for width in found]) as (figure, row):
        for axes, of_width in zip(row, found.values(), strict=True):
            draw_seeds(axes, of_width, log_y=True)
        row[0].set_ylabel("barrier, nats")
    return Seen(
        figure,
        "The highest loss on each way above the straight line between its ends: a point for each "
        "seed, and their mean.",
    )
