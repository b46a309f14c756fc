"""Truncated backpropagation through time learns what lies within its horizon."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import plots
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.rates import best_of_others
from experiments.claims.training import Batch, bounded, cross_entropy, digits, error_rate, fit
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets import nn, optim
from jaxnets.types import Array, Key, Params

TITLE = "Truncated backpropagation through time learns as far as its horizon"

PIXELS, CLASSES = 64, 10
MARGIN = 0.03
"""Of accuracy, that still counts as nothing learned."""


@dataclass(frozen=True)
class Config:
    """Of a GRU that is shown a digit, then noise, and must say at the end which it was."""

    lags: tuple[int, ...] = (1, 3, 7, 15, 31)
    """Steps of noise between the digit and the answer."""
    before: int = 8
    """Of noise before the digit, at the longest lag; the more, the shorter the lag."""
    horizons: tuple[int, ...] = (2, 4, 8, 16, 32, 40)
    """Steps that the error is carried back through, the last one among them; and beside them 0: the
    recurrence stays as it was drawn, and only the classifier is trained."""
    features: int = 32
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Tried for each lag and horizon, with Adam."""
    steps: int = 1000
    batch_size: int = 32


FULL = Config()
# a lag of 15 is not learned in so few steps, even by the whole of backpropagation
QUICK = Config(
    lags=(1, 3, 7),
    before=4,
    horizons=(2, 4, 8, 12),
    features=16,
    rates=(0.003, 0.01, 0.03, 0.1),
    steps=250,
)


def examine(config: Config, keys: Key) -> Outcome:
    """Test accuracy for each lag and horizon."""
    accuracies = _accuracies(config, keys)
    horizons = _with_none(config)

    def at(lag: int, horizon: int) -> np.ndarray:
        found: np.ndarray = accuracies[:, config.lags.index(lag), horizons.index(horizon)]
        return found

    def compare(
        lag: int, treated: int, control: int, expected: Expected, margin: float
    ) -> Comparison:
        return Comparison(
            f"with lag {lag}, horizon {treated} against {control}",
            "test accuracy",
            Arm(f"horizon {treated}", at(lag, treated)),
            Arm(f"horizon {control}", at(lag, control)),
            expected,
            margin,
        )

    full = horizons[-1]
    below = {lag: [h for h in config.horizons if h <= lag] for lag in config.lags}
    short = {lag: max(found) for lag, found in below.items() if found}
    enough = {lag: min((h for h in horizons if h > lag), default=None) for lag in config.lags}
    return Outcome(
        setting=(
            f"A GRU of {config.features} units reads {max(config.lags) + config.before + 1} "
            "steps: one of scikit-learn's digits, all pixels at once, `lag` steps before the last, "
            "and normal noise, drawn anew for each batch, in all others; the state goes through "
            "all of them, and the last one is classified. The error is carried back through the "
            f"last `horizon` steps, so that it gets to the digit if horizon is above lag. A "
            f"horizon of {full} is longer than every dependency here: it goes on through noise "
            "before the digit, which a horizon just longer than the lag does not. "
            f"Adam, {config.steps} steps of {config.batch_size} examples, at the rate of "
            f"{', '.join(f'{r:g}' for r in config.rates)} with the least training loss for the "
            "other seeds (0.1 was added after a first run, whose best was 0.03, at its end); "
            "accuracy on 360 digits that nothing is chosen by. With a horizon of 0 the recurrence "
            "keeps its random weights, and only the classifier of the last state is trained: what "
            "such a state still holds of the digit is known without any learning through time. "
            f"Chance may be exceeded by {MARGIN:g} (0.1, as much as chance itself, before)."
        ),
        tested=[
            Tested(
                "A dependency that is longer than the horizon is not learned.",
                [compare(lag, h, full, "less", 0.2) for lag, h in short.items() if full > lag],
            ),
            Tested(
                "A horizon just longer than the dependency learns it as well as a longer one.",
                [
                    compare(lag, h, full, "not less", 0.05)
                    for lag, h in enough.items()
                    if h is not None and h < full
                ],
            ),
            Tested(
                "Beyond the horizon nothing is learned: accuracy is no better than chance.",
                [
                    Comparison(
                        f"with lag {lag}, horizon {h}",
                        "test accuracy",
                        Arm(f"horizon {h}", at(lag, h)),
                        Arm("chance", np.full(len(keys), 1 / CLASSES)),
                        "not more",
                        MARGIN,
                    )
                    for lag, h in short.items()
                ],
            ),
            Tested(
                "It is no better than where the recurrence is not trained at all.",
                [compare(lag, h, 0, "not more", MARGIN) for lag, h in short.items()],
            ),
        ],
        seen=[_draw(config.lags, horizons, accuracies)],
        notes=(
            "What lies beyond the horizon may still be carried by the state as its weights happen "
            "to be, and be read from it by the classifier, which is always trained: so accuracy "
            "can be above chance where no error comes from the digit. A lag that the longest "
            "horizon does not learn in the steps given says nothing about horizons: see the right "
            "column."
        ),
    )


def init_net(key: Key, features: int) -> Params:
    """A GRU and a classifier of its state."""
    cell, head = jax.random.split(key)
    return {
        "cell": nn.init_gru_cell(cell, PIXELS, features),
        "head": nn.init_dense(head, features, CLASSES),
    }


def logits_after(
    params: Params, x: Array, noise: Array, lag: int | Array, horizon: int | Array
) -> Array:
    """`[n, classes]` of the last state, whose derivative goes back through `horizon` steps.

    The state is carried from the first step on, through noise before the digit and after it.

    Args:
      params: of `init_net`.
      x: `[n, 64]`, shown `lag` steps before the end.
      noise: `[steps, n, 64]`, read wherever the digit is not; `steps` is above `lag`.
      lag: may be traced.
      horizon: may be traced; from `steps` on it cuts nothing off, and 0 cuts off all.
    """
    steps = len(noise)
    first = steps - 1 - lag

    def step(h: Array, sliced: tuple[Array, Array]) -> tuple[Array, None]:
        t, drawn = sliced
        h = jnp.where(t == steps - horizon, lax.stop_gradient(h), h)
        seen = jnp.where(t == first, x, drawn)
        return nn.gru_cell(params["cell"], h, seen), None

    start = jnp.zeros((len(x), params["head"]["kernel"].shape[0]))
    h, _ = lax.scan(step, start, (jnp.arange(steps), noise))
    h = jnp.where(horizon == 0, lax.stop_gradient(h), h)
    return nn.dense(params["head"], h)


def _with_none(config: Config) -> list[int]:
    return [0, *config.horizons]


def _accuracies(config: Config, keys: Key) -> np.ndarray:
    """`[seeds, lags, horizons]`, the first horizon being 0."""
    data = digits()
    length = config.before + max(config.lags) + 1

    def logits(params: Params, x: Array, key: Key, lag: Array, horizon: Array) -> Array:
        noise = jax.random.normal(key, (length, *x.shape))
        return logits_after(params, x, noise, lag, horizon)

    def one(key: Key, lag: Array, horizon: Array, rate: Array) -> tuple[Array, Array]:
        init_key, run_key, test_key = jax.random.split(key, 3)

        def loss(params: Params, batch: Batch, key: Key) -> Array:
            return cross_entropy(logits(params, batch["x"], key, lag, horizon), batch["y"])

        trained = fit(
            loss, optim.adam(rate), init_net(init_key, config.features), data.train,
            key=run_key, steps=config.steps, batch_size=config.batch_size,
        )  # fmt: skip
        scores = logits(trained.params, data.test["x"], test_key, lag, horizon)
        last = bounded(jnp.mean(trained.losses[-max(1, config.steps // 10) :]))
        return last, 1 - error_rate(scores, data.test["y"])

    of_rates = jax.vmap(one, (None, None, None, 0))
    of_horizons = jax.vmap(of_rates, (None, None, 0, None))
    of_lags = jax.vmap(of_horizons, (None, 0, None, None))
    of_seeds = jax.jit(jax.vmap(of_lags, (0, None, None, None)))
    axes = map(jnp.asarray, (config.lags, _with_none(config), config.rates))
    losses, accuracies = map(np.asarray, of_seeds(keys, *axes))
    found = np.empty(losses.shape[:3])
    for lag, horizon in np.ndindex(found.shape[1:]):
        what = f"lag {config.lags[lag]}, horizon {_with_none(config)[horizon]}"
        best = best_of_others(config.rates, losses[:, lag, horizon], what)
        found[:, lag, horizon] = accuracies[np.arange(len(found)), lag, horizon, best]
    return found


def _draw(lags: Sequence[int], horizons: Sequence[int], accuracies: np.ndarray) -> Seen:
    percent = 100 * accuracies
    mean, low, high = percent.mean(0), percent.min(0), percent.max(0)
    with plots.new_figure(6.4, 4.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(mean, origin="lower", cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for row, column in np.ndindex(*mean.shape):
            axes.text(
                column,
                row,
                f"{mean[row, column]:.0f}\n{low[row, column]:.0f} to {high[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if mean[row, column] < 60 else "black",
            )
        axes.grid(visible=False)
        axes.set_xticks(range(len(horizons)), labels=[str(h) for h in horizons])
        axes.set_yticks(range(len(lags)), labels=[str(lag) for lag in lags])
        axes.set_xlabel("horizon, steps")
        axes.set_ylabel("lag, steps")
        figure.colorbar(image, ax=axes, label="test accuracy, %")
    return Seen(
        figure,
        "Mean test accuracy in percent, least to greatest of the seeds under it. The error gets to "
        "the digit where the horizon is above the lag; with a horizon of 0 only the classifier is "
        "trained.",
    )
