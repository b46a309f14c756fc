"""Choosing by held-out data: cross-validation against one split, and searches at equal cost."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_seeds, panels
from experiments.claims.searching import grid, halving, random, rows_of
from experiments.claims.training import Batch, cross_entropy, digits, error_rate, fit
from experiments.claims.verdict import Arm, Comparison
from jaxnets import nn, optim
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
    """Of SGD: they decide. Each repetition moves both ends by the same factor (`rates_of`)."""
    decays: tuple[float, float] = (1e-6, 1e-2)
    """Of an L2 penalty: they hardly matter."""


FULL = Config(repetitions=100, searches=30)
QUICK = Config()


def examine(config: Config, keys: Key) -> Outcome:
    """Errors of estimates, and of what each search chooses."""
    single, crossed = map(np.asarray, jax.jit(jax.vmap(partial(_estimates, config)))(keys))
    found = {
        name: search(config, keys)
        for name, search in (("grid", grid), ("random", random), ("halving", halving))
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
            f"{config.rates[0]:g} to {config.rates[1]:g}, decides (for each repetition both ends "
            "are moved by a random factor, the same for all searches, of up to half of the grid's "
            "step, so that the best rate lies anywhere between two of the grid's; in a first run "
            "they stayed), and the penalty, from "
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


def _estimates(config: Config, key: Key) -> tuple[Array, Array]:
    """Estimate less true error, by one split and by folds: `[repetitions]` each."""
    data = digits()
    folds = selection.kfold(config.examples, config.folds)
    parts = [(jnp.asarray(fold.train), jnp.asarray(fold.held_out)) for fold in folds]
    train, held = (jnp.stack(side) for side in zip(*parts, strict=True))

    def one(key: Key) -> tuple[Array, Array]:
        rows_key, fit_key = jax.random.split(key)
        rows = jax.random.permutation(rows_key, len(data.train["y"]))[: config.examples]
        few = rows_of(data.train, rows)
        params = _regression(config, fit_key, few)
        truth = error_rate(nn.dense(params, data.test["x"]), data.test["y"])

        def of_fold(inside: Array, outside: Array) -> Array:
            params, judged = (
                _regression(config, fit_key, rows_of(few, inside)),
                rows_of(few, outside),
            )
            return error_rate(nn.dense(params, judged["x"]), judged["y"])

        errors = jax.vmap(of_fold)(train, held)
        return errors[0] - truth, jnp.mean(errors) - truth

    off: tuple[Array, Array] = jax.lax.map(
        one, jax.random.split(key, config.repetitions), batch_size=10
    )
    return off


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
