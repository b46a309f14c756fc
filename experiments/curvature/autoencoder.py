"""A deep autoencoder of digits, trained by Adam, momentum and K-FAC: the loss against steps.

The shape is the one that second-order methods are usually tried on (Hinton and Salakhutdinov,
2006), made smaller: many layers, a narrow middle, and no residual connections or normalization.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnets import nn, optim, train
from jaxnets.gradients.likelihoods import bernoulli
from jaxnets.types import Array, Key, Params, PyTree

SIZES = (64, 100, 50, 20, 6, 20, 50, 100, 64)
MIDDLE = SIZES.index(min(SIZES)) - 1
EVERY = 5
"""Steps from one look at the loss on all training images to the next."""

Settings = Mapping[str, Any]
"""Of an optimizer, by name: numbers, or arrays of one."""


def init(key: Key) -> list[Params]:
    """LeCun's initialization."""
    keys = jax.random.split(key, len(SIZES) - 1)
    pairs = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [nn.init_dense(k, n_in, n_out) for k, n_in, n_out in pairs]


def reconstruct(params: list[Params], x: Array) -> Array:
    """Logits of an image's pixels; tanh after each layer but the middle and the last."""
    for i, layer in enumerate(params):
        x = nn.dense(layer, x)
        if i not in (MIDDLE, len(params) - 1):
            x = jnp.tanh(x)
    return x


def mean_loss(params: list[Params], batch: PyTree) -> Array:
    """The cross-entropy of the pixels, summed over an image, mean over a batch."""
    inputs, targets = batch
    logits = jax.vmap(reconstruct, (None, 0))(params, inputs)
    return jnp.mean(jax.vmap(bernoulli.loss)(logits, targets))


def _first_order(
    make: Callable[..., optim.GradientTransformation], settings: Settings
) -> tuple[Any, optim.GradientTransformation]:
    optimizer = make(**settings)
    return train.step(mean_loss, optimizer), optimizer


def _adam(batch_size: int, settings: Settings) -> tuple[Any, optim.GradientTransformation]:
    return _first_order(optim.adam, settings)


def _momentum(batch_size: int, settings: Settings) -> tuple[Any, optim.GradientTransformation]:
    return _first_order(optim.sgd, settings)


def _kfac(batch_size: int, settings: Settings) -> tuple[Any, optim.GradientTransformation]:
    shapes = jax.eval_shape(init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((batch_size, SIZES[0]), jnp.float32)
    blocks = train.kfac_blocks(reconstruct, shapes, inputs)
    if "learning_rate" in settings:
        optimizer = train.kfac(blocks=blocks, inverse_every=5, **settings)
    else:
        optimizer = train.adaptive_kfac(blocks, **settings)
    return train.kfac_step(reconstruct, bernoulli, optimizer), optimizer


class Family(NamedTuple):
    """One optimizer and the settings that are tried."""

    make: Callable[[int, Settings], tuple[Any, optim.GradientTransformation]]
    """`make(batch_size, settings) -> (step, optimizer)`"""
    grid: Sequence[Settings]
    share: float
    """Of the steps that are given to Adam."""


def _grid(rates: Sequence[float], **other: Sequence[float]) -> list[Settings]:
    ((name, values),) = other.items()
    return [{"learning_rate": rate, name: value} for value in values for rate in rates]


def families(quick: bool) -> dict[str, Family]:
    """All contenders; the first two are tuned, K-FAC is as it is."""
    decays = (0.9,) if quick else (0.9, 0.98)
    adam = (3e-3, 1e-2, 3e-2) if quick else (1e-3, 3e-3, 5.6e-3, 1e-2, 1.8e-2, 3e-2)
    momentum = (1e-2, 3e-2) if quick else (3e-3, 1e-2, 3e-2)
    fixed = {"learning_rate": 0.1, "damping": 3e-2, "kl_clip": 1e-2}
    return {
        "Adam": Family(_adam, _grid(adam, b1=decays), 1.0),
        "momentum": Family(_momentum, _grid(momentum, momentum=decays), 1.0),
        "K-FAC": Family(_kfac, [{"damping": 1.0}], 0.25),
        "K-FAC, fixed rates": Family(_kfac, [fixed], 0.25),
    }


class Curve(NamedTuple):
    """One run."""

    settings: Settings
    seed: int
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    """On all training images, after so many steps."""
    test_losses: NDArray[np.float64]
    """On all test images, after so many steps."""
    params: list[Params]
    """At the end."""


Runner = Callable[[Settings, int], Curve]


def runner(family: Family, images: Array, test: Array, *, steps: int, batch_size: int) -> Runner:
    """`(settings, seed) -> Curve`, compiled once for all seeds and settings of the same names."""
    data, held_out = (images, images), (test, test)
    n, looks = len(images), max(1, round(steps * family.share) // EVERY)

    @jax.jit
    def run(settings: dict[str, Array], seed: Array) -> tuple[list[Params], tuple[Array, Array]]:
        step, optimizer = family.make(batch_size, settings)
        start, order = jax.random.split(jax.random.key(seed))
        params = init(start)
        state = train.init_state(params, optimizer, order)

        def one(state: train.TrainState, _: None) -> tuple[train.TrainState, None]:
            if batch_size == n:
                return step(state, data)[0], None
            indices = train.batch_indices(order, state.step, n, batch_size)
            return step(state, jax.tree.map(lambda x: x[indices], data))[0], None

        def look(params: list[Params]) -> tuple[Array, Array]:
            return mean_loss(params, data), mean_loss(params, held_out)

        def several(
            state: train.TrainState, _: None
        ) -> tuple[train.TrainState, tuple[Array, Array]]:
            seen = look(state.params)
            return jax.lax.scan(one, state, length=EVERY)[0], seen

        state, seen = jax.lax.scan(several, state, length=looks)
        last = look(state.params)
        return state.params, jax.tree.map(lambda x, y: jnp.append(x, y), seen, last)

    def curve(settings: Settings, seed: int) -> Curve:
        # damping is checked by value when the optimizer is made: arrays pass as they are
        given = {name: jnp.asarray(value, jnp.float32) for name, value in settings.items()}
        params, seen = run(given, jnp.asarray(seed))
        losses, test_losses = (np.asarray(x, np.float64) for x in seen)
        return Curve(settings, seed, EVERY * np.arange(looks + 1), losses, test_losses, params)

    return curve


def first_below(curve: Curve, target: float) -> float:
    """After how many steps the loss is at most `target`; infinite if never."""
    there = np.flatnonzero(curve.losses <= target)
    return float(curve.steps[there[0]]) if there.size else np.inf


def steps_of_each(curves: Sequence[Curve], settings: Settings, target: float) -> list[float]:
    """Steps to `target` with these settings, by seed."""
    own = (curve for curve in curves if dict(curve.settings) == dict(settings))
    return [first_below(curve, target) for curve in own]


def steps_to(curves: Sequence[Curve], target: float) -> tuple[float, Settings]:
    """The fewest steps to `target` of any settings, as the mean over seeds, and these settings."""
    by_settings: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for curve in curves:
        key = tuple(curve.settings.items())
        by_settings.setdefault(key, []).append(first_below(curve, target))
    means = {key: float(np.mean(steps)) for key, steps in by_settings.items()}
    best = min(means, key=lambda key: means[key])
    return means[best], dict(best)


def lowest(curves: Sequence[Curve]) -> list[Curve]:
    """The runs, one for each seed, of the settings whose mean loss at the end is lowest."""
    by_settings: dict[tuple[tuple[str, float], ...], list[Curve]] = {}
    for curve in curves:
        by_settings.setdefault(tuple(curve.settings.items()), []).append(curve)

    def end(found: list[Curve]) -> float:
        mean = float(np.mean([curve.losses[-1] for curve in found]))
        return mean if np.isfinite(mean) else np.inf

    return min(by_settings.values(), key=end)


TARGETS = (24.0, 22.0, 20.0, 19.0, 18.0, 17.5, 17.0, 16.5, 16.0, 15.75, 15.5, 15.25, 15.0)
"""Losses (nats an image) to which steps are counted."""


TUNING_SEED = 0
"""Of the runs that say what is compared, and are not: K-FAC's damping was looked for on it."""


def target_of(tuning: Sequence[Curve]) -> float:
    """The lowest of `TARGETS` that some settings reach within half of their steps; the first if
    none. The other half is room for seeds that are slower than these runs'.
    """
    reached = [
        target
        for target in TARGETS
        if any(first_below(curve, target) <= curve.steps[-1] / 2 for curve in tuning)
    ]
    return min(reached, default=TARGETS[0])
