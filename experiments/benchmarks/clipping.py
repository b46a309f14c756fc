"""Clipped gradients by other libraries: jax-privacy and Opacus, each where it is installed."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

Once = Callable[[], int]
"""One clipped gradient, waited for; returns 1, the number of steps."""

CLIP_NORM = 1.0


def jax_privacy(loss: Any, batch: int, microbatch: int | None) -> Callable[..., Any]:
    """The mean of clipped gradients, `microbatch` examples at a time; None for all at once."""
    import jax_privacy as library

    clipped: Callable[..., Any] = library.clipped_grad(
        loss, l2_clip_norm=CLIP_NORM, batch_argnums=(1, 2), keep_batch_dim=False,
        normalize_by=batch, microbatch_size=microbatch,
    )  # fmt: skip
    return clipped


def fastest_microbatch(
    of_size: Callable[[int | None], Callable[..., Any]], arguments: tuple[Any, ...]
) -> tuple[int | None, Any]:
    """The quickest microbatch size on these arguments, and the function that takes it."""
    batch = len(arguments[1])
    sizes = [m for m in (1, 4, 16, 64) if m < batch and batch % m == 0]
    best: tuple[float, int | None, Any] | None = None
    for size in (*sizes, None):
        make = of_size(size)
        program = jax.jit(make).lower(*arguments).compile()
        jax.block_until_ready(program(*arguments))
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - started)
        if best is None or min(seconds) < best[0]:
            best = min(seconds), size, make
    assert best is not None
    return best[1:]


def _layers(name: str) -> Any:
    """The net of that name in `per_example`, of the same sizes."""
    from torch import nn

    if name.startswith("MLP"):
        return nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 8 * 128, 10),
    )  # fmt: skip


def opacus(name: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Once]]:
    """PyTorch's plain gradient and Opacus's two ways to clip, each with its forward pass.

    The gradient only: no step is taken. Nothing for nets other than the MLP and the CNN.

    Raises:
      ModuleNotFoundError: without torch or opacus.
    """
    if not name.startswith(("MLP", "CNN")):
        return
    import numpy as np
    import torch
    from opacus import GradSampleModule
    from opacus import grad_sample as samples
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    _, inputs, labels = (np.asarray(a) if i else a for i, a in enumerate(arguments))
    x, y = torch.tensor(inputs), torch.tensor(labels).long()
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous()
    criterion = torch.nn.CrossEntropyLoss()
    options = {
        "noise_multiplier": 0.0, "max_grad_norm": CLIP_NORM, "expected_batch_size": len(x),
    }  # fmt: skip

    def once(model: Any, criterion: Any, optimizer: Any, finish: Callable[[], Any]) -> Once:
        def step() -> int:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            finish()
            return 1

        return step

    def descent(model: Any) -> Any:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    model = _layers(name)
    yield "PyTorch, plain gradient", once(model, criterion, descent(model), lambda: None)

    model = GradSampleModule(_layers(name))
    optimizer = DPOptimizer(descent(model), **options)
    yield "Opacus, per-sample", once(model, criterion, optimizer, optimizer.pre_step)

    model = samples.GradSampleModuleFastGradientClipping(
        _layers(name), max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(descent(model), **options)
    twice = DPLossFastGradientClipping(model, optimizer, criterion)
    yield "Opacus, ghost clipping", once(model, twice, optimizer, optimizer.pre_step)
