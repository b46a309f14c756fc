"""DP-SGD: a run as one compiled scan over Poisson batches, and what is fixed before it begins."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets import optim
from jaxnets.gradients import privacy
from jaxnets.types import Array, ArrayLike, Key, Params, PyTree

OVERFLOW = 1e-14
"""The probability, of one step, that more is drawn than its batch has room for: paid for by δ."""

UNBOUNDED = 1e9
"""A clip norm that clips nothing: the same program, without privacy."""


class Schedule(NamedTuple):
    """What of a run is public, and the same whoever is in the data."""

    n: int
    """Examples that may be drawn."""
    rate: float
    """The probability with which each is in a batch."""
    steps: int
    points: int
    """How often, evenly, the run is looked at; `steps` is a multiple of it."""

    @property
    def size(self) -> int:
        """Of a padded batch."""
        return privacy.padded_size(self.n, self.rate, OVERFLOW)


class Trace(NamedTuple):
    """What was seen on the way. Losses and shares are **not** private; what is released is."""

    loss: Array
    """`[steps]`, the mean of those drawn."""
    clipped: Array
    """`[steps]`, the share of those drawn whose gradient was above the clip norm."""
    watched: Any
    """`[points, ...]`, of the parameters."""
    released: Any
    """What `release` kept of each noisy gradient, summed over steps."""


def descend(
    loss: Callable[..., Array],
    optimizer: optim.GradientTransformation,
    schedule: Schedule,
    watch: Callable[[Params], Any],
    release: Callable[[Params], Any] = lambda gradient: (),
) -> Callable[..., tuple[Params, Trace]]:
    """A run of DP-SGD: `f(params, data, key, clip_norm, noise_multiplier, present=None)`.

    At every step each example of `data` that is present is in the batch with probability `rate`, by
    itself, and the optimizer takes `(Σ clip(gᵢ, C) + σ C z) / (rate n)`.

    Args:
      loss: `loss(params, example) -> scalar`.
      optimizer: any.
      schedule: see there.
      watch: `watch(params)`, evaluated `points` times.
      release: `release(gradient)`, of each noisy gradient.

    Returns:
      The function; `data` is a pytree of `[n, ...]`, `present` boolean `[n]`: whoever is not, was
      never in the data set.
    """

    def run(
        params: Params,
        data: PyTree,
        key: Key,
        clip_norm: ArrayLike,
        noise_multiplier: ArrayLike,
        present: Array | None = None,
    ) -> tuple[Params, Trace]:
        gradient_of = privacy.dp_grad(
            loss,
            clip_norm,
            noise_multiplier,
            expected_batch_size=schedule.rate * schedule.n,
        )

        def step(carry: Any, number: Array) -> tuple[Any, Any]:
            params, state, total = carry
            draw, noise = jax.random.split(jax.random.fold_in(key, number))
            indices, mask = privacy.poisson_batch(draw, schedule.n, schedule.rate, schedule.size)
            if present is not None:
                mask &= present[indices]
            batch = jax.tree.map(lambda leaf: leaf[indices], data)
            gradient, seen = gradient_of(params, batch, key=noise, mask=mask)
            updates, state = optimizer.update(gradient, state, params)
            total = jax.tree.map(jnp.add, total, release(gradient))
            drawn = jnp.maximum(jnp.sum(mask), 1)
            metrics = jnp.sum(seen.losses) / drawn, jnp.sum(seen.clipped) / drawn
            return (optim.apply_updates(params, updates), state, total), metrics

        def stretch(carry: Any, numbers: Array) -> tuple[Any, Any]:
            carry, metrics = lax.scan(step, carry, numbers)
            return carry, (metrics, watch(carry[0]))

        nothing = jax.tree.map(jnp.zeros_like, release(params))
        start = (params, optimizer.init(params), nothing)
        numbers = jnp.arange(schedule.steps).reshape(schedule.points, -1)
        (params, _, total), (metrics, watched) = lax.scan(stretch, start, numbers)
        losses, clipped = (values.ravel() for values in metrics)
        return params, Trace(losses, clipped, watched, total)

    return run
