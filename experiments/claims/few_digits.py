"""A net that learns few digits by heart, with each remedy against it; all in one program."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import least, taken
from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit, sweep
from jaxnets import losses, nn, optim
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Array, Key, Params

SIDE = 8


@dataclass(frozen=True)
class Config:
    """One net, trained on few digits with each remedy at several strengths."""

    examples: int = 100
    """To train on, drawn by seed."""
    validation: int = 300
    """Others of the training digits, which choose strengths and when to stop."""
    width: int = 128
    rate: float = 0.1
    """Of SGD, the same whatever the remedy."""
    batch_size: int = 50
    steps: int = 4000
    records: int = 400
    """How often the validation digits may say stop."""
    noise: float = 0.2
    """The share of training labels that are wrong, where early stopping is tested."""
    l2: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 1.0)
    l1: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)
    dropout: tuple[float, ...] = (0.2, 0.5, 0.8, 0.9)
    smoothing: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


class Setting(NamedTuple):
    """What is done against overfitting; 0 is nothing."""

    l2: Any = 0.0
    l1: Any = 0.0
    dropout: Any = 0.0
    smoothing: Any = 0.0
    shift: Any = 0.0
    """1 moves each image by up to a pixel."""
    norm: Any = 0.0
    """1 normalizes the hidden units over the batch, before their relu."""
    noise: Any = 0.0


class Trained(NamedTuple):
    """Of a run: in its end, or where it says `[records]` along the way."""

    train_error: Array
    validation_loss: Array
    """`[records]`"""
    validation_error: Array
    test_loss: Array
    """`[records]`"""
    test_error: Array
    """`[records]`"""
    wrong_learnt: Array
    """`[records]`, the share of wrong training labels that the net gives; NaN if none is wrong."""
    calibration_error: Array
    """On the test digits."""
    halved_error: Array
    """On the test digits, with a random half of the hidden units at 0."""
    tiny: Array
    """The share of weights below a thousandth of the largest."""
    size: Array
    """The norm of the kernels."""


def runs(config: Config, keys: Key, settings: list[Setting]) -> Trained:
    """`[seeds, settings, …]` of each."""
    stacked = jax.tree.map(lambda *x: jnp.array(x), *settings)
    found: Trained = jax.tree.map(np.asarray, sweep(partial(_train, config), keys, stacked))
    return found


def chosen(found: Trained) -> Trained:
    """Each seed's run of the setting with the least validation error, the weakest among equals."""
    best = least(found.validation_error)
    picked: Trained = jax.tree.map(partial(taken, best=best), found)
    return picked


def _train(config: Config, key: Key, setting: Setting) -> Trained:
    init_key, rows_key, noise_key, run_key, half_key = jax.random.split(key, 5)
    data = digits()
    test = data.test
    rows = jax.random.permutation(rows_key, len(data.train["y"]))
    few, held = rows[: config.examples], rows[config.examples :][: config.validation]
    few_data, validation = (
        {name: leaf[part] for name, leaf in data.train.items()} for part in (few, held)
    )
    true = few_data["y"]
    few_data["y"] = with_wrong_labels(noise_key, true, setting.noise)
    wrong = few_data["y"] != true
    first, second = jax.random.split(init_key)
    params = {
        "hidden": nn.init_dense(first, SIDE**2, config.width, kernel_init=he_normal()),
        "out": nn.init_dense(second, config.width, 10),
    }

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        shift_key, drop_key = jax.random.split(key)
        x = jnp.where(setting.shift > 0, shifted(shift_key, batch["x"]), batch["x"])
        keep = jax.random.bernoulli(drop_key, 1 - setting.dropout, (len(x), config.width))
        logits = _net(params, setting.norm, x, x, keep / (1 - setting.dropout))
        smooth = jax.nn.one_hot(batch["y"], 10) * (1 - setting.smoothing) + setting.smoothing / 10
        squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in params.values())
        value: Array = (
            jnp.mean(losses.softmax_cross_entropy(logits, smooth)) + setting.l2 * squares / 2
        )
        return value

    def logits(params: Params, x: Array, times: Array | float = 1.0) -> Array:
        # evaluated by the moments of what it was trained on
        return _net(params, setting.norm, x, few_data["x"], times)

    def record(params: Params) -> Any:
        on_few, on_test = logits(params, few_data["x"]), logits(params, test["x"])
        given = jnp.sum((jnp.argmax(on_few, -1) == few_data["y"]) & wrong) / jnp.sum(wrong)
        held_out = cross_entropy(logits(params, validation["x"]), validation["y"])
        return held_out, cross_entropy(on_test, test["y"]), error_rate(on_test, test["y"]), given

    optimizer = optim.chain(optim.sgd(config.rate), soft_threshold(config.rate * setting.l1))
    trained = fit(
        loss, optimizer, params, few_data, key=run_key, steps=config.steps,
        batch_size=config.batch_size, record=record, every=config.steps // config.records,
    )  # fmt: skip
    end = trained.params
    half = jax.random.permutation(half_key, config.width) < config.width // 2
    kernels = jnp.abs(jnp.concatenate([layer["kernel"].ravel() for layer in end.values()]))
    validation_loss, test_loss, test_error, wrong_learnt = trained.records
    return Trained(
        train_error=error_rate(logits(end, few_data["x"]), few_data["y"]),
        validation_loss=validation_loss,
        validation_error=error_rate(logits(end, validation["x"]), validation["y"]),
        test_loss=test_loss,
        test_error=test_error,
        wrong_learnt=wrong_learnt,
        calibration_error=calibration_error(logits(end, test["x"]), test["y"]),
        # what is left counts twice, as in dropout
        halved_error=error_rate(logits(end, test["x"], 2.0 * half[None]), test["y"]),
        tiny=jnp.mean(kernels < 1e-3 * jnp.max(kernels)),
        size=jnp.linalg.norm(kernels),
    )


def with_wrong_labels(key: Key, y: Array, share: Any) -> Array:
    """Labels each of which is another than the true one with such a probability."""
    other = (y + jax.random.randint(key, y.shape, 1, 10)) % 10
    return jnp.where(jax.random.uniform(jax.random.fold_in(key, 1), y.shape) < share, other, y)


def _net(params: Params, norm: Any, x: Array, like: Array, times: Array | float) -> Array:
    """Logits; if `norm` is 1, hidden units have mean 0 and variance 1 over the inputs `like`."""
    hidden, seen = nn.dense(params["hidden"], x), nn.dense(params["hidden"], like)
    mean, variance = jnp.mean(seen, 0, keepdims=True), jnp.var(seen, 0, keepdims=True)
    normal = (hidden - mean) / jnp.sqrt(variance + 1e-5)
    hidden = jax.nn.relu(jnp.where(norm > 0, normal, hidden)) * jnp.asarray(times)
    return nn.dense(params["out"], hidden)


def calibration_error(logits: Array, labels: Array, bins: int = 10) -> Array:
    """`Σ |number right - sum of confidences| / n` over bins of the confidence, of equal width
    (Guo et al., 2017).
    """
    confidence = jnp.max(jax.nn.softmax(logits), -1)
    right = jnp.argmax(logits, -1) == labels
    at = jnp.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = jax.ops.segment_sum(right - confidence, at, bins)
    return jnp.sum(jnp.abs(gaps)) / len(labels)


def shifted(key: Key, x: Array) -> Array:
    """Images `[n, 64]`, each moved by -1, 0 or 1 pixels along both sides; edges repeat."""
    images = jnp.pad(x.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)), mode="edge")
    starts = jax.random.randint(key, (len(x), 2), 0, 3)

    def cut(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, start, (SIDE, SIDE)).ravel()

    return jax.vmap(cut)(images, starts)


def soft_threshold(by: Any) -> optim.GradientTransformation:
    """After the step, every kernel element is moved towards 0 by so much, and not beyond it."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        def one(path: Any, update: Array, x: Array) -> Array:
            if path[-1].key != "kernel":
                return update
            moved = x + update
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - by, 0) - x

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optim.GradientTransformation(lambda params: (), update)
