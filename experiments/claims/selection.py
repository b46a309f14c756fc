"""Choosing by held-out data: cross-validation against one split, and searches at equal cost."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_seeds, panels
from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, nn, optim
from jaxnets.train import selection
from jaxnets.types import Array, Key, Params

TITLE = "Cross-validation and search"


@dataclass(frozen=True)
class Config:
    """Estimates of a small model's error, and hyper-parameters of a small net."""

    examples: int = 100
    """To fit and to judge by, drawn anew for each repetition."""
    folds: int = 5
    repetitions: int = 40
    fit_steps: int = 100
    search_examples: int = 300
    """Of them a third is held out, to choose by."""
    searches: int = 12
    """Repetitions of each search."""
    most: int = 9
    """Units that a configuration is trained for at most, of `unit` steps each."""
    unit: int = 30
    batch_size: int = 32
    rates: tuple[float, float] = (1e-4, 10.0)
    """Of SGD: they decide."""
    decays: tuple[float, float] = (1e-6, 1e-2)
    """Of an L2 penalty: they hardly matter."""


FULL = Config(repetitions=100, searches=30)
QUICK = Config()


def examine(config: Config, keys: Key) -> Outcome:
    """Errors of estimates, and of what each search chooses."""
    single, crossed = map(np.asarray, jax.jit(jax.vmap(partial(_estimates, config)))(keys))
    found = {
        name: np.asarray(jax.jit(jax.vmap(partial(search, config)))(keys))
        for name, search in (("grid", _grid), ("random", _random), ("halving", _halving))
    }
    spent = selection.cost(selection.rungs(27, 1, config.most))

    def searched(treated: str, control: str) -> Comparison:
        return Comparison(
            f"with {treated}, beside {control}", "mean test error of the chosen",
            Arm(treated, found[treated]), Arm(control, found[control]), "less", 0.005,
        )  # fmt: skip

    return Outcome(
        setting=(
            f"Digits. The error of softmax regression ({config.fit_steps} steps) on "
            f"{config.examples} digits, estimated from a fifth of them that is held out, or from "
            f"{config.folds} folds; its true error is that of the model of all of them on 360 "
            f"other digits; {config.repetitions} repetitions for each seed. Searches for the "
            f"learning rate and the L2 penalty of an MLP on {config.search_examples} digits, a "
            f"third held out to choose by: a grid of 3 × 3 or 9 draws, {config.most} × "
            f"{config.unit} steps each ({9 * config.most} units), and successive halving of 27 "
            f"draws ({spent} units); {config.searches} repetitions for each seed. The rate, from "
            f"{config.rates[0]:g} to {config.rates[1]:g}, decides, and the penalty, from "
            f"{config.decays[0]:g} to {config.decays[1]:g}, hardly matters: the case that random "
            "search was proposed for, where a grid tries only three values of what counts. For the "
            "same repetition all searches see the same digits and begin with the same weights (in "
            "a first run they did not). The 360 other digits judge what was chosen, and choose "
            "nothing."
        ),
        tested=[
            Tested(
                f"Cross-validation's estimate of the error, at {config.folds} times the cost, "
                "scatters less than that of one split.",
                [
                    Comparison(
                        f"with {config.examples} digits",
                        "deviation of estimate less true error",
                        Arm(f"{config.folds} folds", crossed.std(1)),
                        Arm("one split", single.std(1)),
                        "less",
                        1.2,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "It is too high rather than too low, since its models see fewer data.",
                [
                    Comparison(
                        f"with {config.examples} digits",
                        "mean of estimate less true error",
                        Arm(f"{config.folds} folds", crossed.mean(1)),
                        Arm("none", np.zeros(len(keys))),
                        "more",
                        0.005,
                    )
                ],
            ),
            Tested(
                "Where one of two settings decides, random search finds better ones than a grid at "
                "equal cost.",
                [searched("random", "grid")],
            ),
            Tested(
                "Successive halving finds better ones than random search at no more cost.",
                [searched("halving", "random")],
            ),
        ],
        seen=[_picture(single, crossed, found)],
        notes=(
            "What is said of grids here is said of three values over five decades of the only "
            "setting that matters. The experiment `selection` has finer grids, both of whose "
            "settings matter, and there 20 seeds do not decide between grid and random search."
        ),
    )


def _regression(config: Config, key: Key, data: Batch) -> Params:
    params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return cross_entropy(nn.dense(params, batch["x"]), batch["y"])

    return fit(
        loss, optim.sgd(0.1), params, data, key=key, steps=config.fit_steps,
        batch_size=len(data["y"]),
    ).params  # fmt: skip


def _rows(data: Batch, rows: Array) -> Batch:
    return {name: leaf[rows] for name, leaf in data.items()}


def _estimates(config: Config, key: Key) -> tuple[Array, Array]:
    """Estimate less true error, by one split and by folds: `[repetitions]` each."""
    data = digits()
    folds = selection.kfold(config.examples, config.folds)
    parts = [(jnp.asarray(fold.train), jnp.asarray(fold.held_out)) for fold in folds]
    train, held = (jnp.stack(side) for side in zip(*parts, strict=True))

    def one(key: Key) -> tuple[Array, Array]:
        rows_key, fit_key = jax.random.split(key)
        rows = jax.random.permutation(rows_key, len(data.train["y"]))[: config.examples]
        few = _rows(data.train, rows)
        params = _regression(config, fit_key, few)
        truth = error_rate(nn.dense(params, data.test["x"]), data.test["y"])

        def of_fold(inside: Array, outside: Array) -> Array:
            params, judged = _regression(config, fit_key, _rows(few, inside)), _rows(few, outside)
            return error_rate(nn.dense(params, judged["x"]), judged["y"])

        errors = jax.vmap(of_fold)(train, held)
        return errors[0] - truth, jnp.mean(errors) - truth

    off: tuple[Array, Array] = jax.lax.map(
        one, jax.random.split(key, config.repetitions), batch_size=10
    )
    return off


_NET = models.MLPConfig(64, 10, hidden=(32,))


def _trained(
    config: Config, data: Batch, key: Key, params: Params, rate: Array, decay: Array, units: int
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


def _searches(config: Config, key: Key, one: Callable[[_Keys], Array]) -> Array:
    """The mean over repetitions of the test error of what a search chooses."""

    def repetition(key: Key) -> Array:
        return one(_Keys(*jax.random.split(key, 4)))

    keys = jax.random.split(key, config.searches)
    return jnp.mean(jax.lax.map(repetition, keys, batch_size=4))


def _begun(config: Config, keys: _Keys) -> tuple[Batch, Batch, Params]:
    """What is trained on, what is held out, and the initial weights."""
    return *_split(config, keys.data), models.init_mlp(keys.init, _NET)


def _split(config: Config, key: Key) -> tuple[Batch, Batch]:
    data = digits().train
    rows = jax.random.permutation(key, len(data["y"]))[: config.search_examples]
    third = config.search_examples // 3
    return _rows(data, rows[third:]), _rows(data, rows[:third])


def _held_out(params: Params, data: Batch) -> Array:
    """The error, and among equal ones the loss."""
    logits = models.mlp(params, _NET, data["x"])
    loss = jnp.nan_to_num(cross_entropy(logits, data["y"]), nan=1e3, posinf=1e3)
    return error_rate(logits, data["y"]) + 1e-6 * jnp.minimum(loss, 1e3)


def _test_error(params: Params) -> Array:
    test = digits().test
    return error_rate(models.mlp(params, _NET, test["x"]), test["y"])


def _of_all(config: Config, keys: _Keys, rates: Array, decays: Array) -> Array:
    """Train each configuration to the end; the test error of the one with the best held-out."""
    inside, outside, start = _begun(config, keys)

    def one(rate: Array, decay: Array) -> Params:
        return _trained(config, inside, keys.run, start, rate, decay, config.most)

    trained = jax.vmap(one)(rates, decays)
    best = jnp.argmin(jax.vmap(_held_out, (0, None))(trained, outside))
    return _test_error(jax.tree.map(lambda x: x[best], trained))


def _grid(config: Config, key: Key) -> Array:
    rates = jnp.geomspace(*config.rates, 3)
    decays = jnp.geomspace(*config.decays, 3)
    rates, decays = (x.ravel() for x in jnp.meshgrid(rates, decays))
    return _searches(config, key, lambda k: _of_all(config, k, rates, decays))


def _drawn(config: Config, key: Key, n: int) -> tuple[Array, Array]:
    """`n` draws, uniform in the logarithm."""
    low = jnp.log(jnp.array([config.rates[0], config.decays[0]]))
    high = jnp.log(jnp.array([config.rates[1], config.decays[1]]))
    rates, decays = jnp.exp(low[:, None] + jax.random.uniform(key, (2, n)) * (high - low)[:, None])
    return rates, decays


def _random(config: Config, key: Key) -> Array:
    def one(keys: _Keys) -> Array:
        return _of_all(config, keys, *_drawn(config, keys.draw, 9))

    return _searches(config, key, one)


def _halving(config: Config, key: Key) -> Array:
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


def _picture(single: np.ndarray, crossed: np.ndarray, found: dict[str, np.ndarray]) -> Seen:
    with panels(["estimate less true error", "what is chosen"], share_y=False) as (figure, row):
        left, right = row
        names = ("one split", "folds")
        for index, values in enumerate((single, crossed)):
            left.hist(100 * values.ravel(), 21, alpha=0.55, label=names[index], color=f"C{index}")
        left.set_xlabel("points")
        left.set_ylabel("estimates")
        left.legend()
        draw_seeds(right, {k: 100 * v for k, v in found.items()}, y_label="mean test error, %")
    return Seen(
        figure,
        "Left: how far estimates of the error are off, all seeds. Right: the test error of what "
        "each search chooses, a point for each seed, and their mean.",
    )
