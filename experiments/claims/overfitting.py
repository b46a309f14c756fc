"""Few digits and a net that can learn them by heart: what helps with those it has not seen."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, draw_seeds, panels
from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit, sweep
from experiments.claims.verdict import Arm, Comparison
from jaxnets import losses, nn, optim
from jaxnets.nn.initializers import he_normal
from jaxnets.types import Array, Key, Params

TITLE = "Overfitting with few data"

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
    """Of SGD."""
    batch_size: int = 50
    steps: int = 4000
    records: int = 40
    noise: float = 0.2
    """The share of training labels that are drawn anew, where early stopping is tested."""
    l2: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 1.0)
    l1: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01)
    dropout: tuple[float, ...] = (0.2, 0.5, 0.8)
    smoothing: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)


FULL = Config()
QUICK = Config(steps=1200, records=30)


class Setting(NamedTuple):
    """What is done against overfitting; 0 is nothing."""

    l2: Any = 0.0
    l1: Any = 0.0
    dropout: Any = 0.0
    smoothing: Any = 0.0
    shift: Any = 0.0
    """1 moves each image by up to a pixel."""
    noise: Any = 0.0


class Trained(NamedTuple):
    """Of a run, over its records where it says `[records]`."""

    train_error: Array
    """In the end."""
    validation_loss: Array
    """`[records]`"""
    validation_error: Array
    """In the end."""
    test_loss: Array
    """`[records]`"""
    test_error: Array
    """`[records]`"""
    halved_error: Array
    """On the test digits, in the end, with a random half of the hidden units at 0."""
    zeros: Array
    """The share of weights that are exactly 0."""
    norm: Array
    """Of the kernels."""


def examine(config: Config, keys: Key) -> Outcome:
    """Each remedy at the strength that validation digits choose, beside none."""
    none = _runs(config, keys, [Setting()])
    of_l2 = _runs(config, keys, [Setting(l2=x) for x in config.l2])
    of_l1 = _runs(config, keys, [Setting(l1=x) for x in config.l1])
    of_dropout = _runs(config, keys, [Setting(dropout=x) for x in config.dropout])
    of_smoothing = _runs(config, keys, [Setting(smoothing=x) for x in config.smoothing])
    shifted = _chosen(_runs(config, keys, [Setting(shift=1.0)]))
    noisy = _chosen(_runs(config, keys, [Setting(noise=config.noise)]))
    plain, l2, l1, dropout, smoothing = map(_chosen, (none, of_l2, of_l1, of_dropout, of_smoothing))
    stop = np.argmin(noisy.validation_loss, 1)
    seeds = np.arange(len(stop))
    nothing = Arm("nothing", plain.test_error[:, -1])

    def errs_less(name: str, trained: Trained) -> Comparison:
        return Comparison(
            f"with {config.examples} digits", "test error",
            Arm(name, trained.test_error[:, -1]), nothing, "less", 0.005,
        )  # fmt: skip

    remedies = {
        "nothing": plain, "L2": l2, "L1": l1, "dropout": dropout, "augmented": shifted,
        "smoothed": smoothing,
    }  # fmt: skip
    strongest = jax.tree.map(lambda x: x[:, -1], of_l2)
    return Outcome(
        setting=(
            f"{config.examples} digits to train on and {config.validation} to choose by, drawn by "
            f"seed, 360 to test on; an MLP with {config.width} relu units, SGD at "
            f"{config.rate:g}, batches of {config.batch_size}, {config.steps} steps. Penalties are "
            "on kernels: l2 ‖W‖²/2, and l1 ‖W‖₁ by a proximal step, whose zeros are zeros. "
            "Strengths are chosen for each seed by the validation error. Augmentation moves images "
            "by up to a pixel. Early stopping takes the step of the least validation loss, and is "
            f"tested with {config.noise:.0%} of the training labels drawn anew."
        ),
        tested=[
            Tested("An L2 penalty lowers the error on unseen data.", [errs_less("L2", l2)]),
            Tested("An L1 penalty does.", [errs_less("L1", l1)]),
            Tested("Dropout does.", [errs_less("dropout", dropout)]),
            Tested("Augmentation does.", [errs_less("augmentation", shifted)]),
            Tested("Label smoothing does.", [errs_less("label smoothing", smoothing)]),
            Tested(
                "L1 makes weights exactly 0, and L2 does not.",
                [
                    Comparison(
                        "L1",
                        "share of zeros",
                        Arm("L1", l1.zeros),
                        Arm("nothing", plain.zeros),
                        "more",
                        0.2,
                    ),
                    Comparison(
                        "L2",
                        "share of zeros",
                        Arm("L2", l2.zeros),
                        Arm("nothing", plain.zeros),
                        "same",
                        0.01,
                    ),
                ],
            ),
            Tested(
                "L2 makes weights small.",
                [
                    Comparison(
                        "at the chosen strength",
                        "norm of the kernels",
                        Arm("L2", l2.norm),
                        Arm("nothing", plain.norm),
                        "less",
                        1.2,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Too strong a penalty underfits: even the training data are not learnt.",
                [
                    Comparison(
                        f"at an L2 penalty of {config.l2[-1]:g}",
                        "training error",
                        Arm("too strong", strongest.train_error),
                        Arm("nothing", plain.train_error),
                        "more",
                        0.05,
                    )
                ],
            ),
            Tested(
                "Dropout makes units redundant: the net misses half of them less.",
                [
                    Comparison(
                        "with a random half of the units gone",
                        "added test error",
                        Arm("dropout", dropout.halved_error - dropout.test_error[:, -1]),
                        Arm("nothing", plain.halved_error - plain.test_error[:, -1]),
                        "less",
                        0.01,
                    )
                ],
            ),
            Tested(
                "Early stopping ends before wrong labels are learnt.",
                [
                    Comparison(
                        f"with {config.noise:.0%} of the labels drawn anew",
                        "test loss",
                        Arm("stopped", noisy.test_loss[seeds, stop]),
                        Arm("in the end", noisy.test_loss[:, -1]),
                        "less",
                        1.1,
                        ratio=True,
                    )
                ],
            ),
        ],
        seen=[
            _errors(remedies),
            _curves(config, noisy, stop),
        ],
    )


def _runs(config: Config, keys: Key, settings: list[Setting]) -> Trained:
    """`[seeds, settings, …]` of each."""
    stacked = jax.tree.map(lambda *x: jnp.array(x), *settings)
    found: Trained = jax.tree.map(np.asarray, sweep(partial(_train, config), keys, stacked))
    return found


def _chosen(runs: Trained) -> Trained:
    """Each seed's run of the setting with the least validation error, the weakest among equals."""
    best = np.argmin(runs.validation_error, 1)
    chosen: Trained = jax.tree.map(lambda x: x[np.arange(len(best)), best], runs)
    return chosen


def _train(config: Config, key: Key, setting: Setting) -> Trained:
    init_key, rows_key, noise_key, run_key, half_key = jax.random.split(key, 5)
    data = digits()
    rows = jax.random.permutation(rows_key, len(data.train["y"]))
    few, held = rows[: config.examples], rows[config.examples :][: config.validation]
    few_data, validation = (
        {name: leaf[part] for name, leaf in data.train.items()} for part in (few, held)
    )
    drawn = jax.random.randint(noise_key, few_data["y"].shape, 0, 10)
    wrong = jax.random.uniform(jax.random.fold_in(noise_key, 1), drawn.shape) < setting.noise
    few_data = few_data | {"y": jnp.where(wrong, drawn, few_data["y"])}
    first, second = jax.random.split(init_key)
    params = {
        "hidden": nn.init_dense(first, SIDE**2, config.width, kernel_init=he_normal()),
        "out": nn.init_dense(second, config.width, 10),
    }

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        shift_key, drop_key = jax.random.split(key)
        x = jnp.where(setting.shift > 0, _shifted(shift_key, batch["x"]), batch["x"])
        keep = jax.random.bernoulli(drop_key, 1 - setting.dropout, (len(x), config.width))
        logits = _net(params, x, keep / (1 - setting.dropout))
        smooth = jax.nn.one_hot(batch["y"], 10) * (1 - setting.smoothing) + setting.smoothing / 10
        squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in params.values())
        value: Array = (
            jnp.mean(losses.softmax_cross_entropy(logits, smooth)) + setting.l2 * squares / 2
        )
        return value

    def record(params: Params) -> Any:
        seen = [(_net(params, part["x"]), part["y"]) for part in (validation, data.test)]
        (a, y), (b, z) = seen
        return cross_entropy(a, y), cross_entropy(b, z), error_rate(b, z)

    optimizer = optim.chain(optim.sgd(config.rate), _soft_threshold(config.rate * setting.l1))
    trained = fit(
        loss, optimizer, params, few_data, key=run_key, steps=config.steps,
        batch_size=config.batch_size, record=record, every=config.steps // config.records,
    )  # fmt: skip
    end = trained.params
    half = jax.random.permutation(half_key, config.width) < config.width // 2
    kernels = jnp.concatenate([layer["kernel"].ravel() for layer in end.values()])
    test = data.test
    validation_loss, test_loss, test_error = trained.records
    return Trained(
        train_error=error_rate(_net(end, few_data["x"]), few_data["y"]),
        validation_loss=validation_loss,
        validation_error=error_rate(_net(end, validation["x"]), validation["y"]),
        test_loss=test_loss,
        test_error=test_error,
        # what is left counts twice, as in dropout
        halved_error=error_rate(_net(end, test["x"], 2.0 * half[None]), test["y"]),
        zeros=jnp.mean(kernels == 0),
        norm=jnp.linalg.norm(kernels),
    )


def _net(params: Params, x: Array, times: Array | float = 1.0) -> Array:
    hidden = jax.nn.relu(nn.dense(params["hidden"], x)) * jnp.asarray(times)
    return nn.dense(params["out"], hidden)


def _shifted(key: Key, x: Array) -> Array:
    """Images `[n, 64]`, each moved by -1, 0 or 1 pixels along both sides; edges repeat."""
    images = jnp.pad(x.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)), mode="edge")
    starts = jax.random.randint(key, (len(x), 2), 0, 3)

    def cut(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, start, (SIDE, SIDE)).ravel()

    return jax.vmap(cut)(images, starts)


def _soft_threshold(by: Any) -> optim.GradientTransformation:
    """After the step, every kernel element is moved towards 0 by so much, and not beyond it."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        def one(path: Any, update: Array, x: Array) -> Array:
            if path[-1].key != "kernel":
                return update
            moved = x + update
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - by, 0) - x

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optim.GradientTransformation(lambda params: (), update)


def _errors(found: dict[str, Trained]) -> Seen:
    with panels(["test error"]) as (figure, (axes,)):
        groups = {name: 100 * trained.test_error[:, -1] for name, trained in found.items()}
        draw_seeds(axes, groups, y_label="%")
    return Seen(figure, "In the end of training: a point for each seed, and their mean.")


def _curves(config: Config, noisy: Trained, stop: np.ndarray) -> Seen:
    every = config.steps // config.records
    steps = every * (1 + np.arange(config.records))
    with panels(["with wrong labels"]) as (figure, (axes,)):
        lines = {"validation": noisy.validation_loss, "test": noisy.test_loss}
        draw_lines(axes, steps, lines, x_label="step", y_label="loss, nats", marked=False)
        for at in stop:
            axes.axvline(steps[at], color="#888888", linestyle=":", linewidth=1)
        axes.legend()
    return Seen(
        figure,
        "Dotted: where the validation loss is least, for each seed. Median of seeds; the band is "
        "from the least to the greatest.",
    )
