"""Adagrad, RMSprop and Adam: steps scaled by the gradients that each parameter has seen."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.training import (
    Batch,
    cross_entropy,
    digits,
    fit,
    mlp_loss,
    rates_around,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison
from jaxnets import models, nn, optim, tree
from jaxnets.types import Array, Key, Params

TITLE = "Adagrad, RMSprop and Adam"

Optimizer = Callable[[Any], optim.GradientTransformation]


@dataclass(frozen=True)
class Config:
    """Each optimizer at its own best rate, for each seed."""

    sparse_steps: int = 600
    """Of softmax regression on pixels one-hot in 17 intensities, and on pixels as they are."""
    relearn_steps: int = 1500
    """Of each half: the digits, then the digits with other pixels' order."""
    relearn_target: float = 0.2
    """Mean training loss over `window` steps, nats."""
    net_steps: int = 1000
    net_target: float = 0.1
    window: int = 10
    width: int = 32
    batch_size: int = 64
    per_decade: int = 3
    """Rates tried."""


FULL = Config()
QUICK = Config(sparse_steps=300, relearn_steps=600, net_steps=400, per_decade=2)

OPTIMIZERS: dict[str, tuple[Optimizer, tuple[float, float]]] = {
    "SGD": (optim.sgd, (1e-3, 10.0)),
    "momentum": (partial(optim.sgd, momentum=0.9), (1e-4, 1.0)),
    "Adagrad": (optim.adagrad, (1e-3, 10.0)),
    "RMSprop": (optim.rmsprop, (1e-5, 0.1)),
    "Adam": (optim.adam, (1e-5, 0.1)),
}
"""With the rates between which each one's best is looked for."""


def examine(config: Config, keys: Key) -> Outcome:
    """Losses, and steps until a loss is reached, by the best of many rates."""
    sparse = {n: _best(config, partial(_regression, config, n, True), n, keys) for n in _FIRST}
    dense = {n: _best(config, partial(_regression, config, n, False), n, keys) for n in _FIRST}
    relearnt = {n: _relearn(config, n, keys) for n in ("Adagrad", "RMSprop")}
    net = {n: _best(config, partial(_net_steps, config, n), n, keys) for n in _LAST}
    same = _same_as_rmsprop(config, keys)

    def faster(where: str, quantity: str, treated: str, control: str, by: Any) -> Comparison:
        arms = (Arm(treated, by[treated]), Arm(control, by[control]))
        return Comparison(where, quantity, *arms, "less", 1.2, ratio=True)

    loss = "training loss"
    return Outcome(
        setting=(
            "Digits. Softmax regression, batches of "
            f"{config.batch_size}, {config.sparse_steps} steps, on pixels as one of 17 intensities "
            "each (1,088 features, 64 of them not zero, many of them rare) and on standardized "
            f"pixels. An MLP with two layers of {config.width} relu units, {config.net_steps} "
            f"steps, until a training loss of {config.net_target:g} (mean of {config.window} "
            "steps); and the same net that has to learn the digits anew, their pixels in another "
            f"order, after {config.relearn_steps} steps. Every optimizer has the best of "
            f"{config.per_decade} rates a decade for each seed. A run that never gets there counts "
            "as one record more than it was given."
        ),
        tested=[
            Tested(
                "Adagrad suits sparse features: rare ones get larger steps.",
                [faster("with one-hot pixels", loss, "Adagrad", "SGD", sparse)],
            ),
            Tested(
                "Where features are dense, it does no better than SGD.",
                [
                    Comparison(
                        "with pixels as they are",
                        loss,
                        Arm("Adagrad", dense["Adagrad"]),
                        Arm("SGD", dense["SGD"]),
                        "same",
                        1.2,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Adagrad's steps die away as gradients add up.",
                [
                    Comparison(
                        f"by step {2 * config.relearn_steps}",
                        "step by gradient",
                        Arm("at the end", relearnt["Adagrad"]["scales"][:, -1]),
                        Arm("at step 100 = 1", np.ones(len(keys))),
                        "less",
                        1.5,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "RMSprop mends it by forgetting old gradients.",
                [
                    Comparison(
                        "when the task changes",
                        "steps to learn it anew",
                        Arm("RMSprop", relearnt["RMSprop"]["steps"]),
                        Arm("Adagrad", relearnt["Adagrad"]["steps"]),
                        "less",
                        1.2,
                        ratio=True,
                    ),
                ],
            ),
            Tested(
                "Adam is RMSprop with momentum: without its momentum it is RMSprop.",
                [
                    Comparison(
                        "with b1 = 0, beside RMSprop with bias correction",
                        "parameters' norm after training",
                        Arm("Adam", same[0]),
                        Arm("RMSprop", same[1]),
                        "same",
                        1.001,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "Adam trains a net in fewer steps than any of its parts.",
                [
                    faster(f"than {other}", "steps to the target", "Adam", other, net)
                    for other in ("SGD", "momentum", "RMSprop", "Adagrad")
                ],
            ),
        ],
        seen=[_picture(config, relearnt)],
    )


_FIRST, _LAST = ("SGD", "Adagrad"), ("SGD", "momentum", "Adagrad", "RMSprop", "Adam")


def _rates(config: Config, name: str) -> Array:
    return rates_around(*OPTIMIZERS[name][1], config.per_decade)


def _best(config: Config, run: Callable[[Key, Array], Array], name: str, keys: Key) -> np.ndarray:
    """The least that any rate gives, `[seeds]`."""
    return np.asarray(np.nanmin(np.asarray(sweep(run, keys, _rates(config, name))), 1))


def _one_hot(x: Array) -> Array:
    """`[n, 64]` standardized pixels as `[n, 64 · 17]` indicators of their intensities."""
    low, high = jnp.min(x), jnp.max(x)
    level = jnp.round((x - low) / (high - low) * 16).astype(int)
    return jax.nn.one_hot(level, 17).reshape(len(x), -1)


def _regression(config: Config, name: str, sparse: bool, key: Key, rate: Array) -> Array:
    """The loss on all training digits after training."""
    data = digits().train
    data = data | {"x": _one_hot(data["x"]) if sparse else data["x"]}
    params = {"kernel": jnp.zeros((data["x"].shape[1], 10)), "bias": jnp.zeros(10)}

    def loss(params: Params, batch: Batch, key: Key | None) -> Array:
        return cross_entropy(nn.dense(params, batch["x"]), batch["y"])

    trained = fit(
        loss, OPTIMIZERS[name][0](rate), params, data,
        key=key, steps=config.sparse_steps, batch_size=config.batch_size,
    )  # fmt: skip
    return loss(trained.params, data, None)


def _net(config: Config) -> models.MLPConfig:
    return models.MLPConfig(64, 10, hidden=(config.width, config.width))


def _smooth(config: Config, values: Array) -> Array:
    """`[steps] -> [steps / window]`."""
    whole = len(values) // config.window * config.window
    return jnp.mean(values[:whole].reshape(-1, config.window), 1)


def _net_steps(config: Config, name: str, key: Key, rate: Array) -> Array:
    init_key, run_key = jax.random.split(key)
    trained = fit(
        mlp_loss(_net(config)), OPTIMIZERS[name][0](rate), models.init_mlp(init_key, _net(config)),
        digits().train, key=run_key, steps=config.net_steps, batch_size=config.batch_size,
    )  # fmt: skip
    return steps_to(_smooth(config, trained.losses), config.net_target, every=config.window)


def _relearn(config: Config, name: str, keys: Key) -> dict[str, np.ndarray]:
    """Steps to learn the second task, and how the steps' scale went, at the first's best rate."""

    def run(key: Key, rate: Array) -> Any:
        init_key, order_key, run_key = jax.random.split(key, 3)
        data = digits().train
        order = jax.random.permutation(order_key, data["x"].shape[1])
        both = {"x": jnp.stack([data["x"], data["x"][:, order]]), "y": data["y"]}
        optimizer = OPTIMIZERS[name][0](rate)
        loss = mlp_loss(_net(config))
        n, half = len(data["y"]), config.relearn_steps
        params = models.init_mlp(init_key, _net(config))

        def step(carry: Any, t: Array) -> Any:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(run_key, t), (config.batch_size,), 0, n)
            batch = {"x": both["x"][t // half, rows], "y": both["y"][rows]}
            value, gradient = jax.value_and_grad(loss)(params, batch, run_key)
            updates, state = optimizer.update(gradient, state, params)
            scale = tree.global_norm(updates) / tree.global_norm(gradient)
            return (optim.apply_updates(params, updates), state), (value, scale)

        _, seen = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(2 * half))
        return tuple(_smooth(config, values) for values in seen)

    losses, scales = map(np.asarray, sweep(run, keys, _rates(config, name)))
    middle = config.relearn_steps // config.window
    first, second = losses[..., :middle], losses[..., middle:]
    # the rate is that with which the first task was learnt best, as its user would have chosen
    at_end = np.nan_to_num(first[..., -5:].mean(-1), nan=np.inf)
    best = np.argmin(at_end, 1)
    seeds = np.arange(len(best))
    losses, scales, second = losses[seeds, best], scales[seeds, best], second[seeds, best]
    reach = partial(steps_to, target=config.relearn_target, every=config.window)
    return {
        "steps": np.stack([reach(jnp.asarray(values)) for values in second]),
        "losses": losses,
        "scales": scales / scales[:, 100 // config.window][:, None],
    }


def _same_as_rmsprop(config: Config, keys: Key) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the parameters by Adam without momentum, and by RMSprop."""
    ways: tuple[Optimizer, ...] = (
        partial(optim.adam, b1=0.0, b2=0.99),
        partial(optim.rmsprop, decay=0.99, eps_in_sqrt=False, bias_correction=True),
    )

    def run(make: Optimizer, key: Key, rate: Array) -> Array:
        init_key, run_key = jax.random.split(key)
        trained = fit(
            mlp_loss(_net(config)), make(rate), models.init_mlp(init_key, _net(config)),
            digits().train, key=run_key, steps=100, batch_size=config.batch_size,
        )  # fmt: skip
        return tree.global_norm(trained.params)

    adam, rmsprop = (
        np.asarray(sweep(partial(run, make), keys, jnp.array([1e-3])))[:, 0] for make in ways
    )
    return adam, rmsprop


def _picture(config: Config, relearnt: dict[str, dict[str, np.ndarray]]) -> Seen:
    with panels(["the loss", "the length of steps"], share_y=False) as (figure, (left, right)):
        steps = config.window * (1 + np.arange(relearnt["Adagrad"]["losses"].shape[1]))
        for axes, what, label in (
            (left, "losses", "training loss"),
            (right, "scales", "step / gradient, relative to step 100"),
        ):
            lines = {name: found[what] for name, found in relearnt.items()}
            draw_lines(
                axes, steps, lines, x_label="step", y_label=label, log_y=True, marked=False
            )  # fmt: skip
            axes.axvline(config.relearn_steps, color="#888888", linestyle=":", linewidth=1)
        left.legend()
    return Seen(
        figure,
        "A task, and from the dotted line on another one, each optimizer at the rate that was best "
        "for the first. Median of seeds; the band is from the least to the greatest.",
    )
