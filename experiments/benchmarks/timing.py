"""Interleaved timing: machines are noisy, so contenders take turns and ratios are quoted."""

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from experiments.errors import UsageError

TURN = 0.1
"""Seconds a contender works at least before the next one's turn: caches and clocks settle."""


class Timing(NamedTuple):
    """One contender's seconds per step."""

    median: float
    low: float
    high: float


def at_least_one(rounds: int) -> None:
    """Raise `UsageError` for fewer rounds than one."""
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")


def interleave(contenders: Mapping[str, Callable[[], int]], *, rounds: int) -> dict[str, Timing]:
    """Time every contender once per round, in an order that turns with the rounds.

    Args:
      contenders: each call does some steps, waits for their end, and returns how many they were.
      rounds: how many times; one more comes first and is not counted.

    Raises:
      UsageError: for fewer rounds than one.
    """
    at_least_one(rounds)
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
    """Microseconds per step, and how many times as fast as the baseline (by medians).

    Without the baseline among them, the speeds are left out.
    """
    width = max(map(len, timings))
    lines = [f"{'':<{width}}  {'median µs':>10}  {'min':>10}  {'max':>10}  {'speed':>7}"]
    for name, timing in timings.items():
        cells = "  ".join(f"{1e6 * value:>10,.1f}" for value in timing)
        base = timings.get(baseline)
        speed = f"{base.median / timing.median:>6.2f}x" if base else f"{'–':>7}"
        lines.append(f"{name:<{width}}  {cells}  {speed}")
    return "\n".join(lines)


def compiled_steps(
    programs: Mapping[str, tuple[Callable[..., Any], Sequence[Any]]],
    counts: Mapping[str, int] | None = None,
) -> tuple[dict[str, Callable[[], int]], dict[str, int | None]]:
    """Each function on its arguments as a step to be timed, and its temporary memory.

    That is in bytes, without arguments and results; `None` where the compiler does not tell it.
    `counts` are how many steps a call is, where it is more than one.
    """
    import jax

    compiled = {
        name: (jax.jit(function).lower(*arguments).compile(), arguments)
        for name, (function, arguments) in programs.items()
    }

    def once(program: Any, arguments: Sequence[Any], count: int) -> Callable[[], int]:
        def step() -> int:
            jax.block_until_ready(program(*arguments))
            return count

        return step

    count = counts or {}
    steps = {name: once(*both, count.get(name, 1)) for name, both in compiled.items()}
    analyses = {name: program.memory_analysis() for name, (program, _) in compiled.items()}
    return steps, {
        name: None if analysis is None else analysis.temp_size_in_bytes
        for name, analysis in analyses.items()
    }


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Nothing is taken from the persistent compilation cache, nor put there, even if it is set."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    # whether it is enabled is remembered from the first compilation on
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def memory_line(memory: Mapping[str, int | None], baseline: str) -> str:
    """Temporary memory in MB, and its share of the baseline's; what is not known is said to be."""
    base = memory[baseline]

    def told(name: str, size: int | None) -> str:
        if size is None:
            return f"{name} not known"
        share = f" ({size / base:.2f} of it)" if base and name != baseline else ""
        return f"{name} {size / 1e6:.1f}{share}"

    others = ", ".join(told(name, size) for name, size in memory.items() if name != baseline)
    return f"temporary memory without arguments and results, MB: {told(baseline, base)}; {others}"


def versions() -> str:
    """What is compared, and where."""
    import jax

    found = []
    for package in ("jax", "flax", "optax", "equinox", "torch"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"{jax.devices()[0].device_kind}, Python {platform.python_version()}, {', '.join(found)}"


def chosen(names: Iterable[str], only: str) -> list[str]:
    """The names that contain `only`.

    Raises:
      UsageError: if none does.
    """
    names = list(names)
    found = [name for name in names if only in name]
    if not found:
        raise UsageError(f"--only {only!r} matches none of: {'; '.join(names)}")
    return found
