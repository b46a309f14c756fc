"""Steps on batches drawn at random, as of windows of a long text: many in one `lax.scan`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.train.run import Step
from jaxnets.train.step import Metrics, TrainState, data_key
from jaxnets.types import Array, Key, PyTree

Draw = Callable[[Key, PyTree], PyTree]


def drawn(
    step: Step,
    draw: Draw,
    steps: int,
    *,
    on_step: Callable[[TrainState, Metrics], None] | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """`(state, data) -> (state, metrics)`: steps on drawn batches in one `lax.scan`.

    The batch of a step depends on the run's key and the step's number alone, so chunks of steps one
    after the other are one long run, wherever they are cut.

    Args:
      step: from `train.step`.
      draw: `draw(key, data)` gives a batch.
      steps: how many.
      on_step: as for `train.epoch`.

    Returns:
      The chunk of steps, to be jitted by the caller. Metrics are stacked: `[steps]` each.

    Raises:
      ValueError: for fewer steps than one.
    """
    if steps < 1:
        raise ValueError(f"drawn: steps must be at least 1, got {steps}")

    def run_steps(state: TrainState, data: PyTree) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            batch = draw(jax.random.fold_in(data_key(state), state.step), data)
            state, metrics = step(state, batch)
            if on_step is not None:
                on_step(state, metrics)
            return state, metrics

        return lax.scan(body, state, length=steps)

    return run_steps


def windows(sequence: Array, starts: Array, length: int) -> Array:
    """`sequence[starts[i] : starts[i] + length]`: `[..., length, *]` of `[n, *]` and `[...]`.

    A start too near the end is moved back until the window fits.

    Raises:
      ValueError: if no window of the length fits.
    """
    if not 1 <= length <= len(sequence):
        raise ValueError(f"windows: length must be from 1 to {len(sequence)}, got {length}")
    # in a narrower dtype starts plus offsets may overflow
    starts = jnp.asarray(starts).astype(jnp.int32)
    offsets = lax.broadcasted_iota(jnp.int32, (*starts.shape, length), starts.ndim)
    index = jnp.clip(starts, 0, len(sequence) - length)[..., None] + offsets
    return jnp.asarray(sequence).at[index].get(mode="promise_in_bounds")


def random_windows(key: Key, sequence: Array, length: int, batch_size: int) -> Array:
    """`[batch_size, length, *]`: windows of `sequence`, every place as likely as another.

    Raises:
      ValueError: if no window of the length fits.
    """
    starts = jax.random.randint(key, (batch_size,), 0, max(1, len(sequence) - length + 1))
    return windows(sequence, starts, length)
