import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnets import models, nn, optim, train
from tests.catalogue import AUTOENCODER, VAE
from tests.numerics import normal

KEY = jax.random.key(0)
GAUSSIAN = models.VAEConfig(
    models.AutoencoderConfig((1, 3, 1), 2, channels=(), hidden=(), activation=nn.identity),
    likelihood="gaussian",
    stddev=0.5,
)


@pytest.mark.thorough
def test_without_convolutions_it_is_an_mlp_and_its_mirror():
    config = models.AutoencoderConfig((2, 3, 1), 4, channels=(), hidden=(7, 5))
    params = jax.jit(models.init_autoencoder)(KEY, config)
    sizes = [layer["kernel"].shape for layer in params["encoder"]["dense"]["layers"]]
    assert sizes == [(6, 7), (7, 5), (5, 4)]
    sizes = [layer["kernel"].shape for layer in params["decoder"]["dense"]["layers"]]
    assert sizes == [(4, 5), (5, 7), (7, 6)]
    x = normal(0, (2, 3, 1))
    code = models.encode_image(params, config, x)
    assert code.shape == (4,)
    want = models.decode_image(params, config, code)
    np.testing.assert_array_equal(models.autoencoder(params, config, x), want)


@pytest.mark.thorough
def test_the_denoising_loss_compares_with_what_was_not_corrupted():
    params = jax.jit(models.init_autoencoder)(KEY, AUTOENCODER)
    x = normal(0, (3, *AUTOENCODER.image))
    corrupt = models.masking_noise(0.5)
    got = models.denoising_loss(params, AUTOENCODER, x, KEY, corrupt)
    y = models.autoencoder(params, AUTOENCODER, corrupt(KEY, x))
    np.testing.assert_allclose(got, np.mean((y - x) ** 2, (1, 2, 3)), rtol=1e-6)


def test_corruptions_are_as_strong_as_they_say():
    x, n = jnp.ones(10_000), 10_000
    masked = models.masking_noise(0.3)(KEY, x)
    assert set(np.unique(masked)) == {0, 1}
    assert abs(float(masked.mean()) - 0.7) < 5 * np.sqrt(0.3 * 0.7 / n)
    noise = models.gaussian_noise(0.2)(KEY, x) - x
    assert abs(float(noise.mean())) < 5 * 0.2 / np.sqrt(n)
    assert abs(float(noise.std()) - 0.2) < 5 * 0.2 / np.sqrt(2 * n)


@pytest.mark.thorough
def test_a_denoiser_learns_to_fill_in_what_it_can_infer():
    """Images of one value each: a masked pixel is known from the others."""
    config = models.AutoencoderConfig((2, 2, 1), 2, channels=(), hidden=(16,))
    data = jnp.broadcast_to(jnp.linspace(0.5, 2, 64)[:, None, None, None], (64, 2, 2, 1))
    corrupt = models.masking_noise(0.25)

    def loss(params, x, key):
        return jnp.mean(models.denoising_loss(params, config, x, key, corrupt))

    optimizer = optim.adam(1e-2)
    state = train.init_state(jax.jit(models.init_autoencoder)(KEY, config), optimizer, KEY)
    step = train.step(loss, optimizer, has_key=True)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: (step(s, data)[0], None), state, length=500)[0]

    key = jax.random.key(1)
    after = loss(run(state).params, data, key)
    left_as_it_is = jnp.mean((corrupt(key, data) - data) ** 2)
    assert after < 0.2 * left_as_it_is


def exact_linear_model(params, x):
    """`log p(x)` and the posterior of `x = W z + b + 0.5 ε`, `z ~ N(0, 1)`, in float64."""
    (layer,) = params["decoder"]["dense"]["layers"]
    w, b = np.asarray(layer["kernel"], np.float64).T, np.asarray(layer["bias"], np.float64)
    evidence = stats.multivariate_normal(b, w @ w.T + 0.25 * np.eye(3)).logpdf(x)
    precision = np.eye(2) + w.T @ w / 0.25
    return evidence, np.linalg.inv(precision), np.linalg.solve(precision, w.T / 0.25), b


def test_the_bound_is_tight_at_the_true_posterior(x64):
    """Of a linear decoder whose posterior has independent dimensions: orthogonal columns."""
    w = np.array([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]])
    x = np.array([0.3, -1.2, 0.8])
    params = jax.jit(models.init_vae)(KEY, GAUSSIAN)
    params["decoder"]["dense"]["layers"] = [{"kernel": jnp.array(w.T), "bias": jnp.zeros(3)}]
    evidence, covariance, to_mean, b = exact_linear_model(params, x)
    assert abs(covariance[0, 1]) < 1e-12
    kernel = np.concatenate([to_mean.T, np.zeros((3, 2))], 1)
    bias = np.concatenate([-to_mean @ b, np.log(np.diag(covariance))])
    params["encoder"]["dense"]["layers"] = [{"kernel": jnp.array(kernel), "bias": jnp.array(bias)}]
    image = jnp.array(x).reshape(1, 3, 1)

    def bound(params):
        keys = jax.random.split(KEY, 20_000)
        one = lambda key: models.negative_elbo(params, GAUSSIAN, image, key)[0]  # noqa: E731
        return jax.vmap(one)(keys)

    draws = np.asarray(jax.jit(bound)(params))
    error = 5 * draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() + evidence) < error
    # a posterior that is off by d in one dimension costs that much of KL(q, true)
    params["encoder"]["dense"]["layers"][0]["bias"] = jnp.array(bias + np.array([0.3, 0, 0, 0]))
    draws = np.asarray(jax.jit(bound)(params))
    off = 0.3**2 / (2 * covariance[0, 0])
    error = 5 * draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() + evidence - off) < error
    assert error < off / 3


def test_the_parts_of_the_bound(x64):
    params = jax.jit(models.init_vae)(KEY, VAE)
    x = jax.random.uniform(KEY, (5, *VAE.nets.image))
    loss, parts = models.negative_elbo(params, VAE, x, KEY, beta=0.3)
    logits, mean, log_variance = models.vae(params, VAE, x, key=KEY)
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    likelihood = np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), (1, 2, 3))
    np.testing.assert_allclose(parts["reconstruction"], -likelihood, rtol=1e-10)
    kl = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, -1)
    np.testing.assert_allclose(parts["kl"], kl, rtol=1e-10)
    np.testing.assert_allclose(loss, -likelihood + 0.3 * kl, rtol=1e-10)


def test_the_best_deviation_is_what_the_decoder_misses(x64):
    """Where the derivative by its logarithm is 0, and the second 2 for each pixel."""
    config = dataclasses.replace(GAUSSIAN, learned_stddev=True)
    params = jax.jit(models.init_vae)(KEY, config)
    x = normal(0, (5, 1, 3, 1), jnp.float64)
    same, _ = models.negative_elbo(params, GAUSSIAN, x, KEY)
    np.testing.assert_allclose(models.negative_elbo(params, config, x, KEY)[0], same, rtol=1e-6)
    missed = models.vae(params, config, x, key=KEY)[0] - x
    best = jnp.log(jnp.mean(missed**2)) / 2

    def loss(log_stddev):
        return jnp.sum(models.negative_elbo(params | {"log_stddev": log_stddev}, config, x, KEY)[0])

    assert abs(jax.grad(loss)(best)) < 1e-12 * loss(best)
    np.testing.assert_allclose(jax.grad(jax.grad(loss))(best), 2 * x.size, rtol=1e-12)


def test_draws_of_z_have_the_posteriors_moments_and_gradient():
    mean, log_variance = jnp.array([0.5, -2.0]), jnp.array([-1.0, 1.5])

    def draw(mean, log_variance):
        keys = jax.random.split(KEY, 10_000)
        return jax.vmap(lambda key: models.reparameterize(mean, log_variance, key))(keys)

    z = np.asarray(draw(mean, log_variance))
    by_mean, by_log_variance = jax.jacfwd(draw, (0, 1))(mean, log_variance)
    mean, stddev = np.asarray(mean), np.exp(np.asarray(log_variance) / 2)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * stddev / 100)
    assert np.all(np.abs(z.std(0) - stddev) < 5 * stddev / np.sqrt(20_000))
    np.testing.assert_array_equal(by_mean, np.broadcast_to(np.eye(2), by_mean.shape))
    diagonal = np.stack([by_log_variance[:, i, i] for i in range(2)], -1)
    np.testing.assert_allclose(diagonal, (z - mean) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_samples_are_the_decoders_of_standard_normal_z():
    params = jax.jit(models.init_vae)(KEY, VAE)
    images = models.sample_vae(params, VAE, KEY, (3, 2))
    z = jax.random.normal(KEY, (3, 2, 2))
    want = jax.nn.sigmoid(models.decode_image(params, VAE.nets, z))
    np.testing.assert_array_equal(images, want)
    params = jax.jit(models.init_vae)(KEY, GAUSSIAN)
    (layer,) = params["decoder"]["dense"]["layers"]
    got = models.sample_vae(params, GAUSSIAN, KEY, (4,)).reshape(4, 3)
    z = jax.random.normal(KEY, (4, 2))
    np.testing.assert_allclose(got, z @ layer["kernel"], rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_losses_are_in_float32_whatever_the_computation(dtype):
    nets = models.AutoencoderConfig((4, 4, 1), 2, channels=(3,), hidden=(), dtype=dtype)
    half = models.VAEConfig(nets)
    params = jax.jit(models.init_vae)(KEY, half)
    x = jax.random.uniform(KEY, (5, 4, 4, 1))
    loss, _ = models.negative_elbo(params, half, x, KEY)
    assert loss.dtype == jnp.float32
    assert models.decode_image(params, nets, jnp.ones(2)).dtype == dtype
    want, _ = models.negative_elbo(params, VAE, x, KEY)
    np.testing.assert_allclose(loss, want, rtol=20 * float(jnp.finfo(dtype).eps))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="2 halvings need a height and width divisible by 4"):
        models.AutoencoderConfig((8, 6, 1), 3)
    with pytest.raises(ValueError, match="every size must be positive"):
        models.AutoencoderConfig((8, 8, 1), 0)
    with pytest.raises(ValueError, match=r"image must be \(height, width, channels\)"):
        models.AutoencoderConfig((8, 8), 3)
    with pytest.raises(ValueError, match="likelihood must be 'bernoulli' or 'gaussian'"):
        models.VAEConfig(AUTOENCODER, likelihood="laplace")
    with pytest.raises(ValueError, match=r"stddev must be positive, got 0"):
        models.VAEConfig(AUTOENCODER, stddev=0)
    with pytest.raises(ValueError, match="learned_stddev is of likelihood 'gaussian', got 'bern"):
        models.VAEConfig(AUTOENCODER, learned_stddev=True)
    params = jax.jit(models.init_autoencoder)(KEY, AUTOENCODER)
    with pytest.raises(ValueError, match=r"encode_image: x must be .* got \[4, 8, 2\]"):
        models.autoencoder(params, AUTOENCODER, jnp.ones((4, 8, 2)))
    with pytest.raises(ValueError, match=r"decode_image: z must be \[..., 3\], got \[4\]"):
        models.decode_image(params, AUTOENCODER, jnp.ones(4))
