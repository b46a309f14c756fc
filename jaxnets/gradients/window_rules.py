"""The chain rule's local step for pooling: sums and extremes over windows.

A window has a first, a second, … place. What all windows have at one of these is a strided slice of
the operand (filled up as the pooling says), and the error signal of that slice goes back to where
it was cut out; a value that several windows saw has one from each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxnets.gradients.rule import Rule
from jaxnets.types import Array


def _places(
    x: Array, filling: float, shape: Sequence[int], *, window_dimensions: Sequence[int],
    window_strides: Sequence[int], padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int], window_dilation: Sequence[int], **params: Any,
) -> Iterator[tuple[Array, Callable[[Array], Array]]]:  # fmt: skip
    """For each place in a window, what the windows `[*shape]` have there, and the way back to x."""
    config = [(low, high, gap - 1) for (low, high), gap in zip(padding, base_dilation, strict=True)]
    filled = lax.pad(x, jnp.asarray(filling, x.dtype), config)
    spans = [(m - 1) * stride + 1 for m, stride in zip(shape, window_strides, strict=True)]
    for place in product(*map(range, window_dimensions)):
        starts = [i * step for i, step in zip(place, window_dilation, strict=True)]
        ends = [start + span for start, span in zip(starts, spans, strict=True)]

        def back(error: Array, starts: list[int] = starts, ends: list[int] = ends) -> Array:
            zero = jnp.zeros((), error.dtype)
            around = [
                (start, n - end, stride - 1)
                for start, end, n, stride in zip(
                    starts, ends, filled.shape, window_strides, strict=True
                )
            ]
            outer = [(-low, -high, 0) for low, high in padding]
            inner = tuple(slice(None, None, gap) for gap in base_dilation)
            by_x: Array = lax.pad(lax.pad(error, zero, around), zero, outer)[inner]
            return by_x

        yield lax.slice(filled, starts, ends, window_strides), back


def _window_sum(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
    total = jnp.zeros_like(x[0])
    for _, back in _places(x[0], 0, y.shape, **params):
        total = total + back(error)
    return [total]


def _window_extreme(filling: float) -> Rule:
    """To the first place of each window that is the extreme."""

    def rule(x: Sequence[Array], y: Array, error: Array, /, **params: Any) -> list[Array | None]:
        total, found = jnp.zeros_like(x[0]), jnp.zeros(y.shape, bool)
        for values, back in _places(x[0], filling, y.shape, **params):
            here = (values == y) & ~found
            total, found = total + back(jnp.where(here, error, 0)), found | here
        return [total]

    return rule


WINDOWS: Mapping[str, Rule] = MappingProxyType(
    {
        "reduce_window_max": _window_extreme(-jnp.inf),
        "reduce_window_min": _window_extreme(jnp.inf),
        "reduce_window_sum": _window_sum,
    }
)
"""By the operation's name in a traced program."""
