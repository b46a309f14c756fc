"""Gradient descent and its sharpness: the largest eigenvalue of the Hessian as training goes on.

On a quadratic function, gradient descent of rate `η` diverges where the curvature exceeds `2 / η`.
Nets become sharper as they are trained, until they are about there, and stay (Cohen et al., 2021).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnets import gradients, models, optim, train
from jaxnets.nn.initializers import lecun_normal
from jaxnets.types import Array, Params, PyTree

EXAMPLES = 512
EVERY = 10
"""Steps from one look at the sharpness to the next."""
PRODUCTS = 6
"""Of the Hessian with a vector for each look, from the last look's eigenvector on."""
TOP = 20
"""Eigenvalues computed at the end; nine of ten classes make as many that stand out."""

NET = models.MLPConfig(64, 10, (64, 64, 64), activation=jnp.tanh, kernel_init=lecun_normal())


def half_square(params: Params, batch: PyTree) -> Array:
    """`½ ‖f(x) - one-hot(y)‖²`, mean over the batch."""
    x, y = batch
    return 0.5 * jnp.mean(jnp.sum(jnp.square(models.mlp(params, NET, x) - y), -1))


class Descent(NamedTuple):
    """One run of gradient descent."""

    learning_rate: float
    batch_size: int
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    residuals: NDArray[np.float64]
    """How far off the sharpness may be."""
    params: Params
    """At the end."""


def runner(x: Array, y: Array, *, steps: int, batch_size: int) -> Callable[[float, int], Descent]:
    """`(learning_rate, seed) -> Descent`, compiled once for all rates."""
    data, n, looks = (x, y), len(x), max(2, steps // EVERY)
    measure = gradients.sharpness(half_square, steps=PRODUCTS)

    @jax.jit
    def run(rate: Array, seed: Array) -> tuple[Params, tuple[Array, ...]]:
        start, order = jax.random.split(jax.random.key(seed))
        optimizer = optim.sgd(rate)
        step = train.step(half_square, optimizer)
        params = models.init_mlp(start, NET)

        def one(state: train.TrainState, _: None) -> tuple[train.TrainState, None]:
            if batch_size == n:
                return step(state, data)[0], None
            indices = train.batch_indices(order, state.step, n, batch_size)
            return step(state, jax.tree.map(lambda leaf: leaf[indices], data))[0], None

        def look(carry: Any, _: None) -> tuple[Any, tuple[Array, ...]]:
            state, vector = carry
            seen = measure(state.params, data, start=vector)
            loss = half_square(state.params, data)
            state, _ = jax.lax.scan(one, state, length=EVERY)
            return (state, seen.vector), (loss, seen.value, seen.residual)

        first = measure(params, data).vector
        carry = train.init_state(params, optimizer, order), first
        (state, _), seen = jax.lax.scan(look, carry, length=looks)
        return state.params, seen

    def descent(learning_rate: float, seed: int) -> Descent:
        params, seen = run(jnp.asarray(learning_rate, jnp.float32), jnp.asarray(seed))
        losses, sharpness, residuals = (np.asarray(x, np.float64) for x in seen)
        at = EVERY * np.arange(looks)
        return Descent(learning_rate, batch_size, at, losses, sharpness, residuals, params)

    return descent


def settled(descent: Descent) -> float:
    """The median sharpness over the last quarter of the run, as a share of `2 / η`."""
    last = descent.sharpness[-max(1, len(descent.sharpness) // 4) :]
    return float(np.median(last) * descent.learning_rate / 2)


class Spectrum(NamedTuple):
    """Where the Hessian's eigenvalues lie."""

    grid: NDArray[np.float64]
    density: NDArray[np.float64]
    top: NDArray[np.float64]
    """The `TOP` largest."""
    residuals: NDArray[np.float64]
    trace: float
    trace_error: float
    """Of Hutchinson's estimate, one standard error."""


def spectrum(params: Params, x: Array, y: Array, seed: int, *, quick: bool) -> Spectrum:
    """By stochastic Lanczos quadrature, Lanczos's process and Hutchinson's estimate."""
    probes, steps = (4, 40) if quick else (10, 80)

    @jax.jit
    def measure(params: Params, key: Array) -> Any:
        product = gradients.hvp(half_square)(params, (x, y))
        keys = jax.random.split(key, 3)
        return (
            gradients.spectrum(product, params, keys[0], probes=probes, steps=steps),
            gradients.top_eigenvalues(product, params, keys[1], TOP, steps=steps),
            gradients.hutchinson_trace(product, params, keys[2], 64),
        )

    found, top, trace = measure(params, jax.random.key(seed))
    low, high = float(found.nodes.min()), float(top.values[0])
    margin = 0.06 * (high - low)
    grid = np.linspace(low - margin, high + margin, 600)
    density = gradients.density(found, grid, 0.008 * (high - low))
    return Spectrum(
        grid,
        np.asarray(density, np.float64),
        np.asarray(top.values, np.float64),
        np.asarray(top.residuals, np.float64),
        float(trace.mean),
        float(trace.standard_error),
    )
