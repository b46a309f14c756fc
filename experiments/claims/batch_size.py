"""Batch size: what a larger batch saves in steps, and the noise scale that says how far."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import between, taken
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.rates import GridEndError, best_of_others
from experiments.claims.training import (
    digits,
    error_rate,
    fit,
    mlp_loss,
    steps_to,
    sweep,
)
from jaxnets import gradients, models, optim
from jaxnets.types import Array, Key, Params

TITLE = "Batch size and the noise of the gradient"


@dataclass(frozen=True)
class Config:
    """SGD on the digits with batches of many sizes, each at its best rate."""

    sizes: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """Four times the one before."""
    examples_seen: int = 64_000
    """By every run, but for `most_steps` and `least_steps`."""
    most_steps: int = 6000
    least_steps: int = 1000
    target: float = 0.2
    """Training loss to be reached, nats."""
    late_target: float = 0.05
    """The one at which test errors are compared."""
    hidden: tuple[int, ...] = (32,)
    low: float = 0.02
    octaves: int = 9
    """Rates are `low` times the powers of 2 up to this one, so that where four times the batch
    wants two or four times the rate, both are as near to a rate of the grid."""
    noise_batch: int = 64
    """The batch size of the run along which the noise is measured; one of `sizes`."""
    noise_every: int = 2
    """Steps between two measurements, each on all training digits."""


FULL = Config()
QUICK = Config(examples_seen=16_000, most_steps=2500, least_steps=400)


class Reached(NamedTuple):
    """Of one run."""

    steps: Array
    """To the target; one record more than were taken, if it was not reached."""
    late_steps: Array
    """To the late one."""
    error: Array
    """Of the test digits when the late target was reached, or in the end."""


def examine(config: Config, keys: Key) -> Outcome:
    """Steps to a loss by batch size; the batch from which on it does not pay; the noise scale."""
    rates = config.low * 2.0 ** jnp.arange(config.octaves + 1)
    found = {f"batch {n}": sweep(partial(_run, config, n), keys, rates) for n in config.sizes}
    best = {n: best_of_others(rates, runs.steps, n) for n, runs in found.items()}
    late = {n: best_of_others(rates, runs.late_steps, f"{n}, late") for n, runs in found.items()}
    steps = {n: taken(runs.steps, best[n]) for n, runs in found.items()}
    error = {n: taken(runs.error, late[n]) for n, runs in found.items()}
    late_steps = {n: taken(runs.late_steps, late[n]) for n, runs in found.items()}
    table = np.stack(list(steps.values()), 1)
    names = list(steps)
    probed = f"batch {config.noise_batch}"
    scale = _noise_scales(config, keys, rates[best[probed]], int(steps[probed].max()))
    batches = {
        "noise scale": scale,
        "critical batch": np.array([_critical(config.sizes, row) for row in table]),
    }
    smallest, next_size, *_ = names
    four_times = {smallest: steps[smallest], f"4 × {next_size}": 4 * steps[next_size]}
    at_target = f"to a loss of {config.target:g}"
    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, plain SGD, {len(rates)} rates from {config.low:g} "
            f"on, each twice the one before: steps until the loss of all training digits is "
            f"{config.target:g}, for each batch size and seed at the rate that needs fewest for "
            "the other seeds. The critical batch is fitted to steps = least "
            "steps × (1 + critical / batch). The noise scale is tr Σ / ‖G‖² of all training "
            "digits' own gradients, both averaged over the way to that loss, from the first steps "
            f"on, every {config.noise_every} steps of the run with batches of "
            f"{config.noise_batch} at its best rate. Test errors are those when a run first has a "
            f"loss of {config.late_target:g}, at the rate that needs fewest steps to it for the "
            "other seeds."
        ),
        tested=[
            Tested(
                "Small batches: four times the batch takes a quarter of the steps.",
                [
                    between(
                        four_times, *four_times, quantity="steps to the target",
                        where=f"from {config.sizes[0]} to {config.sizes[1]} examples",
                        expected="same", margin=1.25, ratio=True,
                    )
                ],
            ),
            Tested(
                "Large batches: a larger one hardly saves any more.",
                [
                    between(
                        steps, names[-2], names[-1], quantity="steps to the target",
                        where=f"from {config.sizes[-2]} to {config.sizes[-1]} examples",
                        expected="not more", margin=1.5, ratio=True,
                    )
                ],
            ),
            Tested(
                "The noise scale of the gradient says where the one turns into the other.",
                [
                    between(
                        batches, "noise scale", "critical batch", where=at_target,
                        quantity="examples", expected="same", margin=3.0, ratio=True,
                    )
                ],
            ),
            Tested(
                "Small batches generalize better.",
                [
                    between(
                        error, names[0], names[-1], quantity="test error", expected="less",
                        where=f"both at a training loss of {config.late_target:g}", margin=0.003,
                    )
                ],
            ),
        ],
        seen=[_picture(config, table, batches)],
        notes=_notes(config, late_steps),
    )  # fmt: skip


def _notes(config: Config, late_steps: dict[str, np.ndarray]) -> str:
    missed = {
        size: int(np.sum(steps > _budget(config, size)[0]))
        for size, steps in zip(config.sizes, late_steps.values(), strict=True)
    }
    parts = [
        "Rates lie a factor of 2 apart; what lies between them is in no interval. (In a first run "
        "it was 3.16, more than the margin, and each seed had the rate that was best for itself.)",
        *(
            f"With batches of {size}, {n} seeds do not reach the late target; their errors are "
            "those in the end."
            for size, n in missed.items()
            if n
        ),
    ]
    return " ".join(parts)


def _net(config: Config) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=config.hidden)


def _budget(config: Config, size: int) -> tuple[int, int]:
    """How many steps a run may take, and after how many each its loss is looked at."""
    steps = int(np.clip(config.examples_seen // size, config.least_steps, config.most_steps))
    every = max(1, steps // 250)
    return steps // every * every, every


def _run(config: Config, size: int, key: Key, rate: Array) -> Reached:
    init_key, run_key = jax.random.split(key)
    data, loss = digits(), mlp_loss(_net(config))
    steps, every = _budget(config, size)

    def record(params: Params) -> tuple[Array, Array]:
        logits = models.mlp(params, _net(config), data.test["x"])
        return loss(params, data.train, None), error_rate(logits, data.test["y"])

    trained = fit(
        loss,
        optim.sgd(rate), models.init_mlp(init_key, _net(config)), data.train,
        key=run_key, steps=steps, batch_size=size, record=record, every=every,
    )  # fmt: skip
    losses, errors = trained.records
    late = steps_to(losses, config.late_target)
    at_late = errors[jnp.minimum(late, len(losses)) - 1]
    return Reached(steps_to(losses, config.target, every=every), every * late, at_late)


def _critical(sizes: tuple[int, ...], steps: np.ndarray) -> float:
    """`B` of `steps = S (1 + B / size)` (McCandlish et al., 2018), by least squares of logs."""
    from scipy.optimize import least_squares

    logs, over = np.log(steps), 1 / np.asarray(sizes)

    def residuals(unknown: np.ndarray) -> np.ndarray:
        least, critical = unknown
        return np.asarray(least + np.log1p(np.exp(critical) * over) - logs)

    found = least_squares(residuals, [np.log(steps.min()), np.log(64.0)])
    return float(np.exp(found.x[1]))


def _noise_scales(config: Config, keys: Key, rates: Array, steps: int) -> np.ndarray:
    """`[seeds]`, each along its run at its rate.

    Raises:
      GridEndError: if a run is at the target before it is first looked at.
    """
    measure = partial(_noise_scale, config, -(-steps // config.noise_every) * config.noise_every)
    scales = np.asarray(jax.jit(jax.vmap(measure))(keys, rates))
    if not np.isfinite(scales).all():
        raise GridEndError(
            f"a loss of {config.target:g} is reached within {config.noise_every} steps: the noise "
            "on the way there cannot be measured"
        )
    return scales


def _noise_scale(config: Config, steps: int, key: Key, rate: Array) -> Array:
    """`Σ tr Σ / Σ ‖G‖²` over the way to the target; NaN if the first record is beyond it."""
    # the very run of `_run` with that batch size
    init_key, run_key = jax.random.split(key)
    data, loss = digits().train, mlp_loss(_net(config))

    def one(params: Params, x: Array, y: Array) -> Array:
        return loss(params, {"x": x[None], "y": y[None]}, None)

    def record(params: Params) -> tuple[Array, Array, Array]:
        _, factors = gradients.per_example_grad(one)(params, data["x"], data["y"])
        seen = gradients.noise_scale(factors)
        return seen.sq_norm, seen.trace, loss(params, data, None)

    trained = fit(
        loss,
        optim.sgd(rate), models.init_mlp(init_key, _net(config)), data,
        key=run_key, steps=steps, batch_size=config.noise_batch, record=record,
        every=config.noise_every,
    )  # fmt: skip
    sq_norm, trace, losses = trained.records
    return on_the_way(sq_norm, trace, losses, config.target)


def on_the_way(sq_norm: Array, trace: Array, losses: Array, target: float) -> Array:
    """The noise scale over the records before the loss first is at the target."""
    before = jnp.cumsum(losses <= target) == 0
    return jnp.sum(jnp.where(before, trace, 0)) / jnp.sum(jnp.where(before, sq_norm, 0))


def _picture(config: Config, steps: np.ndarray, batches: dict[str, np.ndarray]) -> Seen:
    knee, scale = batches["critical batch"], batches["noise scale"]
    with panels([f"steps to a loss of {config.target:g}"]) as (figure, (axes,)):
        sizes = np.asarray(config.sizes)
        draw_lines(
            axes,
            sizes,
            {"best rate": steps},
            x_label="batch size",
            y_label="steps",
            log_x=True,
            log_y=True,
        )
        least, critical = np.median(steps[:, -1]), np.exp(np.mean(np.log(knee)))
        perfect = steps[:, 0].mean() * sizes[0] / sizes
        grey: dict[str, Any] = {"color": "#888888", "linewidth": 1}
        axes.plot(sizes, perfect, **grey, linestyle="--", label="in proportion")
        axes.axvline(critical, **grey, label="critical batch")
        noise = float(np.exp(np.mean(np.log(scale))))
        axes.axvline(noise, color="#D55E00", linestyle=":", linewidth=1.6, label="noise scale")
        axes.set_ylim(bottom=0.6 * least)
        axes.legend()
    return Seen(
        figure,
        "Steps at the best rate, by batch size; dashed, a quarter of the steps for four times the "
        "batch. Median of seeds; the band is from the least to the greatest.",
    )
