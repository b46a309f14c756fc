"""A progress bar that compiled code can drive.

    with progress(total=steps, batch_size=32, steps_per_epoch=45) as bar:
        params, losses = train(params, bar)             # jitted, once for all runs

    def body(params, step):                             # inside train's lax.scan
        params, loss = ...
        report_progress(bar, step, 10, loss=loss)
        return params, loss

The bar is known to compiled code by a number that enters as an argument: one program serves every
run, is never traced again for a new bar, and keeps none alive. Reports come from the runtime's own
threads, perhaps late and out of order: older ones than what is shown are dropped, and so are those
for a bar that is closed.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from jax.typing import ArrayLike


class Handle(NamedTuple):
    """A bar as compiled code sees it: a pytree of two integers."""

    bar: ArrayLike
    total: ArrayLike


class _Display(NamedTuple):
    show: Callable[[int, Mapping[str, float]], None]
    """`show(steps done, values)`; steps only grow. The time until the first report is compilation
    for the most part, and counts in no rate."""
    close: Callable[[], None]


@dataclass
class _Bar:
    display: _Display
    done: int
    lock: threading.Lock = field(default_factory=threading.Lock)


_bars: dict[int, _Bar] = {}
_numbers = itertools.count(1)


@contextmanager
def progress(
    total: int,
    *,
    batch_size: int = 1,
    steps_per_epoch: int | None = None,
    start: int = 0,
    description: str = "",
    stream: TextIO | None = None,
    quiet: bool = False,
) -> Iterator[Handle]:
    """Show progress over `total` steps while the `with` block runs.

    A terminal gets a bar with the reported values and examples/s; anything else (a log, a pipe)
    gets a plain line per epoch, or ten lines in all where `steps_per_epoch` is not given.

    Args:
      total: the number of steps, those before `start` included.
      batch_size: examples per step.
      steps_per_epoch: where the lines of a log are drawn.
      start: steps done before this process, in a resumed run.
      description: a word before it all.
      stream: where to write; standard error if not given.
      quiet: show nothing.
    """
    stream = sys.stderr if stream is None else stream
    number = next(_numbers)
    if quiet:
        display = _Display(lambda done, values: None, lambda: None)
    elif stream.isatty():
        display = _terminal(total, batch_size, start, description, stream)
    else:
        display = _log(total, batch_size, steps_per_epoch, start, description, stream)
    bar = _bars[number] = _Bar(display, start)
    try:
        yield Handle(np.int32(number), np.int32(total))
        # compiled code may have returned while its last reports are still under way
        jax.effects_barrier()
    finally:
        del _bars[number]
        with bar.lock:
            display.close()


def report_progress(handle: Handle, step: ArrayLike, every: int, **values: ArrayLike) -> None:
    """Report scalars from inside a `scan` body, at every `every`-th step and the last.

    Args:
      handle: what `progress` gave, passed into the compiled function as an argument.
      step: the step just done; the first is 0.
      every: how many steps from one report to the next; steps in between cost a comparison.
      values: scalars to show. Under `vmap` over runs, the first run's are.
    """
    if every < 1:
        raise ValueError(f"report_progress: every must be at least 1, got {every}")
    done = jax.numpy.asarray(step) + 1
    due = (done % every == 0) | (done == handle.total)
    jax.lax.cond(
        due,
        # names are bound, as JAX would sort them; of the run itself nothing is closed over
        lambda: jax.debug.callback(
            partial(_receive, tuple(values)), handle.bar, done, *values.values()
        ),
        lambda: None,
    )


def _receive(names: tuple[str, ...], number: Any, done: Any, *values: Any) -> None:
    bar = _bars.get(int(number))
    if bar is None:
        return
    with bar.lock:
        if int(done) > bar.done:
            bar.done = int(done)
            bar.display.show(bar.done, dict(zip(names, map(float, values), strict=True)))


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _terminal(
    total: int, batch_size: int, start: int, description: str, stream: TextIO
) -> _Display:
    # imported here: a quiet run needs no tqdm
    from tqdm import tqdm

    bar = tqdm(
        total=total * batch_size,
        initial=start * batch_size,
        desc=description or None,
        unit=" examples",
        unit_scale=True,
        file=stream,
        dynamic_ncols=True,
    )

    begun = False

    def show(done: int, values: Mapping[str, float]) -> None:
        nonlocal begun
        bar.set_postfix_str(_text(values), refresh=False)
        if begun:
            bar.update(done * batch_size - bar.n)
        else:
            begun = True
            bar.initial = bar.n = bar.last_print_n = done * batch_size
            bar.unpause()
            bar.refresh()

    def close() -> None:
        # without this, the last values stay unseen if they came within tqdm's refresh interval
        bar.refresh()
        bar.close()

    return _Display(show, close)


def _log(
    total: int, batch_size: int, epoch: int | None, start: int, description: str, stream: TextIO
) -> _Display:
    period = epoch or max(1, total // 10)
    shown = start
    timed: tuple[int, float] | None = None

    def show(done: int, values: Mapping[str, float]) -> None:
        nonlocal shown, timed
        now = time.perf_counter()
        since, timed = timed, timed or (done, now)
        if done // period == shown // period and done != total:
            return
        parts = [
            f"epoch {done // epoch}/{total // epoch}" if epoch else "",
            f"step {done}/{total}",
            _text(values),
        ]
        if since is not None:
            rate = (done - since[0]) * batch_size / max(now - since[1], 1e-9)
            parts.append(f"{rate:,.0f} examples/s")
        prefix = f"{description}: " if description else ""
        print(prefix + ", ".join(filter(None, parts)), file=stream, flush=True)
        shown, timed = done, (done, now)

    return _Display(show, lambda: None)
