"""Two towers: what either may be, padding, the learned scale, and that they learn to meet."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, losses, models, optim, tree
from tests.catalogue import thorough_beyond
from tests.numerics import normal, relative_error

KEY = jax.random.key(0)
MLP = models.MLPConfig(5, 4, ())
BAG = models.BagOfWordsConfig(7, 3)
ENCODER = models.TransformerConfig(7, depth=1, features=4, heads=2, max_length=6)
GRU = models.RNNConfig(3, 4, "gru", (5,), vocabulary=7)
IMAGES = {
    "cnn": (models.CNNConfig((8, 8, 3), 4, channels=(2,), hidden=()), (8, 8, 3)),
    "resnet": (models.ResNetConfig(3, 4, (1,), (2,)), (8, 8, 3)),
    "efficientnet": (
        models.EfficientNetConfig(4, 3, 2, (models.Stage(1, 3, 1, 1, 2),), head=3),
        (8, 8, 3),
    ),
    "mlp": (MLP, (5,)),
}
TEXTS = {"bag": BAG, "gru": GRU, "encoder": ENCODER}
IDS = jnp.array([[1, 2, 3, 0], [4, 5, 0, 0], [6, 0, 0, 0]])
MASK = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool)


@pytest.mark.parametrize("name", thorough_beyond({"mlp"}, {n: (n,) for n in IMAGES}))
def test_every_image_tower_gives_unit_vectors_and_its_state(name):
    image, shape = IMAGES[name]
    config = models.TwoTowerConfig(image, BAG)
    params, state = jax.jit(models.init_two_tower)(KEY, config)
    x = normal(0, (3, *shape))
    u, v, after = jax.jit(models.two_tower, static_argnames="train")(
        params, config, x, IDS, MASK, state=state, train=True
    )
    assert u.shape == v.shape == (3, 4)
    for vectors in (u, v):
        np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
    ]
    assert all(moved)
    assert bool(moved) == (name != "mlp")


@pytest.mark.parametrize("name", thorough_beyond({"bag"}, {n: (n,) for n in TEXTS}))
def test_padding_changes_nothing_and_words_do(name):
    config = models.TwoTowerConfig(MLP, TEXTS[name])
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    embed = jax.jit(models.embed_texts)
    v = embed(params, config, IDS, MASK)
    other = embed(params, config, jnp.where(MASK, IDS, 5), MASK)
    np.testing.assert_array_equal(v, other)
    longer = [jnp.pad(x, ((0, 0), (0, 2))) for x in (IDS, MASK)]
    assert relative_error(embed(params, config, *longer), v) <= 1e-6
    changed = embed(params, config, IDS.at[0, 1].set(6), MASK)
    assert not np.allclose(changed[0], v[0], atol=1e-3)
    np.testing.assert_allclose(changed[1:], v[1:], rtol=1e-6)


@pytest.mark.thorough
def test_the_order_of_words_matters_to_all_but_a_bag():
    turned = IDS.at[0, :3].set(jnp.array([3, 1, 2]))
    for name, text in TEXTS.items():
        config = models.TwoTowerConfig(MLP, text)
        params, _ = jax.jit(models.init_two_tower)(KEY, config)
        one, two = (models.embed_texts(params, config, ids, MASK)[0] for ids in (IDS, turned))
        assert np.allclose(one, two, atol=1e-5) == (name == "bag")


def test_scales_start_as_published():
    for loss, scale in (("clip", 1 / 0.07), ("siglip", 10)):
        config = models.TwoTowerConfig(MLP, BAG, loss)
        params, _ = jax.jit(models.init_two_tower)(KEY, config)
        np.testing.assert_allclose(params["log_scale"], math.log(scale), rtol=1e-6)
        assert params.get("bias") == (-10 if loss == "siglip" else None)


def test_a_text_without_words_has_no_direction_and_a_finite_gradient():
    config = models.TwoTowerConfig(MLP, BAG)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)

    def total(params):
        return jnp.sum(models.embed_texts(params, config, IDS, jnp.zeros_like(MASK)) ** 2)

    value, gradient = jax.value_and_grad(total)(params)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("features", [4, 128])
def test_nan_is_not_hidden_by_the_normalization(features):
    """As of an id that is out of range, or of training that diverged."""
    config = models.TwoTowerConfig(models.MLPConfig(5, features, ()), BAG)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    embed = jax.jit(lambda params, ids: models.embed_texts(params, config, ids, MASK))
    assert np.isnan(embed(params, IDS.at[0, 0].set(7))[0]).all()
    assert np.isnan(embed(jax.tree.map(lambda x: x * jnp.nan, params), IDS)).all()
    vectors = jnp.full((2, features), jnp.nan)
    assert np.isnan(jax.jit(losses.cosine_similarity)(vectors, jnp.ones_like(vectors))).all()


def test_dropout_acts_with_a_key_only():
    text = models.BagOfWordsConfig(7, 64, dropout_rate=0.5)
    config = models.TwoTowerConfig(MLP, text)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    one, two = (models.embed_texts(params, config, IDS, MASK, key=k) for k in (None, KEY))
    assert not np.allclose(one, two)


def test_a_compute_dtype_is_the_embeddings():
    text = models.BagOfWordsConfig(7, 3, dtype=jnp.bfloat16)
    config = models.TwoTowerConfig(models.MLPConfig(5, 4, (), dtype=jnp.bfloat16), text)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    u, v, _ = models.two_tower(params, config, jnp.ones((3, 5)), IDS, MASK, state={})
    assert u.dtype == v.dtype == jnp.bfloat16
    assert models.two_tower_losses(params, config, u, v).dtype == jnp.float32


@pytest.mark.parametrize("loss", ["clip", pytest.param("siglip", marks=pytest.mark.thorough)])
def test_pairs_are_learned_and_every_parameter_has_part(loss):
    config = models.TwoTowerConfig(models.MLPConfig(5, 4, (8,)), BAG, loss)
    start, _ = jax.jit(models.init_two_tower)(KEY, config)
    x = normal(0, (3, 5))
    optimizer = optim.adam(0.02)

    def mean_loss(params):
        u, v, _ = models.two_tower(params, config, x, IDS, MASK, state={})
        return jnp.mean(models.two_tower_losses(params, config, u, v))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(mean_loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optim.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=150)

    (params, _), values = train(start)
    assert values[-1] < 0.1 * values[0]
    u, v, _ = models.two_tower(params, config, x, IDS, MASK, state={})
    np.testing.assert_array_equal(jnp.argmax(u @ v.T, -1), jnp.arange(3))
    before, after = tree.flatten_with_paths(start), tree.flatten_with_paths(params)
    still = [path for path, leaf in before.items() if np.array_equal(leaf, after[path])]
    assert not still


def test_a_batch_of_pairs_has_no_per_example_gradients():
    config = models.TwoTowerConfig(MLP, BAG)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)

    def loss(params, x, ids, mask):
        u, v, _ = models.two_tower(params, config, x, ids, mask, state={})
        return jnp.mean(models.two_tower_losses(params, config, u, v))

    with pytest.raises(ValueError, match=r"mixes the examples of a batch by .*in clip_loss"):
        gradients.per_example_grad(loss, keep_batch_dim=True)(params, jnp.ones((3, 5)), IDS, MASK)


def test_bad_configs_and_inputs_are_named():
    with pytest.raises(ValueError, match="both towers must have one n_out, got 4 and 5"):
        models.TwoTowerConfig(MLP, models.RNNConfig(3, 5, vocabulary=7))
    with pytest.raises(ValueError, match="needs a vocabulary and the readout 'last' or 'mean'"):
        models.TwoTowerConfig(MLP, models.RNNConfig(3, 4))
    with pytest.raises(ValueError, match="loss must be 'clip' or 'siglip', got 'l2'"):
        models.TwoTowerConfig(MLP, BAG, "l2")
    with pytest.raises(TypeError, match="text must be a config of BagOfWordsConfig, RNNConfig"):
        models.TwoTowerConfig(MLP, MLP)
    with pytest.raises(ValueError, match="BagOfWordsConfig: every size must be positive"):
        models.BagOfWordsConfig(0)
    config = models.TwoTowerConfig(MLP, BAG)
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    with pytest.raises(ValueError, match="embed_texts: shapes must match exactly"):
        models.embed_texts(params, config, IDS, MASK[:, :2])


def test_the_losses_are_those_of_the_equations():
    config = models.TwoTowerConfig(MLP, BAG, "siglip")
    params, _ = jax.jit(models.init_two_tower)(KEY, config)
    u, v = normal(0, (2, 3, 4))
    got = models.two_tower_losses(params, config, u, v)
    np.testing.assert_allclose(got, losses.siglip_loss(u, v, math.log(10.0), -10.0), rtol=1e-6)
