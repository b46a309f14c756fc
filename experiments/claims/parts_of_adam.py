"""Adam beside what it is made of: steps to a loss on a net, and its parameters by RMSprop's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.optimizers import OPTIMIZERS
from experiments.claims.pictures import draw_seeds, panels
from experiments.claims.rates import at_best
from experiments.claims.relearning import windows
from experiments.claims.training import digits, fit, mlp_loss, rates_around, steps_to, sweep
from jaxnets import models, optim
from jaxnets.types import Array, Key, Params

LEAST = 1e-9
"""Of a relative difference in pictures; less is none."""


def _net(config: Any) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=(config.width, config.width))


def _net_fit(config: Any, optimizer: Any, key: Key, steps: int) -> tuple[Params, Params, Array]:
    """The net before and after training, and its losses."""
    init_key, run_key = jax.random.split(key)
    start = models.init_mlp(init_key, _net(config))
    trained = fit(
        mlp_loss(_net(config)), optimizer, start, digits().train,
        key=run_key, steps=steps, batch_size=config.batch_size,
    )  # fmt: skip
    return start, trained.params, trained.losses


def net_steps(config: Any, name: str, keys: Key) -> np.ndarray:
    """`[seeds]`: an optimizer's steps until the loss is at `config.net_target`, at its best rate.

    Args:
      config: of `adaptive`.
      name: of the optimizer.
      keys: of the seeds.
    """
    make, ends = OPTIMIZERS[name]
    rates = rates_around(*ends, config.per_decade)

    def run(key: Key, rate: Array) -> Array:
        *_, losses = _net_fit(config, make(rate), key, config.net_steps)
        return steps_to(windows(losses, config.window), config.net_target, every=config.window)

    return at_best(rates, sweep(run, keys, rates))


def from_rmsprop(config: Any, b1: float, keys: Key) -> np.ndarray:
    """Adam's largest difference from RMSprop, relative to the largest change of a parameter."""
    adam = partial(optim.adam, b1=b1, b2=0.99)
    rmsprop = partial(optim.rmsprop, decay=0.99, eps_in_sqrt=False, bias_correction=True)

    def run(key: Key, rate: Array) -> Array:
        start, by_rmsprop, _ = _net_fit(config, rmsprop(rate), key, 100)
        _, by_adam, _ = _net_fit(config, adam(rate), key, 100)
        return largest_difference(by_adam, by_rmsprop) / largest_difference(by_rmsprop, start)

    return np.asarray(sweep(run, keys, jnp.array([1e-3])))[:, 0]


def largest_difference(a: Params, b: Params) -> Array:
    """Of any of their parameters; a norm would hide one among many, and what keeps its length."""
    apart = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), a, b)
    return jnp.max(jnp.stack(jax.tree.leaves(apart)))


def picture(config: Any, steps: dict[str, np.ndarray], apart: dict[float, np.ndarray]) -> Seen:
    """Of steps to the target, and of Adam's difference from RMSprop by its momentum."""
    titles = [f"steps to a loss of {config.net_target:g}", "Adam's difference from RMSprop"]
    with panels(titles, share_y=False) as (figure, (left, right)):
        # every optimizer's colour is its own, also where it does not get there
        draw_seeds(left, steps, y_label="steps", log_y=True)
        left.tick_params(axis="x", labelsize=8)
        groups = {f"b1 = {b1:g}": np.maximum(values, LEAST) for b1, values in apart.items()}
        draw_seeds(right, groups, y_label="relative to the largest change", log_y=True)
    return Seen(
        figure,
        "Left, each optimizer at its best rate; one that does not get there counts as one record "
        f"more than the {config.net_steps} steps. Right, the largest of any parameter after 100 "
        f"steps; none at all is at {LEAST:g}. A point for each seed, and their mean.",
    )
