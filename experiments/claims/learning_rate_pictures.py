"""What `learning_rate` measures, in pictures: how training ends by rate and schedule."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_lines, panels

ByRate = tuple[ArrayLike, Mapping[str, np.ndarray]]
"""Rates, and each schedule's losses at them, `[seeds, rates]`."""


def by_rate(
    config: Any,
    rates: ArrayLike,
    ends: Mapping[str, tuple[np.ndarray, np.ndarray]],
    suggested: np.ndarray,
) -> Seen:
    """Losses and errors of every schedule, and what the range test suggests."""
    with panels(["training loss", "test error"], share_y=False) as (figure, (left, right)):
        x_label = "learning rate"
        losses = {name: values[0] for name, values in ends.items()}
        errors = {name: 100 * values[1] for name, values in ends.items()}
        draw_lines(left, rates, losses, x_label=x_label, y_label="nats", log_x=True, log_y=True)
        draw_lines(right, rates, errors, x_label=x_label, y_label="%", log_x=True, log_y=True)
        for rate in suggested:
            left.axvline(rate, color="#888888", linestyle=":", linewidth=1)
        right.legend(loc="upper left")
    return Seen(
        figure,
        f"After {config.steps} steps, by rate (of schedules, the highest). Dotted: what the range "
        "test suggests, by seed. Median of seeds; the band is from the least to the greatest.",
    )


def noise_and_warmup(config: Any, noisy: ByRate, fine: ByRate, works: float) -> Seen:
    """Losses where gradients stay noisy; and with warm-up and without, on a finer grid."""
    titles = [f"{config.redrawn:.0%} of labels drawn anew", "warm-up"]
    with panels(titles, share_y=False) as (figure, row):
        for axes, (rates, losses) in zip(row, (noisy, fine), strict=True):
            draw_lines(axes, rates, losses, x_label="learning rate", log_x=True, log_y=True)
            axes.legend()
        row[0].set_ylabel("loss above its least, nats")
        row[1].set_ylabel("training loss, nats")
        row[1].axhline(works, color="#888888", linestyle=":", linewidth=1)
    return Seen(
        figure,
        "Left, the expected loss above the entropy of labels that are drawn anew; right, a rate "
        "works if the loss is below the dotted line. Median of seeds; the band is from the least "
        "to the greatest.",
    )
