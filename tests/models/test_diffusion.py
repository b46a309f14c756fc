"""Diffusion and flows beside what is known of them in closed form.

For data N(m, s²) the best prediction is known, so that samplers have nothing to learn: what they
make is a linear function of their noise, whose mean and variance follow by hand.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, models
from tests.catalogue import SMALL_UNET
from tests.numerics import normal

KEY = jax.random.key(0)
MEAN, STD = 0.7, 0.4
SCHEDULES = {"linear": models.linear_noise(50, 1e-3, 0.2), "cosine": models.cosine_noise(50)}
schedules = pytest.mark.parametrize("noise", SCHEDULES.values(), ids=[*SCHEDULES])


def exact(noise):
    """`α_t`, `σ_t` of a schedule in float64 NumPy."""
    signal = np.exp(np.asarray(noise, np.float64))
    return signal, np.sqrt(1 - signal**2)


def best(noise, prediction="epsilon", mean=MEAN, std=STD):
    """`E[ε | x_t]`, or that of v, for data N(mean, std²)."""

    def predict(x, t):
        signal, sigma = models.signal_and_noise(noise, t)
        gain = signal * std**2 / (signal**2 * std**2 + sigma**2)
        clean = mean + gain * (x - signal * mean)
        epsilon = (x - signal * clean) / sigma
        return epsilon if prediction == "epsilon" else signal * epsilon - sigma * clean

    return predict


def test_schedules_by_their_papers():
    betas = np.linspace(1e-4, 0.02, 1000)
    want = np.concatenate([[1.0], np.cumprod(1 - betas)])
    noise = models.linear_noise(1000)
    assert noise.shape == (1001,)
    signal, sigma = models.signal_and_noise(noise, jnp.arange(1001))
    np.testing.assert_allclose(signal**2, want, rtol=2e-6)
    np.testing.assert_allclose(sigma**2, 1 - want, rtol=2e-6)

    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    signal, sigma = models.signal_and_noise(models.cosine_noise(1000), jnp.arange(1000))
    np.testing.assert_allclose(signal**2, (f / f[0])[:-1], rtol=1e-5)
    np.testing.assert_allclose(sigma**2, (1 - f / f[0])[:-1], rtol=1e-5)
    last = np.exp(2 * float(models.cosine_noise(1000)[-1]))
    np.testing.assert_allclose(last, (f[999] / f[0]) * 0.001, rtol=1e-5)


@schedules
def test_noised_data_has_the_moments_of_the_forward_process(noise):
    """One step at a time, `x_t = √(1 - β_t) x_{t-1} + √β_t ε`, and at once: mean and variance."""
    signal, sigma = exact(noise)
    ratios = signal[1:] / signal[:-1]
    mean, variance = MEAN, STD**2
    for t, a in enumerate(ratios, 1):
        mean, variance = a * mean, a**2 * variance + (1 - a**2)
        np.testing.assert_allclose(mean, signal[t] * MEAN, rtol=1e-9)
        np.testing.assert_allclose(variance, signal[t] ** 2 * STD**2 + sigma[t] ** 2, rtol=1e-9)
    got = models.signal_and_noise(noise, jnp.arange(len(noise)))
    np.testing.assert_allclose(got[0], signal, rtol=1e-6)
    np.testing.assert_allclose(got[1], sigma, rtol=1e-6)


@schedules
@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (17, 16), (50, 49), (40, 7), (50, 0)])
def test_the_posterior_is_that_of_jointly_gaussian_values(noise, t, s):
    """`x_s` given `x_t`, for a given `x_0`, by conditioning their covariance."""
    x_0, x_t = 0.3, -1.1
    signal, sigma = exact(noise)
    a = signal[t] / signal[s]
    mean = signal[s] * x_0 + a * sigma[s] ** 2 / sigma[t] ** 2 * (x_t - signal[t] * x_0)
    variance = sigma[s] ** 2 - (a * sigma[s] ** 2) ** 2 / sigma[t] ** 2
    got = models.posterior_step(noise, jnp.array(x_0), jnp.array(x_t), t, s)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.variance, variance, rtol=2e-5, atol=1e-7)


def test_the_posterior_keeps_its_precision_between_close_steps():
    """DDPM's `β̃_t = (1 - ᾱ_{t-1}) / (1 - ᾱ_t) β_t` where β is 1e-4 and α nearly 1, in float32."""
    noise, betas = models.linear_noise(1000), np.linspace(1e-4, 0.02, 1000)
    bars = np.concatenate([[1.0], np.cumprod(1 - betas)])
    for t in (2, 3, 10, 500, 1000):
        want = (1 - bars[t - 1]) / (1 - bars[t]) * betas[t - 1]
        got = models.posterior_step(noise, jnp.zeros(()), jnp.zeros(()), t, t - 1).variance
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_predictions_give_back_what_they_were_made_of(prediction):
    noise = SCHEDULES["linear"]
    x_0, epsilon = normal(0, (2, 6))
    for t in (1, 20, 50):
        signal, sigma = models.signal_and_noise(noise, t)
        output = epsilon if prediction == "epsilon" else signal * epsilon - sigma * x_0
        x_t = signal * x_0 + sigma * epsilon
        clean, found = models.clean_and_noise(noise, prediction, output, x_t, t)
        np.testing.assert_allclose(clean, x_0, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, epsilon, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_best_predictions_loss_is_the_variance_that_is_left(prediction):
    """Of ε given `x_t`: `α² s² / (α² s² + σ²)`; of v: `s² / (α² s² + σ²)`; the mean over t."""
    noise = SCHEDULES["linear"]
    signal, sigma = (x[1:] for x in exact(noise))
    total = signal**2 * STD**2 + sigma**2
    want = np.mean((signal**2 if prediction == "epsilon" else 1) * STD**2 / total)

    def loss(predict):
        def one(key):
            x_0 = MEAN + STD * jax.random.normal(jax.random.fold_in(key, 7), (4,))
            return models.diffusion_loss(predict, noise, x_0, key, prediction=prediction)

        return jax.vmap(one)(jax.random.split(KEY, 50_000))

    values = np.asarray(jax.jit(lambda: loss(best(noise, prediction)))())
    assert abs(values.mean() - want) < 5 * values.std() / np.sqrt(len(values))
    assert 5 * values.std() / np.sqrt(len(values)) < 0.05 * want


def linear_sampler(noise, times, eta, mean=MEAN, std=STD):
    """Mean and variance of what a sampler makes of the best prediction, in float64."""
    signal, sigma = exact(noise)
    m, v = 0.0, 1.0
    for t, s in pairwise(times):
        gain = signal[t] * std**2 / (signal[t] ** 2 * std**2 + sigma[t] ** 2)
        clean = np.array([mean * (1 - gain * signal[t]), gain])  # constant and slope in x_t
        epsilon = (np.array([0.0, 1.0]) - signal[t] * clean) / sigma[t]
        beta = 1 - (signal[t] / signal[s]) ** 2
        w = eta**2 * beta * sigma[s] ** 2 / sigma[t] ** 2
        constant, slope = signal[s] * clean + np.sqrt(sigma[s] ** 2 - w) * epsilon
        m, v = constant + slope * m, slope**2 * v + w
    return m, v


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, "ancestral"])
def test_samplers_make_what_they_must_of_gaussian_data(eta, prediction):
    noise, times = SCHEDULES["linear"], models.spaced_steps(50, 20)
    options = {"prediction": prediction, "times": times}
    shape, predict = (20_000,), best(noise, prediction)
    if eta == "ancestral":
        x = jax.jit(lambda: models.ancestral_sample(predict, noise, KEY, shape, **options))()
    else:
        x = jax.jit(lambda: models.ddim_sample(predict, noise, KEY, shape, eta=eta, **options))()
    mean, variance = linear_sampler(noise, times, 1.0 if eta == "ancestral" else eta)
    n = shape[0]
    assert abs(float(x.mean()) - mean) < 5 * np.sqrt(variance / n)
    assert abs(float(x.var()) - variance) < 5 * variance * np.sqrt(2 / n)


def test_ddim_is_exact_in_the_limit_of_small_steps_and_wrong_in_proportion():
    """The flow's map of noise to data N(m, s²) is `m + s z`; of a few steps it is nearly that."""
    errors = []
    for steps in (250, 500, 1000):
        noise = models.linear_noise(steps, 0.1 / steps, 20 / steps)
        _, variance = linear_sampler(noise, range(steps, -1, -1), 0.0)
        errors.append(abs(np.sqrt(variance) - STD))
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.1)
    assert errors[-1] < 0.01 * STD
    z = jax.random.normal(jax.random.split(KEY)[0], (100,))
    x = jax.jit(lambda: models.ddim_sample(best(noise), noise, KEY, (100,)))()
    np.testing.assert_allclose(x, MEAN + STD * z, atol=0.02)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_ddim_of_a_single_point_is_exact_in_any_number_of_steps(n):
    noise, times = SCHEDULES["cosine"], models.spaced_steps(50, n)
    x = models.ddim_sample(best(noise, "v", std=0.0), noise, KEY, (5,), prediction="v", times=times)
    np.testing.assert_allclose(x, MEAN, rtol=1e-5)


def test_ddim_of_standard_normal_data_turns_by_angles():
    """`x_s = cos(θ_t - θ_s) x_t` with `α = cos θ`, `σ = sin θ`."""
    noise, times = SCHEDULES["linear"], models.spaced_steps(50, 7)
    x = models.ddim_sample(best(noise, mean=0.0, std=1.0), noise, KEY, (5,), times=times)
    signal, sigma = exact(noise)
    angles = np.arctan2(sigma, signal)[list(times)]
    z = jax.random.normal(jax.random.split(KEY)[0], (5,))
    np.testing.assert_allclose(x, z * np.prod(np.cos(np.diff(angles))), rtol=1e-5)


@pytest.mark.parametrize("clip", [None, 0.5])
@schedules
def test_ddim_with_eta_1_is_ancestral(noise, clip):
    def predict(x, t):
        return jnp.tanh(x * 2) + 0.01 * t

    options = {"clip": clip, "times": models.spaced_steps(50, 12)}
    if clip is None:
        # a wrong prediction at little signal is a large x̂_0: of v it is not
        options["prediction"] = "v"
    ddim = jax.jit(lambda: models.ddim_sample(predict, noise, KEY, (8,), eta=1.0, **options))()
    ancestral = jax.jit(lambda: models.ancestral_sample(predict, noise, KEY, (8,), **options))()
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-4, atol=1e-5)
    if clip is not None:
        assert jnp.max(jnp.abs(ancestral)) <= clip * (1 + 1e-5)


def test_the_path_is_each_step_from_the_first_noise():
    noise, times = models.linear_noise(4), (4, 3, 1, 0)
    path = models.ddim_sample(lambda x, t: jnp.tanh(x), noise, KEY, (3,), times=times, path=True)
    assert path.shape == (4, 3)
    np.testing.assert_array_equal(path[0], jax.random.normal(jax.random.split(KEY)[0], (3,)))
    signals, sigmas = exact(noise)
    for x, after, t, s in zip(np.asarray(path), path[1:], times, times[1:], strict=False):
        epsilon = np.tanh(x)
        clean = (x - sigmas[t] * epsilon) / signals[t]
        np.testing.assert_allclose(
            after, signals[s] * clean + sigmas[s] * epsilon, rtol=1e-5, atol=1e-6
        )


def test_a_scan_visits_every_step_by_default():
    seen = []

    def predict(x, t):
        jax.debug.callback(lambda t: seen.append(int(t)), t, ordered=True)
        return x

    models.ancestral_sample(predict, models.linear_noise(4), KEY, (2,))
    jax.effects_barrier()
    assert seen == [4, 3, 2, 1]
    assert models.spaced_steps(1000, 4) == (1000, 750, 500, 250, 0)


def flow_velocity(x, t):
    """`E[x_1 - x_0 | x_t]` for data N(m, s²)."""
    variance = t**2 * STD**2 + (1 - t) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def test_flows_carry_noise_to_gaussian_data(x64):
    """Exactly `m + s x_0`; Euler's error is halved by twice the steps, Heun's quartered."""
    x_0 = jnp.array([-1.5, 0.2, 1.0])
    for method, ratio in (("euler", 2), ("heun", 4)):
        errors = [
            np.abs(models.flow_sample(flow_velocity, x_0, n, method=method) - (MEAN + STD * x_0))
            for n in (100, 200)
        ]
        np.testing.assert_allclose(errors[0][0] / errors[1][0], ratio, rtol=0.05)
        assert np.max(errors[1]) < {"euler": 0.02, "heun": 1e-4}[method]


def test_a_flow_of_a_single_point_is_straight():
    velocity = lambda x, t: (MEAN - x) / (1 - t)  # noqa: E731
    x = models.flow_sample(velocity, jnp.array([-1.0, 2.0]), 3, method="euler")
    np.testing.assert_allclose(x, MEAN, rtol=1e-6)


def test_the_best_velocitys_loss_is_the_variance_that_is_left():
    def one(key):
        x_1 = MEAN + STD * jax.random.normal(jax.random.fold_in(key, 7), (4,))
        return models.flow_loss(flow_velocity, x_1, key)

    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000)))
    # the variance of x_1 - x_0 given their mixture is s² / (t² s² + (1 - t)²)
    t = (np.arange(10_000) + 0.5) / 10_000
    want = np.mean(STD**2 / (t**2 * STD**2 + (1 - t) ** 2))
    error = 5 * values.std() / np.sqrt(len(values))
    assert abs(values.mean() - want) < error < 0.05 * want


def test_guidance_goes_beyond_the_label():
    def predict(x, t, label):
        return jnp.where(label == 9, -x, label * t + 0 * x)

    x, t = jnp.ones(2), jnp.array(3.0)
    for weight, want in ((0.0, -1.0), (1.0, 6.0), (2.5, -1 + 2.5 * 7)):
        np.testing.assert_allclose(models.guided(predict, 2, 9, weight)(x, t), want, rtol=1e-6)


def test_guidance_of_gaussian_classes_moves_their_mean_apart():
    """Class ±1 is N(±1, 1), without one the data is taken as N(0, 1): guided by w, N(±w, 1)."""

    def velocity(x, t, label):
        return label + (2 * t - 1) / (t**2 + (1 - t) ** 2) * (x - t * label)

    x_0 = jnp.array([-1.0, 0.5])
    x = models.flow_sample(models.guided(velocity, -1.0, 0.0, 2.0), x_0, 100)
    np.testing.assert_allclose(x, x_0 - 2, atol=1e-3)


def test_labels_are_dropped_at_their_rate():
    labels = jnp.arange(10_000) % 7
    got = models.drop_label(KEY, labels, 7, 0.2)
    dropped = got == 7
    np.testing.assert_array_equal(jnp.where(dropped, labels, got), labels)
    assert abs(float(dropped.mean()) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 10_000)


@pytest.mark.thorough
def test_losses_of_a_unet_have_per_example_gradients():
    params = jax.jit(models.init_unet)(KEY, SMALL_UNET)
    params = jax.tree.map(lambda p: p + 0.1, params)
    noise = SCHEDULES["cosine"]

    def loss(params, x, label, key):
        predict = lambda x, t: models.unet(params, SMALL_UNET, x, t, label)  # noqa: E731
        return models.diffusion_loss(predict, noise, x, key, prediction="v")

    batch = (
        normal(0, (3, *SMALL_UNET.image)),
        jnp.array([0, 3, 1]),
        jax.random.split(KEY, 3),
    )
    for row in gradients.plan(loss, params, *batch):
        assert row.fallback in ("", "is cheaper than the products"), row


def test_what_does_not_fit_is_named():
    noise = models.linear_noise(4)
    with pytest.raises(ValueError, match="linear_noise: steps must be positive, got 0"):
        models.linear_noise(0)
    with pytest.raises(ValueError, match="cosine_noise: steps must be positive, got 0"):
        models.cosine_noise(0)
    with pytest.raises(ValueError, match=r"β must be in \(0, 1\), got 0.1 to 1.5"):
        models.linear_noise(4, 0.1, 1.5)
    with pytest.raises(ValueError, match=r"spaced_steps: n must be in \[1, 4\], got 5"):
        models.spaced_steps(4, 5)
    same = lambda x, t: x  # noqa: E731
    for sample in (models.ddim_sample, models.ancestral_sample):
        with pytest.raises(ValueError, match=r"times must fall from 4 to 0, got \(4, 2\)"):
            sample(same, noise, KEY, (2,), times=(4, 2))
        with pytest.raises(ValueError, match="prediction must be 'epsilon' or 'v', got 'x'"):
            sample(same, noise, KEY, (2,), prediction="x")
        with pytest.raises(ValueError, match=r"predict must return x's shape \[2\], got \[1\]"):
            sample(lambda x, t: x[:1], noise, KEY, (2,))
    with pytest.raises(ValueError, match="prediction must be 'epsilon' or 'v', got 'x'"):
        models.diffusion_loss(same, noise, jnp.ones(2), KEY, prediction="x")
    with pytest.raises(ValueError, match="shapes must match exactly"):
        models.diffusion_loss(lambda x, t: x[:1], noise, jnp.ones(2), KEY)
    with pytest.raises(ValueError, match="shapes must match exactly"):
        models.flow_loss(lambda x, t: x[:1], jnp.ones(2), KEY)
    with pytest.raises(TypeError, match="diffusion_loss: x_0 must be of a real floating dtype"):
        models.diffusion_loss(same, noise, jnp.ones(2, jnp.uint8), KEY)
    with pytest.raises(TypeError, match="flow_loss: x_1 must be of a real floating dtype"):
        models.flow_loss(same, jnp.ones(2, jnp.uint8), KEY)
    with pytest.raises(ValueError, match="flow_sample: steps must be positive, got 0"):
        models.flow_sample(same, jnp.ones(2), 0)
    with pytest.raises(ValueError, match="method must be 'euler' or 'heun', got 'rk4'"):
        models.flow_sample(same, jnp.ones(2), 2, method="rk4")
    with pytest.raises(ValueError, match=r"velocity must have x's shape \[2\], got \[1\]"):
        models.flow_sample(lambda x, t: x[:1], jnp.ones(2), 2)
