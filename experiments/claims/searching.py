"""Searches for a learning rate and a penalty at equal cost: a grid, random draws, halving."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit
from jaxnets import models, optim
from jaxnets.train import selection
from jaxnets.types import Array, Key, Params


def rows_of(data: Batch, rows: Array) -> Batch:
    """Some of the examples."""
    return {name: leaf[rows] for name, leaf in data.items()}


_NET = models.MLPConfig(64, 10, hidden=(32,))
GRID = 3
"""Values of each setting that a grid tries."""


def _trained(
    config: Any, data: Batch, key: Key, params: Params, rate: Array, decay: Array, units: int
) -> Params:
    """So many units of steps further; SGD has no state to be kept."""

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in params["layers"])
        missed = cross_entropy(models.mlp(params, _NET, batch["x"]), batch["y"])
        return missed + decay * squares / 2

    return fit(
        loss, optim.sgd(rate), params, data, key=key, steps=units * config.unit,
        batch_size=config.batch_size,
    ).params  # fmt: skip


class _Keys(NamedTuple):
    """Of a repetition; whatever the search, it has the same ones for the same."""

    draw: Key
    data: Key
    init: Key
    run: Key
    shift: Key


def _repetitions(config: Any, key: Key) -> _Keys:
    """`[searches]` of each."""
    keys = jax.random.split(key, config.searches)
    return _Keys(*jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 5))(keys), 1, 0))


def _searches(
    config: Any, keys: Key, one: Callable[[_Keys], Array], *, at_once: int | None = 4
) -> np.ndarray:
    """`[seeds]`: the mean over repetitions, so many at once (None: one), of the test error of what
    a search chooses.
    """

    def of_seed(key: Key) -> Array:
        return jnp.mean(jax.lax.map(one, _repetitions(config, key), batch_size=at_once))

    return np.asarray(jax.jit(jax.vmap(of_seed))(keys))


def _begun(config: Any, keys: _Keys) -> tuple[Batch, Batch, Params]:
    """What is trained on, what is held out, and the initial weights."""
    return *_split(config, keys.data), models.init_mlp(keys.init, _NET)


def _split(config: Any, key: Key) -> tuple[Batch, Batch]:
    data = digits().train
    rows = jax.random.permutation(key, len(data["y"]))[: config.search_examples]
    third = config.search_examples // 3
    return rows_of(data, rows[third:]), rows_of(data, rows[:third])


def _held_out(params: Params, data: Batch) -> Array:
    """The error, and among equal ones the loss."""
    logits = models.mlp(params, _NET, data["x"])
    loss = jnp.nan_to_num(cross_entropy(logits, data["y"]), nan=1e3, posinf=1e3)
    return error_rate(logits, data["y"]) + 1e-6 * jnp.minimum(loss, 1e3)


def _test_error(params: Params) -> Array:
    test = digits().test
    return error_rate(models.mlp(params, _NET, test["x"]), test["y"])


def rates_of(config: Any, key: Key) -> tuple[Array, Array]:
    """The ends of a repetition's rates: `config.rates`, moved by up to half a cell of the grid up
    or down, so that where the best rate lies between the grid's is a matter of chance.
    """
    low, high = config.rates
    cell = jnp.log(high / low) / (GRID - 1)
    times = jnp.exp(cell * jax.random.uniform(key, minval=-0.5, maxval=0.5))
    return low * times, high * times


def _of_all(config: Any, keys: _Keys, rates: Array, decays: Array) -> Array:
    """Train each configuration to the end; the test error of the one with the best held-out."""
    inside, outside, start = _begun(config, keys)

    def one(rate: Array, decay: Array) -> Params:
        return _trained(config, inside, keys.run, start, rate, decay, config.most)

    trained = jax.vmap(one)(rates, decays)
    best = jnp.argmin(jax.vmap(_held_out, (0, None))(trained, outside))
    return _test_error(jax.tree.map(lambda x: x[best], trained))


def grid(config: Any, keys: Key) -> np.ndarray:
    """Of three rates by three penalties."""

    def one(keys: _Keys) -> Array:
        ends = rates_of(config, keys.shift), config.decays
        values = (jnp.geomspace(low, high, GRID) for low, high in ends)
        rates, decays = (x.ravel() for x in jnp.meshgrid(*values))
        return _of_all(config, keys, rates, decays)

    return _searches(config, keys, one)


def _drawn(config: Any, keys: _Keys, n: int) -> tuple[Array, Array]:
    """`n` draws, uniform in the logarithm."""
    ends = rates_of(config, keys.shift), config.decays
    low, high = (jnp.log(jnp.stack(side)) for side in zip(*ends, strict=True))
    shares = jax.random.uniform(keys.draw, (2, n))
    rates, decays = jnp.exp(low[:, None] + shares * (high - low)[:, None])
    return rates, decays


def random(config: Any, keys: Key) -> np.ndarray:
    """As many draws as the grid has points."""

    def one(keys: _Keys) -> Array:
        return _of_all(config, keys, *_drawn(config, keys, GRID**2))

    return _searches(config, keys, one)


def halving(config: Any, keys: Key) -> np.ndarray:
    """Of 27 draws, of which a third goes on each time.

    `selection.halve` for all repetitions in one program: which of them go on is each one's own.
    """
    plan = selection.rungs(3 * GRID**2, 1, config.most)
    budgets = [0, *(rung.budget for rung in plan)]
    left = [*(rung.configurations for rung in plan[1:]), 1]

    def one(keys: _Keys) -> Array:
        inside, outside, start = _begun(config, keys)
        rates, decays = _drawn(config, keys, plan[0].configurations)
        nets = jax.tree.map(lambda x: jnp.stack([x] * len(rates)), start)
        for units, keep in zip(np.diff(budgets).tolist(), left, strict=True):
            # other batches for each rung, which differ in their units
            run = jax.random.fold_in(keys.run, units)
            nets = jax.vmap(partial(_trained, config, inside, run, units=units))(
                nets, rates, decays
            )
            missed = jax.vmap(_held_out, (0, None))(nets, outside)
            best = jnp.argsort(missed)[:keep]
            nets, rates, decays = jax.tree.map(lambda x, at=best: x[at], (nets, rates, decays))
        return _test_error(jax.tree.map(lambda x: x[0], nets))

    # of each seed 27 nets: more at once, and a CPU's caches do not hold them
    return _searches(config, keys, one, at_once=None)
