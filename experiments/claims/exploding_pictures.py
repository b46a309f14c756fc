"""What `exploding` measures, in pictures: error signals through time, and losses by rate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_lines, panels


def error_signals(profiles: Mapping[str, np.ndarray]) -> Seen:
    """Of each cell, by step."""
    with panels(["before training"]) as (figure, (axes,)):
        # what has underflowed is a gap
        lines = {
            name: np.where(profile > 0, profile, np.nan) / profile[:, -1:]
            for name, profile in profiles.items()
        }
        draw_lines(
            axes, np.arange(1, 64), lines, x_label="step",
            y_label="error signal, relative to the last step", log_y=True, marked=False,
        )  # fmt: skip
        axes.legend(loc="lower right")
    return Seen(
        figure,
        "The error signal on its way back through time, from the last step but one (of an LSTM, "
        "that of its cell state). Median of seeds; the band is from the least to the greatest.",
    )


def losses(config: Any, rates: np.ndarray, found: Mapping[str, np.ndarray]) -> Seen:
    """With clipping and without, by rate."""
    with panels([f"training, radius {config.radii[-1]:g}"]) as (figure, (axes,)):
        label = "learning rate"
        draw_lines(axes, rates, found, x_label=label, y_label="training loss, nats", log_x=True)
        axes.axhline(config.trained, color="#888888", linestyle=":", linewidth=1)
        axes.legend(loc="lower left")
    return Seen(
        figure,
        f"The loss in the end, by rate, with gradients clipped at {config.clip:g} and not; above "
        "the dotted line training has failed. Median of seeds; the band is from the least to the "
        "greatest.",
    )
