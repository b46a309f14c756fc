"""What `batch_size` measures, in pictures: steps, test errors and the noise scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.pictures import draw_lines, draw_seeds, panels


def steps(config: Any, steps: np.ndarray, batches: Mapping[str, np.ndarray]) -> Seen:
    """`[seeds, sizes]` to the target."""
    knee, scale = batches["critical batch"], batches["noise scale"]
    with panels([f"steps to a loss of {config.target:g}"]) as (figure, (axes,)):
        sizes = np.asarray(config.sizes)
        draw_lines(
            axes,
            sizes,
            {"best rate": steps},
            x_label="batch size",
            y_label="steps",
            log_x=True,
            log_y=True,
        )
        least, critical = np.median(steps[:, -1]), np.exp(np.mean(np.log(knee)))
        perfect = steps[:, 0].mean() * sizes[0] / sizes
        grey: dict[str, Any] = {"color": "#888888", "linewidth": 1}
        axes.plot(sizes, perfect, **grey, linestyle="--", label="in proportion")
        axes.axvline(critical, **grey, label="critical batch")
        noise = float(np.exp(np.mean(np.log(scale))))
        axes.axvline(noise, color="#D55E00", linestyle=":", linewidth=1.6, label="noise scale")
        axes.set_ylim(bottom=0.6 * least)
        axes.legend()
    return Seen(
        figure,
        "Steps at the best rate, by batch size; dashed, a quarter of the steps for four times the "
        "batch. Median of seeds; the band is from the least to the greatest.",
    )


def errors(config: Any, error: Mapping[str, np.ndarray], batches: Mapping[str, np.ndarray]) -> Seen:
    """Test errors by batch size; the noise scale and the critical batch of each seed."""
    titles = [f"test error at a loss of {config.late_target:g}", "where steps stop paying"]
    with panels(titles, share_y=False) as (figure, (left, right)):
        lines = {"test error": 100 * np.stack(list(error.values()), 1)}
        draw_lines(left, config.sizes, lines, x_label="batch size", y_label="%", log_x=True)
        draw_seeds(right, batches, y_label="examples", log_y=True)
    return Seen(
        figure,
        "Left, the test error when the training loss is first so low, or in the end where it never "
        "is: median of seeds, and a band from the least to the greatest. Right, a point for each "
        "seed, and their mean.",
    )
