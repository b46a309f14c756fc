"""Training on random windows of a text, and bits per byte on what was held out."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.errors import diverged
from experiments.language.nets import Net
from experiments.language.sizes import Sizes
from experiments.progress import Handle, progress, report_progress
from experiments.randomness import keys_of
from jaxnets import losses, optim, train
from jaxnets.types import Array, Key, Params

Bytes = NDArray[np.uint8]

EVALUATIONS = 10
"""How often a run is measured on a part of what was held out."""

PART = 32
"""Which part that is: every so many windows, one."""

_REPORTS = 20
"""Between two measurements."""


def bits(net: Net, params: Params, window: Array, key: Key | None = None) -> Array:
    """`[T]`: `-log₂ p(byte | those before it)` of a window `[T + 1]`, but for its first byte."""
    ids = window.astype(jnp.int32)
    logits = net.logits(params, ids[:-1], key=key)
    nats: Array = losses.softmax_cross_entropy_with_integer_labels(logits, ids[1:])
    return nats / jnp.log(2.0)


def make_optimizer(net: Net, sizes: Sizes) -> optim.GradientTransformation:
    """Muon, with Adam for what is no matrix; a short warm-up, then half a cosine down to 0."""

    def schedule(peak: float) -> optim.Schedule:
        warmup = max(1, sizes.steps // 20)
        return optim.warmup_cosine_decay_schedule(0.0, peak, warmup, max(sizes.steps, warmup + 1))

    return optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.muon(
            schedule(sizes.learning_rate),
            adam_learning_rate=schedule(sizes.adam_learning_rate),
            adam_b2=0.99,
            muon_weight_dimension_numbers=net.matrices,
        ),
    )


class Trained(NamedTuple):
    """One net's run."""

    net: Net
    params: Params
    train_bits: NDArray[np.float64]
    """`[steps]`, of each step's windows."""
    measured_at: NDArray[np.int64]
    """Steps."""
    held_out_bits: NDArray[np.float64]
    """On a part of what was held out, after each of these."""
    bits: float
    """On all of it, at the end."""
    seconds: float
    """Of training, compilation and measurements included."""
    cpu_seconds: float
    """The same, summed over the cores of this machine."""


def overlapping(text: Bytes, context: int) -> Bytes:
    """`[n, context + 1]`: windows half a context apart, as far as they fit."""
    starts = np.arange(0, len(text) - context, max(1, context // 2))
    windows: Bytes = text[starts[:, None] + np.arange(context + 1)]
    return windows


def initial(net: Net, sizes: Sizes, seed: Array) -> train.TrainState:
    """The state before the first step."""
    keys = keys_of(seed)
    return train.init_state(net.init(keys.init), make_optimizer(net, sizes), keys.run)


def make_chunk(net: Net, sizes: Sizes, steps: int) -> Callable[..., Any]:
    """`(state, text, bar) -> (state, metrics)`: steps on random windows, in one scan."""
    has_key = sizes.dropout > 0

    def loss(params: Params, window: Array, *key: Key) -> Array:
        return jnp.mean(bits(net, params, window, *key))

    step = train.step(
        train.batched(loss, has_key=has_key), make_optimizer(net, sizes), has_key=has_key
    )

    def draw(key: Key, text: Array) -> Array:
        return train.random_windows(key, text, sizes.context + 1, sizes.batch_size)

    def chunk(state: train.TrainState, text: Array, bar: Handle) -> Any:
        def show(state: train.TrainState, metrics: dict[str, Array]) -> None:
            report_progress(bar, state.step - 1, max(1, steps // _REPORTS), bits=metrics["loss"])

        return train.drawn(step, draw, steps, on_step=show)(state, text)

    return jax.jit(chunk, donate_argnums=0)


def make_measure(net: Net, sizes: Sizes) -> Callable[[train.TrainState, Array], Array]:
    """`(state, windows) -> bits per byte`: of the second half of each window.

    So every byte that counts is predicted from at least half a context, and none counts twice.
    """

    def late(params: Params, _: Any, windows: Array) -> dict[str, Array]:
        values = jax.vmap(lambda window: bits(net, params, window))(windows)
        return {"bits": jnp.mean(values[:, -max(1, sizes.context // 2) :], -1)}

    measure = jax.jit(train.evaluate(late, batch_size=sizes.batch_size))
    return lambda state, windows: measure(state, windows)["bits"]


def run(
    net: Net,
    sizes: Sizes,
    train_text: Bytes,
    held_out: Bytes,
    seed: int,
    record: Callable[[dict[str, Any]], None],
) -> Trained:
    """Train a net, and `record` what is measured on the way.

    Raises:
      UsageError: if training diverges.
    """
    started, cpu = time.perf_counter(), time.process_time()
    chunks = min(EVALUATIONS, sizes.steps)
    lengths = np.diff(np.arange(chunks + 1) * sizes.steps // chunks)
    programs = {int(n): make_chunk(net, sizes, int(n)) for n in set(lengths)}
    measure = make_measure(net, sizes)
    windows = overlapping(held_out, sizes.context)
    everything, part = jnp.asarray(windows), jnp.asarray(windows[::PART])
    text = jnp.asarray(train_text)
    state = jax.jit(partial(initial, net, sizes))(jnp.asarray(seed))
    seen: list[NDArray[np.float64]] = []
    measured: list[tuple[int, float]] = []
    with progress(sizes.steps, batch_size=sizes.batch_size, description=net.name) as bar:
        for n in lengths:
            state, metrics = programs[int(n)](state, text, bar)
            seen.append(np.asarray(metrics["loss"], np.float64))
            if not np.isfinite(seen[-1]).all():
                raise diverged(
                    f"the {net.name} has {seen[-1][-1]} bits per byte at step {int(state.step)}"
                )
            measured.append((int(state.step), float(measure(state, part))))
            record(
                {
                    "step": measured[-1][0],
                    "model": net.name,
                    "train_bits": seen[-1].mean(),
                    "held_out_bits": measured[-1][1],
                    "seconds": time.perf_counter() - started,
                    "cpu_seconds": time.process_time() - cpu,
                }
            )
    at, held = zip(*measured, strict=True)
    final = float(measure(state, everything))
    trained = Trained(
        net, state.params, np.concatenate(seen), np.asarray(at), np.asarray(held), final,
        time.perf_counter() - started, time.process_time() - cpu,
    )  # fmt: skip
    record(
        {
            "step": sizes.steps,
            "model": net.name,
            "final_bits": final,
            "seconds": trained.seconds,
            "cpu_seconds": trained.cpu_seconds,
        }
    )
    return trained
