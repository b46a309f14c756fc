"""Pictures as the image tower takes them: small, or as what a pretrained net makes of them."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data.weights import fetch_weights
from jaxnets import models, pretrained
from jaxnets.types import Array, Key

TURN, ZOOM, SHIFT, LIGHT = 0.25, 0.2, 0.08, 0.1
"""The largest angle (radians), change of the logarithm of the size, shift (of the side), and the
deviation of the contrast, that augmentation draws."""


def shrink(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """`[n, side, side, 3]`, the mean of each square of pixels."""
    n, large = images.shape[:2]
    window = large // side
    means = images.reshape(n, side, window, side, window, 3).mean((2, 4), dtype=np.float32)
    small: NDArray[np.uint8] = np.round(means).astype(np.uint8)
    return small


def augment(key: Key, image: Array) -> Array:
    """An image `[height, width, 3]` in [0, 1], turned, scaled, moved and lit a little, on white."""
    height, width, _ = image.shape
    draw = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    angle, size = TURN * draw[0], jnp.exp(ZOOM * draw[1])
    shift = SHIFT * draw[2:] * jnp.array([height, width])
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    sine, cosine = jnp.sin(angle) / size, jnp.cos(angle) / size
    turn = jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    at = (grid - (centre + shift)[None, None]) @ turn + centre[None, None]
    sample = partial(
        jax.scipy.ndimage.map_coordinates, coordinates=[at[..., 0], at[..., 1]], order=1,
        mode="constant", cval=1.0,
    )  # fmt: skip
    moved = jax.vmap(sample, -1, -1)(image)
    contrast = 1 + LIGHT * jax.random.normal(jax.random.fold_in(key, 1))
    return jnp.clip((moved - 1) * contrast + 1, 0, 1)


def pretrained_features(
    images: NDArray[np.uint8], views: int, seed: int, folder: Path | None
) -> NDArray[np.float32]:
    """`[n, views, 1280]`: EfficientNet-Lite0's features of each picture and of augmented ones.

    The first view is the picture as it is.
    """
    config = models.EfficientNetConfig()
    (path,) = fetch_weights("efficientnet-lite0", folder)
    params, state = pretrained.load_efficientnet(path, config)

    @partial(jax.jit, static_argnames="change")
    def features(x: Array, key: Key, change: bool) -> Array:
        x = x.astype(jnp.float32) / 255
        if change:
            x = jax.vmap(augment)(jax.random.split(key, len(x)), x)
        x = jnp.asarray(pretrained.efficientnet_pixels(255 * x))
        return models.efficientnet_features(params, config, x, state=state)[0]

    def one_view(view: int) -> NDArray[np.float32]:
        key = jax.random.fold_in(jax.random.key(seed), view)
        parts = [
            np.asarray(features(images[i : i + 64], jax.random.fold_in(key, i), view > 0))
            for i in range(0, len(images), 64)
        ]
        return np.concatenate(parts)

    return np.stack([one_view(view) for view in range(views)], 1)
