"""The nets that classify images, and what augmentation makes of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import nets
from experiments.data import load
from experiments.errors import UsageError

KEY = jax.random.key(0)


def test_patches_become_the_channels_of_one_pixel():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    got = nets.fold_patches(jnp.asarray(x), 2)
    assert got.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(got[1, 0, 2], x[1, :2, 4:6].reshape(-1))
    np.testing.assert_array_equal(nets.fold_patches(jnp.asarray(x), 1), x)


def test_augmented_images_are_shifted_and_mirrored_ones():
    x = jax.random.uniform(KEY, (64, 5, 6, 2))
    assert nets.augmented(x, KEY, "none") is x

    def shifts(images):
        """All that may come of each image: `[25, n, height, width, channels]`."""
        edge = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        return np.stack([edge[:, i : i + 5, j : j + 6] for i in range(5) for j in range(5)])

    plain, mirrored = shifts(x), shifts(x[:, :, ::-1])
    for how, possible in (
        ("shift", plain),
        ("flip", np.stack([x, x[:, :, ::-1]])),
        ("both", np.concatenate([plain, mirrored])),
    ):
        got = np.asarray(nets.augmented(x, KEY, how))
        matches = (possible == got[None]).all(axis=(-3, -2, -1))
        assert matches.any(axis=0).all()
        # 64 draws, each as probable as the others
        counts = np.bincount(matches.argmax(axis=0), minlength=len(possible))
        assert counts.max() < 64 / len(possible) + 4 * np.sqrt(64 / len(possible)) + 3
        assert np.count_nonzero(counts) > 0.6 * min(len(possible), 50)


def test_a_resnet_folds_large_images_only(small):
    data = load(str(small))
    config = nets.resnet_config(data, depth=14, width=1, dtype="float32")
    assert (config.n_in, config.n_out, config.blocks) == (1, 4, (2, 2, 2))
    large = data._replace(train_x=np.zeros((1, 28, 28, 3), np.float32))
    assert nets.resnet_config(large, depth=8, width=2, dtype="float32").n_in == 12
    odd = data._replace(train_x=np.zeros((1, 27, 28, 3), np.float32))
    assert nets.resnet_config(odd, depth=8, width=2, dtype="float32").n_in == 3
    with pytest.raises(UsageError, match=r"--depth must be 8, 14, 20, … \(6n \+ 2\), got 18"):
        nets.resnet_config(data, depth=18, width=1, dtype="float32")


def test_nets_are_called_alike(small):
    data = load(str(small))
    for config in (
        nets.resnet_config(data, depth=8, width=1, dtype="float32"),
        nets.cnn_config(data, dropout=0.5, dtype="float32"),
    ):
        params, state = jax.eval_shape(nets.init_net, KEY, config)
        run = partial(nets.net, x=data.test_x[:3], train=True, key=KEY)
        logits, after = jax.eval_shape(run, params, config, state=state)
        assert logits.shape == (3, 4)
        assert jax.tree.structure(after) == jax.tree.structure(state)
