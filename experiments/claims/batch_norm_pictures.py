"""What `batch_norm` measures, in pictures: how nets end by rate, and by batch size."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_lines, panels


def by_rate(config: Any, rates: ArrayLike, runs: Mapping[str, Any]) -> Seen:
    """Losses and errors, with batch norm and without."""
    with panels(["training loss", "test error"], share_y=False) as (figure, (left, right)):
        losses = {name: found.loss for name, found in runs.items()}
        errors = {name: 100 * found.error for name, found in runs.items()}
        label = "learning rate"
        draw_lines(left, rates, losses, x_label=label, y_label="nats", log_x=True, log_y=True)
        draw_lines(right, rates, errors, x_label=label, y_label="%", log_x=True, log_y=True)
        left.legend(loc="lower left")
    return Seen(
        figure,
        f"After {config.steps} steps of {config.batch_size} digits. Median of seeds; the band is "
        "from the least to the greatest.",
    )


def steps_and_sizes(
    config: Any,
    rates: ArrayLike,
    runs: Mapping[str, Any],
    error: Mapping[tuple[str, int], np.ndarray],
) -> Seen:
    """Steps to the target by rate, and test errors by batch size."""
    titles = [f"steps to a loss of {config.target:g}", "test error by batch size"]
    with panels(titles, share_y=False) as (figure, (left, right)):
        steps = {name: found.steps for name, found in runs.items()}
        draw_lines(
            left, rates, steps, x_label="learning rate", y_label="steps", log_x=True, log_y=True
        )
        sizes = sorted({size for _, size in error})
        errors = {name: np.stack([100 * error[name, n] for n in sizes], 1) for name in runs}
        label = "examples in a batch"
        draw_lines(right, sizes, errors, x_label=label, y_label="%", log_x=True, log_y=True)
        left.legend(loc="lower left")
    return Seen(
        figure,
        "Left, a run that does not get there counts as one record more than it was given. Right, "
        "at equal examples seen, each at its best rate. Median of seeds; the band is from the "
        "least to the greatest.",
    )
