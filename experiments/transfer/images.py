"""EfficientNet-Lite0, trained on photographs of ImageNet, and small grey images."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset, fingerprint, load
from experiments.data.elpv import load_elpv
from experiments.data.weights import WEIGHTS, fetch_weights
from experiments.errors import UsageError
from experiments.nets import Augment, augmented
from experiments.transfer.base import ALL, LAST, Base, Features
from experiments.transfer.cached import cached, key_of
from experiments.transfer.learner import Indices, Learner
from experiments.transfer.scratch import from_scratch
from experiments.transfer.whole import all_layers
from jaxnets import models, pretrained, train
from jaxnets.types import Array, Params, PyTree

NAME = "efficientnet-lite0"
RATES = (1e-4, 3e-5)
HAVE_SIDES = ("digits", "mnist")
"""Mirrored, these are something else."""
LARGE = 64
"""From this side on, the net from scratch sees images at half of it."""


def pool_of(data: Dataset, train_images: int, test_images: int, seed: int = 0) -> Dataset:
    """Some of the images, as many of each class as there are by chance.

    Of the test images those at the end of the order: with those at its beginning in view it was
    decided which features to offer. An image that is tested on as well is not trained on.

    Raises:
      UsageError: if no others are there.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.train_y))
    tested = {image.tobytes() for image in data.test_x}
    known = order[[data.train_x[i].tobytes() not in tested for i in order]][:train_images]
    if not len(known):
        raise UsageError(f"{data.name}: all images to train on are tested on as well")
    test = rng.permutation(len(data.test_y))[-test_images:]
    return data._replace(
        train_x=data.train_x[known], train_y=data.train_y[known],
        test_x=data.test_x[test], test_y=data.test_y[test],
    )  # fmt: skip


def load_images(
    name: str,
    data_folder: Path | None,
    weights_folder: Path | None,
    *,
    train_images: int,
    test_images: int,
    side: int,
    blocks: int,
) -> tuple[Base, str]:
    """The base and the task, and the fingerprint of the images that are used.

    `blocks` of sixteen are frozen, and what they make of the images is computed once.
    """
    data = load_elpv(data_folder) if name == "elpv" else load(name, data_folder)
    data = pool_of(data, train_images, test_images)
    # where all layers are tuned, tens of steps must do to take the task's moments
    config = models.EfficientNetConfig(momentum=0.9)
    (path,) = fetch_weights(NAME, weights_folder)
    params, state = pretrained.load_efficientnet(path, config)
    # a new one takes its place
    del params["classifier"]
    print_of = fingerprint(data)

    def as_pixels(images: Array) -> Array:
        large = jax.image.resize(images, (len(images), side, side, images.shape[-1]), "linear")
        large = jnp.broadcast_to(large, (*large.shape[:3], 3))
        return jnp.asarray(pretrained.efficientnet_pixels(255 * large))

    def apply(params: Params, images: Array) -> PyTree:
        pixels = as_pixels(images)
        below = models.efficientnet_below(params, config, pixels, state=state, blocks=blocks)
        levels = models.efficientnet_levels(params, config, pixels, state=state)
        return {"levels": jnp.concatenate(levels, -1), "below": below.astype(jnp.float16)}

    def above(params: Params, below: PyTree) -> dict[str, Array]:
        levels = models.efficientnet_levels_above(
            params, config, below["x"].astype(jnp.float32), state=state, blocks=blocks
        )
        return {LAST: levels[-1], ALL: jnp.concatenate([below["levels"], *levels], -1)}

    def features(images: NDArray[np.float32]) -> Features:
        key = key_of(2, images, *WEIGHTS[NAME].sha256.values(), side, blocks)
        found = cached(key, lambda: train.features(apply, params, images, 50), ("levels", "below"))
        levels, x = found["levels"], found["below"]
        frozen = sum(
            len(block["depthwise"]["norm"]["scale"]) for block in params["blocks"][:blocks]
        )
        seen = {LAST: levels[:, -config.head :], ALL: levels}
        return Features(seen, {"x": x, "levels": levels[:, :frozen]})

    def seen_by(
        params: Params, moments: PyTree, images: Array, learns: bool
    ) -> tuple[Array, PyTree]:
        return models.efficientnet_features(
            params, config, as_pixels(images), state=moments, train=learns
        )

    def inputs(chosen: Indices | None) -> PyTree:
        return data.test_x if chosen is None else data.train_x[chosen]

    upper = "|".join(map(str, range(blocks, 16)))
    seen = features(data.train_x)
    whole = partial(
        all_layers, params, state, seen_by, inputs, seen, data.train_y, len(data.classes),
        "shift" if data.name in HAVE_SIDES else "both",
    )  # fmt: skip
    base = Base(
        name=data.name,
        classes=data.classes,
        train=seen,
        train_y=data.train_y,
        test=features(data.test_x),
        test_y=data.test_y,
        params=params,
        features=above,
        # norms are few parameters that move all of a channel, by moments that stay ImageNet's
        tuned={rf"^blocks/({upper})/(expand|project)/conv/|^head/conv/": True, ".*": False},
        depths={"^classifier/": 3, "^head/|^blocks/1[45]/": 0, ".*": 1},
        adapted={rf"^blocks/({upper})/(expand|project)/conv/kernel$": -1,
                 "^head/conv/kernel$": -1, ".*": 0},
        stages={},
        rates=RATES,
        scratch=_scratch(data),
        whole=whole,
        about=(
            f"The base is EfficientNet-Lite0, trained on ImageNet; it sees the images at {side} × "
            f"{side}. Fine-tuned are the pointwise convolutions of its upper {16 - blocks} of 16 "
            "blocks and before its head, the lower ones at half the rate, the classifier at an "
            "eighth; adapters are at the same convolutions. There batch norm stays ImageNet's, its "
            "moments as well as its scale and bias, and what the lower "
            f"{blocks} blocks make of the images is computed once. Where all layers are "
            "fine-tuned, every kernel, scale and bias is, all at one rate; batch norm takes the "
            "task's moments, images are mirrored and shifted, and the classifier sees the last "
            "level alone. From scratch: a net of two convolutions and a hidden layer, with batch "
            "norm and dropout"
            + (", on mirrored and shifted images." if _augment(data) != "none" else
               "; mirrored or shifted images made it worse on other subsets.")
        ),
    )  # fmt: skip
    return base, print_of


def _augment(data: Dataset) -> Augment:
    return "both" if data.name == "elpv" else "none"


def _scratch(data: Dataset) -> Learner:
    if data.train_x.shape[1] >= LARGE:
        data = data._replace(train_x=_halved(data.train_x), test_x=_halved(data.test_x))
    config = models.CNNConfig(
        image=data.train_x.shape[1:], n_out=len(data.classes), channels=(16, 32), pool=2,
        hidden=(64,), dropout_rate=0.3,
    )  # fmt: skip
    how = _augment(data)

    def apply(
        params: Params, fixed: PyTree, moments: PyTree, x: Array, key: Array | None
    ) -> tuple[Array, PyTree]:
        mean, deviation = fixed
        x = (x - mean) / deviation
        if key is not None:
            x = augmented(x, jax.random.fold_in(key, 0), how)
        learns = key is not None
        return models.cnn(params, config, x, state=moments, train=learns, key=key)

    def moments_of(known: Indices) -> PyTree:
        x = data.train_x[known]
        axes = (0, 1, 2)
        return x.mean(axes, keepdims=True), x.std(axes, keepdims=True) + 1e-6

    return from_scratch(
        partial(models.init_cnn, config=config),
        apply,
        lambda chosen: data.test_x if chosen is None else data.train_x[chosen],
        data.train_y,
        moments_of,
    )


def _halved(images: NDArray[np.float32]) -> NDArray[np.float32]:
    n, height, width, channels = images.shape
    squares = images[:, : height // 2 * 2, : width // 2 * 2].reshape(
        n, height // 2, 2, width // 2, 2, channels
    )
    means: NDArray[np.float32] = squares.mean((2, 4), dtype=np.float32)
    return means
