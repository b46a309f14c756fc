"""EfficientNet-Lite0, trained on photographs of ImageNet, and small grey images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.data import Dataset, fingerprint, load, standardizer
from experiments.data.elpv import load_elpv
from experiments.data.weights import WEIGHTS, fetch_weights
from experiments.nets import Augment, augmented
from experiments.transfer.base import Base, Features, FromScratch
from experiments.transfer.cached import cached, key_of
from jaxnets import losses, models, optim, pretrained, train
from jaxnets.types import Array, Params, PyTree

NAME = "efficientnet-lite0"
FROZEN_BLOCKS = 8
"""Of sixteen: their activations are computed once."""
LARGE = 64
"""From this side on, the net from scratch sees images at half of it."""


def pool_of(data: Dataset, train_images: int, test_images: int, seed: int = 0) -> Dataset:
    """Some of the images, as many of each class as there are by chance.

    Of the test images those at the end of the order: with those at its beginning in view it was
    decided which features to offer.
    """
    rng = np.random.default_rng(seed)
    known = rng.permutation(len(data.train_y))[:train_images]
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
) -> tuple[Base, str]:
    """The base and the task, and the fingerprint of the images that are used."""
    data = load_elpv(data_folder) if name == "elpv" else load(name, data_folder)
    data = pool_of(data, train_images, test_images)
    config = models.EfficientNetConfig()
    (path,) = fetch_weights(NAME, weights_folder)
    params, state = pretrained.load_efficientnet(path, config)
    print_of = fingerprint(data)

    def apply(params: Params, images: Array) -> PyTree:
        large = jax.image.resize(images, (len(images), side, side, images.shape[-1]), "linear")
        large = jnp.broadcast_to(large, (*large.shape[:3], 3))
        pixels = jnp.asarray(pretrained.efficientnet_pixels(255 * large))
        levels = models.efficientnet_levels(params, config, pixels, state=state)
        below = models.efficientnet_below(params, config, pixels, state=state, blocks=FROZEN_BLOCKS)
        return {
            "last": levels[-1],
            "levels": jnp.concatenate(levels, -1),
            "below": below.astype(jnp.float16),
        }

    def features(images: NDArray[np.float32]) -> Features:
        key = key_of(1, images, *WEIGHTS[NAME].sha256.values(), side, FROZEN_BLOCKS)
        found = cached(
            key, lambda: train.features(apply, params, images, 50), ("last", "levels", "below")
        )
        return Features(**found)

    def logits(params: Params, below: Array) -> Array:
        return models.efficientnet_above(params, config, below, state=state, blocks=FROZEN_BLOCKS)

    below = f"^(stem|blocks/({'|'.join(map(str, range(FROZEN_BLOCKS)))}))/"
    above = "|".join(map(str, range(FROZEN_BLOCKS, 16)))
    base = Base(
        name=data.name,
        classes=data.classes,
        train=features(data.train_x),
        train_y=data.train_y,
        test=features(data.test_x),
        test_y=data.test_y,
        params=params,
        logits=logits,
        # gradients of depthwise kernels take as long as all the others on a CPU
        tuned={below: False, "depthwise/conv/": False, ".*": True},
        depths={"^classifier/": 0, "^head/|^blocks/1[2-5]/": 1, ".*": 2},
        adapted={rf"^blocks/({above})/(expand|project)/conv/kernel$": -1,
                 "^head/conv/kernel$": -1, ".*": 0},
        from_scratch=_scratch(data),
        about=(
            f"The base is EfficientNet-Lite0, trained on ImageNet; it sees the images at {side} × "
            f"{side}. Fine-tuned are the pointwise convolutions and norms of its upper "
            f"{16 - FROZEN_BLOCKS} of 16 blocks, and its head; adapters are at the same "
            "convolutions. What lies below is frozen, and its activations are computed once. From "
            "scratch: a net of two convolutions and a hidden layer, with batch norm and dropout"
            + (", on mirrored and shifted images." if _augment(data) != "none" else
               "; mirrored or shifted images made it worse on other subsets.")
        ),
    )  # fmt: skip
    return base, print_of


def _augment(data: Dataset) -> Augment:
    return "both" if data.name == "elpv" else "none"


def _scratch(data: Dataset) -> FromScratch:
    if data.train_x.shape[1] >= LARGE:
        data = data._replace(train_x=_halved(data.train_x), test_x=_halved(data.test_x))
    config = models.CNNConfig(
        image=data.train_x.shape[1:], n_out=len(data.classes), channels=(16, 32), pool=2,
        hidden=(64,), dropout_rate=0.3,
    )  # fmt: skip
    how = _augment(data)

    def run(seed: Array, known: PyTree, test: PyTree, steps: int) -> Array:
        optimizer = optim.adamw(optim.cosine_decay_schedule(2e-3, steps), weight_decay=0.01)
        n = len(known["y"])

        def loss(params: Params, moments: Params, batch: PyTree, key: Array) -> PyTree:
            x = augmented(batch["x"], jax.random.fold_in(key, 0), how)
            logits, moments = models.cnn(params, config, x, state=moments, train=True, key=key)
            value = losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            return jnp.mean(value), moments

        step = train.step(loss, optimizer, has_state=True, has_key=True)
        init_key, run_key, batch_key = jax.random.split(jax.random.key(seed), 3)
        params, moments = models.init_cnn(init_key, config)
        state = train.init_state(params, optimizer, run_key, model_state=moments)

        def one(state: train.TrainState, key: Array) -> tuple[train.TrainState, None]:
            chosen = jax.random.randint(key, (min(64, n),), 0, n)
            return step(state, jax.tree.map(lambda leaf: leaf[chosen], known))[0], None

        state, _ = jax.lax.scan(one, state, jax.random.split(batch_key, steps))

        logits, _ = models.cnn(state.params, config, test["x"], state=state.model_state)
        return jnp.mean(jnp.argmax(logits, -1) == test["y"])

    compiled = jax.jit(run, static_argnums=3)

    def from_scratch(seed: int, chosen: NDArray[np.intp], steps: int) -> float:
        x, y = data.train_x[chosen], data.train_y[chosen]
        move = standardizer(x)
        known, test = {"x": move(x), "y": y}, {"x": move(data.test_x), "y": data.test_y}
        return float(compiled(jnp.asarray(seed), known, test, steps))

    return from_scratch


def _halved(images: NDArray[np.float32]) -> NDArray[np.float32]:
    n, height, width, channels = images.shape
    squares = images[:, : height // 2 * 2, : width // 2 * 2].reshape(
        n, height // 2, 2, width // 2, 2, channels
    )
    means: NDArray[np.float32] = squares.mean((2, 4), dtype=np.float32)
    return means
