"""Autoencoders: plain, denoising and variational."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.images.task import SHOWN, Grid, Outcome, Samples, Task, clipped, fit_mean, many
from jaxnets import losses, models, tree
from jaxnets.models.autoencoder import Corrupt
from jaxnets.types import Array, Key, Params

LEARNING_RATE = 2e-3
NOISE = 0.4
"""Deviation of what the denoising autoencoder takes away; images are in [0, 1]."""
STDDEV = 0.3
"""What the VAE's deviation of a pixel begins as: near that of the images themselves."""
SPAN = 2.5
"""How far a traversal goes from a latent's mean, in the prior's deviations."""


def nets(task: Task) -> models.AutoencoderConfig:
    """Two convolutions and a hidden layer down to 8 numbers, or 16 for larger images."""
    latent = 8 if max(task.image[:2]) < 16 else 16
    width = task.width
    return models.AutoencoderConfig(
        task.image, latent, channels=(width, 2 * width), hidden=(4 * width,)
    )


def autoencoder(task: Task) -> Outcome:
    """Squared error through a vector of few numbers."""
    return _reconstructing(task, "autoencoder", None)


def denoising(task: Task) -> Outcome:
    """The same, the input with noise, the output compared with the image without."""
    return _reconstructing(task, "denoising autoencoder", models.gaussian_noise(NOISE))


def _reconstructing(task: Task, name: str, corrupt: Corrupt | None) -> Outcome:
    config = nets(task)

    def loss(params: Params, example: dict[str, Array], key: Key) -> Array:
        return models.denoising_loss(
            params, config, example["x"], key, corrupt or (lambda key, x: x)
        )

    params = models.init_autoencoder(task.keys.init, config)
    fitted = fit_mean(name, task, loss, params, LEARNING_RATE)
    given = task.test if corrupt is None else corrupt(task.keys.sample, task.test)
    made = many(lambda x: models.autoencoder(fitted.state.params, config, x), given)
    rows = {"test image": np.asarray(task.test)}
    facts = {"squared error of a reconstruction": _squared_error(made, task.test)}
    if corrupt is not None:
        rows["with noise"] = clipped(np.asarray(given))
        facts["squared error of the noise"] = _squared_error(given, task.test)
    rows["reconstruction"] = made
    caption = f"The {name}: test images through {config.latent} numbers."
    return Outcome(
        losses=fitted.losses,
        samples={"reconstructions": Samples(made)},
        grids={"reconstructions": _beside(rows, caption)},
        facts=facts,
        seconds=fitted.seconds,
        parameters=tree.size(params),
    )


def _squared_error(made: Any, wanted: Array) -> float:
    return float(jnp.mean(losses.squared_error(jnp.asarray(made), wanted)))


def _beside(rows: dict[str, Any], caption: str) -> Grid:
    images = np.stack([np.asarray(x)[:SHOWN] for x in rows.values()])
    return Grid(images, tuple(rows), caption)


def vae(task: Task) -> Outcome:
    """The evidence lower bound, each pixel's value normal with one learned deviation."""
    config = models.VAEConfig(nets(task), likelihood="gaussian", stddev=STDDEV, learned_stddev=True)
    bound_key, sample_key = jax.random.split(task.keys.sample)

    def loss(params: Params, example: dict[str, Array], key: Key) -> Any:
        return models.negative_elbo(params, config, example["x"], key)

    initial = models.init_vae(task.keys.init, config)
    fitted = fit_mean("VAE", task, loss, initial, LEARNING_RATE)
    params = fitted.state.params
    bound, parts = jax.jit(models.negative_elbo, static_argnums=1)(
        params, config, task.test, bound_key
    )

    def of_mean(x: Array) -> Array:
        return models.vae(params, config, x)[0]

    def of_latent(z: Array) -> Array:
        return models.decode_image(params, config.nets, z)

    made = many(of_mean, task.test)
    drawn = many(
        lambda key: models.sample_vae(params, config, key),
        jax.random.split(sample_key, len(task.test)),
    )
    mean, log_variance = models.posterior(params, config, task.test)
    rows = {"test image": task.test, "reconstruction": made}
    between = _between(mean)
    along, informative = _along(mean, losses.gaussian_kl(mean, log_variance))
    decode = jax.jit(of_latent)
    return Outcome(
        losses=fitted.losses,
        samples={"samples": Samples(drawn)},
        grids={
            "reconstructions": _beside(rows, "The VAE: test images through the posterior's mean."),
            "interpolation": Grid(
                clipped(np.asarray(decode(between))),
                [f"pair {i + 1}" for i in range(len(between))],
                "From one test image (left) to another (right) along a line between their latents.",
            ),
            "traversal": Grid(
                clipped(np.asarray(decode(along))),
                [f"latent {i}" for i in informative],
                f"One test image, one of its latents at a time from -{SPAN} to {SPAN}; those "
                "latents that say most about an image, the most informative first.",
            ),
        },
        facts={
            "squared error of a reconstruction": _squared_error(made, task.test),
            "negative ELBO (nats)": float(jnp.mean(bound)),
            "of which KL": float(jnp.mean(parts["kl"])),
            "deviation of a pixel": float(jnp.exp(params["log_stddev"])),
        },
        seconds=fitted.seconds,
        parameters=tree.size(initial),
    )


def _between(mean: Array, rows: int = 4) -> Array:
    """`[rows, SHOWN, latent]`: lines between the means of neighbouring test images."""
    rows = min(rows, len(mean) // 2)
    share = jnp.linspace(0, 1, SHOWN)[None, :, None]
    start, end = mean[: 2 * rows : 2, None], mean[1 : 2 * rows : 2, None]
    return (1 - share) * start + share * end


def _along(mean: Array, kl: Array, rows: int = 5) -> tuple[Array, list[int]]:
    """`[rows, SHOWN, latent]`: the first mean with one latent moved; and which latents."""
    order = jnp.argsort(-jnp.mean(kl, axis=0))[:rows]
    values = jnp.linspace(-SPAN, SPAN, SHOWN)
    moved = jax.vmap(lambda i: jax.vmap(lambda value: mean[0].at[i].set(value))(values))(order)
    return moved, [int(i) for i in order]
