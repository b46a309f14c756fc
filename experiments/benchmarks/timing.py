"""Interleaved timing: machines are noisy, so contenders take turns and ratios are quoted."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

TURN = 0.1
"""Seconds a contender works at least before the next one's turn: caches and clocks settle."""


class Timing(NamedTuple):
    """One contender's seconds per step."""

    median: float
    low: float
    high: float


def interleave(contenders: Mapping[str, Callable[[], int]], *, rounds: int) -> dict[str, Timing]:
    """Time every contender once per round, in an order that turns with the rounds.

    Args:
      contenders: each call does some steps, waits for their end, and returns how many they were.
      rounds: how many times; one more comes first and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started, steps = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - started) < TURN or not steps:
                steps += contenders[name]()
            if number:
                seconds[name].append(elapsed / steps)
    return {name: Timing(median(s), min(s), max(s)) for name, s in seconds.items()}


def table(timings: Mapping[str, Timing], baseline: str) -> str:
    """Microseconds per step, and how many times as fast as the baseline (by medians)."""
    width = max(map(len, timings))
    lines = [f"{'':<{width}}  {'median µs':>10}  {'min':>10}  {'max':>10}  {'speed':>7}"]
    for name, timing in timings.items():
        speed = timings[baseline].median / timing.median
        cells = "  ".join(f"{1e6 * value:>10,.1f}" for value in timing)
        lines.append(f"{name:<{width}}  {cells}  {speed:>6.2f}x")
    return "\n".join(lines)
