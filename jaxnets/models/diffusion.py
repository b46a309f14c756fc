"""Denoising diffusion: a fixed process turns data to noise in T steps, and a net undoes it.

`x_t = α_t x_0 + σ_t ε`, `ε ~ N(0, 1)`, `α_t² + σ_t² = 1`. A noise schedule is the array
`log α_t`, t = 0 … T, with `α_0 = 1`: from it `σ_t² = 1 - α_t²`, and what differs little between
neighbouring steps, keep float32's precision. (Ho et al., "Denoising diffusion probabilistic
models", 2020, has `ᾱ_t` for `α_t²`.)

`predict(x_t, t)` is the net, its parameters, labels and guidance closed over, of one x and a scalar
t. Samples are better drawn with a moving average of the parameters than with the last ones:
`average = jaxnets.optim.incremental_update(params, average, 1e-3)` after each step.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.checks import require_real
from jaxnets.losses import squared_error
from jaxnets.types import Array, ArrayLike, Key, Shape

Predict = Callable[[Array, Array], Array]
Prediction = Literal["epsilon", "v"]


def linear_noise(steps: int, first: float = 1e-4, last: float = 0.02) -> Array:
    """`α_t² = Π_{s≤t} (1 - β_s)` with β from `first` to `last`, evenly (Ho et al., 2020).

    Returns:
      `log α_t`, `[steps + 1]`.

    Raises:
      ValueError: if `steps` is not positive, or a β is outside (0, 1).
    """
    if not 0 < min(first, last) <= max(first, last) < 1:
        raise ValueError(f"linear_noise: β must be in (0, 1), got {first} to {last}")
    return _log_signal("linear_noise", steps, np.linspace(first, last, max(steps, 0)))


def cosine_noise(steps: int, offset: float = 0.008, largest: float = 0.999) -> Array:
    """`α_t` in proportion to `cos(π/2 (t/T + s) / (1 + s))` (Nichol and Dhariwal, 2021).

    Args:
      steps: T.
      offset: s, so that the first steps are not too small.
      largest: the largest β, which keeps the last signal from 0.

    Returns:
      `log α_t`, `[steps + 1]`.

    Raises:
      ValueError: if `steps` is not positive.
    """
    times = np.arange(max(steps, 0) + 1) / max(steps, 1)
    squares = np.cos(np.pi / 2 * (times + offset) / (1 + offset)) ** 2
    betas = np.minimum(1 - squares[1:] / squares[:-1], largest)
    return _log_signal("cosine_noise", steps, betas)


def _log_signal(function: str, steps: int, betas: np.ndarray) -> Array:
    if steps < 1:
        raise ValueError(f"{function}: steps must be positive, got {steps}")
    # NumPy: in float64 whatever jax computes in
    return jnp.asarray(np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))]))


def signal_and_noise(noise: Array, t: ArrayLike) -> tuple[Array, Array]:
    """`α_t`, `σ_t` at steps t, integers in `[0, T]`."""
    log_signal = noise[jnp.asarray(t)]
    return jnp.exp(log_signal), jnp.sqrt(-jnp.expm1(2 * log_signal))


class Gaussian(NamedTuple):
    """A normal distribution of independent values: their means, and the variance of all."""

    mean: Array
    variance: Array


def posterior_step(noise: Array, x_0: Array, x_t: Array, t: ArrayLike, s: ArrayLike) -> Gaussian:
    """`q(x_s | x_t, x_0)` for s < t: what an ancestral step draws from.

    With `a = α_t / α_s` and `β = 1 - a²`, the mean is `(α_s β x_0 + a σ_s² x_t) / σ_t²` and the
    variance `β σ_s² / σ_t²`.

    Args:
      noise: the schedule.
      x_0, x_t: of one shape.
      t, s: scalar integers, `0 <= s < t`.
    """
    signal_s, noise_s = signal_and_noise(noise, s)
    _, noise_t = signal_and_noise(noise, t)
    log_ratio = noise[jnp.asarray(t)] - noise[jnp.asarray(s)]
    ratio, beta = jnp.exp(log_ratio), -jnp.expm1(2 * log_ratio)
    weight_0 = signal_s * beta / noise_t**2
    weight_t = ratio * noise_s**2 / noise_t**2
    return Gaussian(weight_0 * x_0 + weight_t * x_t, beta * noise_s**2 / noise_t**2)


def clean_and_noise(
    noise: Array, prediction: Prediction, output: Array, x_t: Array, t: ArrayLike
) -> tuple[Array, Array]:
    """What a net's output says of `x_0` and ε, given `x_t`.

    Args:
      noise: the schedule.
      prediction: what the output is: `"epsilon"`, or `"v"`, `v = α_t ε - σ_t x_0` (Salimans and Ho,
        2022).
      output, x_t: of one shape.
      t: a scalar integer in `[1, T]`.

    Raises:
      ValueError: for another prediction.
    """
    signal, sigma = signal_and_noise(noise, t)
    output = output.astype(jnp.result_type(output, signal))
    if prediction == "epsilon":
        return (x_t - sigma * output) / signal, output
    if prediction == "v":
        return signal * x_t - sigma * output, sigma * x_t + signal * output
    raise ValueError(f"clean_and_noise: prediction must be 'epsilon' or 'v', got {prediction!r}")


def diffusion_loss(
    predict: Predict, noise: Array, x_0: Array, key: Key, *, prediction: Prediction = "epsilon"
) -> Array:
    """`mean (predict(x_t, t) - target)²` for one example, t uniform in `{1, …, T}`, ε normal.

    Args:
      predict: see above.
      noise: the schedule.
      x_0: one example, of any shape, scaled to about [-1, 1].
      key: of the draws of t and ε.
      prediction: whether the target is ε or v.

    Returns:
      A scalar in float32 or wider.

    Raises:
      ValueError: if the output's shape is not x's, or for another prediction.
      TypeError: if `x_0` is not real and floating.
    """
    if prediction not in ("epsilon", "v"):
        raise ValueError(f"diffusion_loss: prediction must be 'epsilon' or 'v', got {prediction!r}")
    require_real("diffusion_loss", x_0=x_0)
    t_key, noise_key = jax.random.split(key)
    t = jax.random.randint(t_key, (), 1, len(noise))
    signal, sigma = signal_and_noise(noise, t)
    epsilon = jax.random.normal(noise_key, x_0.shape, noise.dtype)
    output = predict((signal * x_0 + sigma * epsilon).astype(x_0.dtype), t)
    target = epsilon if prediction == "epsilon" else signal * epsilon - sigma * x_0
    return jnp.mean(squared_error(output, target))


def spaced_steps(steps: int, n: int) -> tuple[int, ...]:
    """`T = t_n > … > t_1 > t_0 = 0`, about evenly spaced: the times that a sampler visits.

    Raises:
      ValueError: if n is not in `[1, T]`.
    """
    if not 1 <= n <= steps:
        raise ValueError(f"spaced_steps: n must be in [1, {steps}], got {n}")
    return tuple(int(t) for t in np.round(np.linspace(steps, 0, n + 1)))


def ancestral_sample(
    predict: Predict,
    noise: Array,
    key: Key,
    shape: Shape,
    *,
    prediction: Prediction = "epsilon",
    times: Sequence[int] | None = None,
    clip: float | None = None,
    path: bool = False,
) -> Array:
    """One example, from noise by the reverse process: each step draws from `q(x_s | x_t, x̂_0)`.

    Args:
      predict: see above.
      noise: the schedule.
      key: of all draws.
      shape: of the example.
      prediction: what `predict` puts out.
      times: the steps to visit, from T down to 0 (`spaced_steps`); all of them by default.
      clip: if given, the predicted `x̂_0` is clipped to `[-clip, clip]`.
      path: whether to return x at every time visited, the first noise included.

    Returns:
      x, in the schedule's dtype, or with `path` `[times, *shape]`; many at once by `vmap` over
      keys.

    Raises:
      ValueError: if `times` does not fall from T to 0, or for another prediction.
    """

    def step(x: Array, clean: Array, _: Array, t: Array, s: Array, z: Array) -> Array:
        mean, variance = posterior_step(noise, clean, x, t, s)
        return mean + jnp.sqrt(variance) * z

    return _sample(
        "ancestral_sample", step, predict, noise, key, shape, prediction, times, clip, path
    )


def ddim_sample(
    predict: Predict,
    noise: Array,
    key: Key,
    shape: Shape,
    *,
    eta: ArrayLike = 0.0,
    prediction: Prediction = "epsilon",
    times: Sequence[int] | None = None,
    clip: float | None = None,
    path: bool = False,
) -> Array:
    """One example by `x_s = α_s x̂_0 + √(σ_s² - η² w) ε̂ + η √w z` (Song et al., "DDIM", 2021).

    w is the variance of `q(x_s | x_t, x_0)`. With η = 0 the example is a function of the first
    noise; with η = 1 this is ancestral sampling. Arguments, result and errors as for
    `ancestral_sample`.
    """

    def step(x: Array, clean: Array, epsilon: Array, t: Array, s: Array, z: Array) -> Array:
        signal_s, noise_s = signal_and_noise(noise, s)
        variance = jnp.square(eta) * posterior_step(noise, clean, x, t, s).variance
        left = jnp.sqrt(jnp.maximum(jnp.square(noise_s) - variance, 0))
        return signal_s * clean + left * epsilon + jnp.sqrt(variance) * z

    return _sample("ddim_sample", step, predict, noise, key, shape, prediction, times, clip, path)


def _sample(
    function: str,
    step: Callable[..., Array],
    predict: Predict,
    noise: Array,
    key: Key,
    shape: Shape,
    prediction: Prediction,
    times: Sequence[int] | None,
    clip: float | None,
    path: bool,
) -> Array:
    """`x ← step(x, x̂_0, ε̂, t, s, z)` over neighbouring times t > s, as one scan."""
    last = len(noise) - 1
    visited = np.asarray(range(last, -1, -1) if times is None else times)
    if visited.size < 2 or (visited[0], visited[-1]) != (last, 0) or np.any(np.diff(visited) >= 0):
        raise ValueError(f"{function}: times must fall from {last} to 0, got {times}")
    first_key, key = jax.random.split(key)

    def turn(x: Array, given: tuple[Array, Array]) -> tuple[Array, Array | None]:
        t, s = given
        output = predict(x, t)
        if output.shape != x.shape:
            raise ValueError(
                f"{function}: predict must return x's shape {list(x.shape)}, "
                f"got {list(output.shape)}"
            )
        clean, epsilon = clean_and_noise(noise, prediction, output, x, t)
        if clip is not None:
            signal, sigma = signal_and_noise(noise, t)
            clean = jnp.clip(clean, -clip, clip)
            epsilon = (x - signal * clean) / sigma
        z = jax.random.normal(jax.random.fold_in(key, s), shape, noise.dtype)
        x = step(x, clean, epsilon, t, s, z)
        return x, x if path else None

    first = jax.random.normal(first_key, shape, noise.dtype)
    x, passed = lax.scan(turn, first, (jnp.asarray(visited[:-1]), jnp.asarray(visited[1:])))
    return x if passed is None else jnp.concatenate([first[None], passed])
