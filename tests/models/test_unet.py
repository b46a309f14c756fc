import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from tests.catalogue import SMALL_UNET
from tests.numerics import normal

KEY = jax.random.key(0)
CONFIG = models.UNetConfig((8, 4, 1), 2, (4, 6), blocks=2, groups=2, features=4, classes=2)


@pytest.mark.thorough
def test_it_starts_at_0_and_goes_down_and_up():
    params = jax.jit(models.init_unet)(KEY, CONFIG)
    assert len(params["down"]) == len(params["up"]) == 2
    assert [len(level["blocks"]) for level in params["down"]] == [2, 2]
    assert [len(level["blocks"]) for level in params["up"]] == [3, 3]
    channels = [b["conv1"]["kernel"].shape[-2:] for s in params["up"] for b in s["blocks"]]
    # what came from above, and what was there on the way down
    assert channels == [(12, 6), (12, 6), (10, 6), (10, 4), (8, 4), (8, 4)]
    shape = jax.eval_shape(lambda x: models.unet(params, CONFIG, x, 5), jnp.ones((3, 8, 4, 1)))
    assert shape.shape == (3, 8, 4, 2)
    small = jax.jit(models.init_unet)(KEY, SMALL_UNET)
    y = models.unet(small, SMALL_UNET, normal(0, SMALL_UNET.image), 5)
    np.testing.assert_array_equal(y, 0)


def test_attention_is_where_it_is_asked_for():
    def attending(attention):
        config = models.UNetConfig((8, 8, 1), 1, (8, 8, 8), attention=attention)
        params = jax.eval_shape(models.init_unet, KEY, config)
        blocks = [level["blocks"] for level in (*params["down"], *params["up"])]
        return [["attention" in block for block in level] for level in [*blocks, params["middle"]]]

    no, two = [False], [False, False]
    assert attending(None) == [no, no, no, two, two, two, two]
    assert attending(()) == [no, no, no, two, two, two, [True, False]]
    # the way up comes from the last level
    assert attending((2,)) == [no, no, [True], [True, True], two, two, [True, False]]


@pytest.mark.thorough
def test_each_image_has_a_time_and_a_label_of_its_own():
    params = jax.jit(models.init_unet)(KEY, SMALL_UNET)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    x = normal(0, (4, *SMALL_UNET.image))
    t, labels = jnp.array([1, 2, 1, 2]), jnp.array([0, 0, 3, 3])
    apply = jax.jit(lambda x, t, label: models.unet(params, SMALL_UNET, x, t, label))
    got = apply(x, t, labels)
    one_by_one = jax.vmap(apply)(x, t, labels)
    np.testing.assert_allclose(got, one_by_one, rtol=1e-4, atol=1e-5)
    same = apply(jnp.broadcast_to(x[:1], x.shape), t, labels)
    for a in range(4):
        for b in range(a):
            assert jnp.any(jnp.abs(same[a] - same[b]) > 1e-4)
    # no label is the last one
    without = models.unet(params, SMALL_UNET, x, t)
    np.testing.assert_allclose(without[2:], got[2:], rtol=1e-4, atol=1e-5)
    assert jnp.any(jnp.abs(without[:2] - got[:2]) > 1e-4)


def test_bad_shapes_are_named():
    params = jax.jit(models.init_unet)(KEY, SMALL_UNET)
    x = jnp.ones((4, 3, 2, 2))
    with pytest.raises(ValueError, match=r"unet: x must be .* got \[4, 3, 2, 1\]"):
        models.unet(params, SMALL_UNET, x[..., :1], 1)
    with pytest.raises(ValueError, match=r"unet: t must be a scalar or \[4\] for x, got \[3\]"):
        models.unet(params, SMALL_UNET, x, jnp.ones(3))
    with pytest.raises(ValueError, match="unet: label needs a config with classes"):
        models.unet(params, models.UNetConfig((3, 2, 2), 2, (2,), groups=1, features=2), x, 1, 0)
    with pytest.raises(ValueError, match="2 levels need a height and width divisible by 2"):
        models.UNetConfig((7, 8, 1), 1)
    with pytest.raises(ValueError, match=r"groups must divide all channels \(4, 6\), got 4"):
        models.UNetConfig((8, 8, 1), 1, (4, 6), groups=4)
    with pytest.raises(ValueError, match=r"heads must divide all channels \(4, 8\), got 8"):
        models.UNetConfig((8, 8, 1), 1, (4, 8), groups=2, heads=8, attention=(0,))
    with pytest.raises(ValueError, match=r"attention must name levels from 0 to 1, got \(2,\)"):
        models.UNetConfig((8, 8, 1), 1, (4, 8), groups=2, attention=(2,))
    for attention in ((), None):
        models.UNetConfig((8, 8, 1), 1, (6, 8), groups=2, heads=8, attention=attention)
    with pytest.raises(ValueError, match="features must be even, got 3"):
        models.UNetConfig((8, 8, 1), 1, features=3)
    with pytest.raises(ValueError, match="every size must be positive"):
        models.UNetConfig((8, 8, 1), 1, blocks=0)
