"""The batch from which on a larger one saves little, as a law has it and as the noise says."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.rates import GridEndError
from experiments.claims.training import digits, fit, mlp_loss
from jaxnets import gradients, models, optim
from jaxnets.types import Array, Key, Params


def critical(sizes: tuple[int, ...], steps: np.ndarray) -> float:
    """`B` of `steps = S (1 + B / size)` (McCandlish et al., 2018), by least squares of logs."""
    from scipy.optimize import least_squares

    logs, over = np.log(steps), 1 / np.asarray(sizes)

    def residuals(unknown: np.ndarray) -> np.ndarray:
        least, critical = unknown
        return np.asarray(least + np.log1p(np.exp(critical) * over) - logs)

    found = least_squares(residuals, [np.log(steps.min()), np.log(64.0)])
    return float(np.exp(found.x[1]))


def noise_scales(
    config: Any, shape: models.MLPConfig, keys: Key, rates: Array, steps: int
) -> np.ndarray:
    """`[seeds]`, each along its run at its rate.

    Raises:
      GridEndError: if a run is at the target before it is first looked at.
    """
    measure = partial(
        _noise_scale, config, shape, -(-steps // config.noise_every) * config.noise_every
    )
    scales = np.asarray(jax.jit(jax.vmap(measure))(keys, rates))
    if not np.isfinite(scales).all():
        raise GridEndError(
            f"a loss of {config.target:g} is reached within {config.noise_every} steps: the noise "
            "on the way there cannot be measured"
        )
    return scales


def _noise_scale(config: Any, shape: models.MLPConfig, steps: int, key: Key, rate: Array) -> Array:
    """`Σ tr Σ / Σ ‖G‖²` over the way to the target; NaN if the first record is beyond it."""
    # the very run of `batch_size` with that size
    init_key, run_key = jax.random.split(key)
    data, loss = digits().train, mlp_loss(shape)

    def one(params: Params, x: Array, y: Array) -> Array:
        return loss(params, {"x": x[None], "y": y[None]}, None)

    def record(params: Params) -> tuple[Array, Array, Array]:
        _, factors = gradients.per_example_grad(one)(params, data["x"], data["y"])
        seen = gradients.noise_scale(factors)
        return seen.sq_norm, seen.trace, loss(params, data, None)

    trained = fit(
        loss,
        optim.sgd(rate), models.init_mlp(init_key, shape), data,
        key=run_key, steps=steps, batch_size=config.noise_batch, record=record,
        every=config.noise_every,
    )  # fmt: skip
    sq_norm, trace, losses = trained.records
    return on_the_way(sq_norm, trace, losses, config.target)


def on_the_way(sq_norm: Array, trace: Array, losses: Array, target: float) -> Array:
    """The noise scale over the records before the loss first is at the target."""
    before = jnp.cumsum(losses <= target) == 0
    return jnp.sum(jnp.where(before, trace, 0)) / jnp.sum(jnp.where(before, sq_norm, 0))
