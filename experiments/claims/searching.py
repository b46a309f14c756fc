"""Searches for a learning rate and a penalty at equal cost: a grid, random draws, halving."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit
from jaxnets import models, optim
from jaxnets.train import selection
from jaxnets.types import Array, Key, Params


def rows_of(data: Batch, rows: Array) -> Batch:
    """Some of the examples."""
    return {name: leaf[rows] for name, leaf in data.items()}


_NET = models.MLPConfig(64, 10, hidden=(32,))


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


def _searches(config: Any, key: Key, one: Callable[[_Keys], Array]) -> Array:
    """The mean over repetitions of the test error of what a search chooses."""

    def repetition(key: Key) -> Array:
        return one(_Keys(*jax.random.split(key, 4)))

    keys = jax.random.split(key, config.searches)
    return jnp.mean(jax.lax.map(repetition, keys, batch_size=4))


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


def _of_all(config: Any, keys: _Keys, rates: Array, decays: Array) -> Array:
    """Train each configuration to the end; the test error of the one with the best held-out."""
    inside, outside, start = _begun(config, keys)

    def one(rate: Array, decay: Array) -> Params:
        return _trained(config, inside, keys.run, start, rate, decay, config.most)

    trained = jax.vmap(one)(rates, decays)
    best = jnp.argmin(jax.vmap(_held_out, (0, None))(trained, outside))
    return _test_error(jax.tree.map(lambda x: x[best], trained))


def grid(config: Any, key: Key) -> Array:
    """Of three rates by three penalties."""
    values = (jnp.geomspace(low, high, 3) for low, high in (config.rates, config.decays))
    rates, decays = (x.ravel() for x in jnp.meshgrid(*values))
    return _searches(config, key, lambda k: _of_all(config, k, rates, decays))


def _drawn(config: Any, key: Key, n: int) -> tuple[Array, Array]:
    """`n` draws, uniform in the logarithm."""
    low = jnp.log(jnp.array([config.rates[0], config.decays[0]]))
    high = jnp.log(jnp.array([config.rates[1], config.decays[1]]))
    rates, decays = jnp.exp(low[:, None] + jax.random.uniform(key, (2, n)) * (high - low)[:, None])
    return rates, decays


def random(config: Any, key: Key) -> Array:
    """Nine draws."""

    def one(keys: _Keys) -> Array:
        return _of_all(config, keys, *_drawn(config, keys.draw, 9))

    return _searches(config, key, one)


def halving(config: Any, key: Key) -> Array:
    """Of 27 draws, of which a third goes on each time."""

    def one(keys: _Keys) -> Array:
        rates, decays = _drawn(config, keys.draw, 27)
        inside, outside, start = _begun(config, keys)
        nets = jax.tree.map(lambda x: jnp.broadcast_to(x, (27, *x.shape)), start)
        done = 0
        for rung in selection.rungs(27, 1, config.most):
            further = partial(_trained, config, inside, jax.random.fold_in(keys.run, done))
            units = rung.budget - done
            nets = jax.vmap(partial(further, units=units))(nets, rates, decays)
            order = jnp.argsort(jax.vmap(_held_out, (0, None))(nets, outside))
            kept = order[: max(1, rung.configurations // 3)]
            nets, rates, decays = jax.tree.map(lambda x, k=kept: x[k], (nets, rates, decays))
            done = rung.budget
        return _test_error(jax.tree.map(lambda x: x[0], nets))

    return _searches(config, key, one)
