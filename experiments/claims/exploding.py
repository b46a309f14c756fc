"""Recurrent nets: error signals that vanish or explode through time, and clipping."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import Batch, cross_entropy, digits, fit, sweep
from experiments.claims.verdict import Arm, Comparison
from jaxnets import nn, optim
from jaxnets.nn.initializers import orthogonal
from jaxnets.types import Array, Key, Params

TITLE = "Exploding gradients through time, and clipping"

WORST = float(np.log(10))


@dataclass(frozen=True)
class Config:
    """Recurrent nets that read a digit pixel by pixel, 64 steps."""

    features: int = 32
    radii: tuple[float, ...] = (0.5, 1.0, 1.5)
    """What an orthogonal recurrent matrix is multiplied by: all its eigenvalues' sizes."""
    rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Of SGD, for the recurrence of the largest radius."""
    clip: float = 1.0
    """Greatest norm of the gradient."""
    steps: int = 1500
    batch_size: int = 64
    examples: int = 256
    """Of which error signals are taken."""


FULL = Config()
QUICK = Config(steps=400, examples=128)


def examine(config: Config, keys: Key) -> Outcome:
    """Error signals at every step before training, and training with and without clipping."""
    radii = jnp.array(config.radii)
    vanilla = np.asarray(sweep(partial(_vanilla_profile, config), keys, radii))
    lstm = np.asarray(jax.jit(jax.vmap(partial(_lstm_profile, config)))(keys))
    ratio = np.clip(vanilla[..., 0] / vanilla[..., -1], 1e-30, 1e30)
    of_lstm = np.clip(lstm[:, 0] / lstm[:, -1], 1e-30, 1e30)
    rates = jnp.array(config.rates)
    clipped, free = (
        np.asarray(sweep(partial(_train, config, clip), keys, rates)) for clip in (True, False)
    )
    one = config.radii.index(1.0)
    names = [f"radius {radius:g}" for radius in config.radii]
    quantity = "error signal at the first step by that at the last"

    def radius(i: int, expected: Any, margin: float) -> Comparison:
        arms = Arm(names[i], ratio[:, i]), Arm(names[one], ratio[:, one])
        return Comparison(f"with {names[i]}", quantity, *arms, expected, margin, ratio=True)

    return Outcome(
        setting=(
            f"Digits read pixel by pixel, 64 steps, by {config.features} tanh units whose "
            "recurrent matrix is orthogonal times a radius, or an LSTM's at its default "
            f"initialization. Error signals are of {config.examples} digits before training. Then "
            f"the net of radius {config.radii[-1]:g} by SGD, {config.steps} steps of "
            f"{config.batch_size}, with gradients clipped at a norm of {config.clip:g} and not; "
            "losses above ln 10 or not finite count as that."
        ),
        tested=[
            Tested(
                "A small recurrent matrix makes the error signal vanish through time.",
                [radius(0, "less", 1000.0)],
            ),
            Tested(
                "A large one makes it explode.",
                [radius(len(names) - 1, "more", 10.0)],
            ),
            Tested(
                "An LSTM carries it farther than a small recurrent matrix does.",
                [
                    Comparison(
                        "over 64 steps",
                        quantity,
                        Arm("LSTM", of_lstm),
                        Arm(names[0], ratio[:, 0]),
                        "more",
                        10.0,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Clipping the gradient makes training possible at rates where it fails.",
                [
                    Comparison(
                        f"at a rate of {rate:g}",
                        "training loss",
                        Arm("clipped", clipped[:, i]),
                        Arm("not", free[:, i]),
                        "less",
                        0.1,
                    )
                    for i, rate in enumerate(config.rates)
                ],
            ),
        ],
        seen=[_picture(vanilla, lstm, names)],
    )


def _init(config: Config, key: Key, radius: Array | float) -> Params:
    first, second, third = jax.random.split(key, 3)
    n = config.features
    return {
        "in": jax.random.normal(first, (1, n)) / jnp.sqrt(n),
        "recurrent": radius * orthogonal()(second, (n, n), jnp.float32),
        "out": nn.init_dense(third, n, 10),
    }


def _run(params: Params, x: Array, taps: Array | None = None) -> Array:
    """Logits of `x [n, 64]`; `taps [64, n, features]` are added to each state."""
    steps = x.T[..., None]
    start = jnp.zeros((len(x), params["recurrent"].shape[0]))

    def step(h: Array, given: tuple[Array, Array | None]) -> tuple[Array, None]:
        pixel, tap = given
        h = jnp.tanh(pixel @ params["in"] + h @ params["recurrent"])
        return (h if tap is None else h + tap), None

    h, _ = lax.scan(step, start, (steps, taps))
    return nn.dense(params["out"], h)


def _profile(loss: Any, shape: tuple[int, ...]) -> Array:
    """Root mean square of the derivative by each step's tap: `[64]`."""
    errors = jax.grad(loss)(jnp.zeros(shape))
    return jnp.sqrt(jnp.mean(jnp.square(errors), (1, 2))) + 1e-37


def _vanilla_profile(config: Config, key: Key, radius: Array) -> Array:
    data = digits().train
    x, y = data["x"][: config.examples], data["y"][: config.examples]
    params = _init(config, key, radius)
    shape = (64, len(y), config.features)
    return _profile(lambda taps: len(y) * cross_entropy(_run(params, x, taps), y), shape)


def _lstm_profile(config: Config, key: Key) -> Array:
    data = digits().train
    x, y = data["x"][: config.examples], data["y"][: config.examples]
    cell_key, out_key = jax.random.split(key)
    cell = nn.init_lstm_cell(cell_key, 1, config.features)
    out = nn.init_dense(out_key, config.features, 10)
    zero = jnp.zeros((len(y), config.features))

    def loss(taps: Array) -> Array:
        def step(carry: Any, given: Any) -> Any:
            pixel, tap = given
            c, h = nn.lstm_cell(cell, carry, pixel)
            # the cell's state is what carries the signal
            return (c + tap, h), None

        (_, h), _ = lax.scan(step, (zero, zero), (x.T[..., None], taps))
        return len(y) * cross_entropy(nn.dense(out, h), y)

    # the last cell state is read by nothing but the next step
    return _profile(loss, (64, len(y), config.features))[:-1]


def _train(config: Config, clip: bool, key: Key, rate: Array) -> Array:
    init_key, run_key = jax.random.split(key)
    data = digits().train

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        return cross_entropy(_run(params, batch["x"]), batch["y"])

    optimizer = optim.sgd(rate)
    if clip:
        optimizer = optim.chain(optim.clip_by_global_norm(config.clip), optimizer)
    trained = fit(
        loss, optimizer, _init(config, init_key, config.radii[-1]), data,
        key=run_key, steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip
    end = jnp.mean(trained.losses[-max(1, config.steps // 20) :])
    return jnp.minimum(jnp.where(jnp.isfinite(end), end, WORST), WORST)


def _picture(vanilla: np.ndarray, lstm: np.ndarray, names: list[str]) -> Seen:
    with panels(["before training"]) as (figure, (axes,)):
        steps = np.arange(1, 65)
        # what has underflowed is a gap
        shown = np.where(vanilla > 2e-37, vanilla, np.nan)
        lines = {name: shown[:, i] / shown[:, i, -1:] for i, name in enumerate(names)}
        draw_lines(
            axes, steps, lines, x_label="step", y_label="error signal, relative to the last step",
            log_y=True, marked=False,
        )  # fmt: skip
        relative = lstm / lstm[:, -1:]
        axes.plot(steps[:-1], np.median(relative, 0), color="#333333", linestyle="--", label="LSTM")
        axes.legend(loc="lower right")
    return Seen(
        figure,
        "The error signal on its way back through time (of the LSTM, that of its cell state, from "
        "the last but one step). Median of seeds; the band is from the least to the greatest.",
    )
