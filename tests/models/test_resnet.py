import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models, tree
from tests.catalogue import BATCH_RESNET, BOTTLENECKS, thorough_beyond
from tests.models import linen_images
from tests.numerics import assert_trees_close, normal

KEY = jax.random.key(0)


def n_params(config):
    params, _ = jax.eval_shape(models.init_resnet, KEY, config)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_sizes_are_those_of_the_papers():
    """He et al.'s table 6 in millions; torchvision's documented counts of the ImageNet nets."""
    for depth, millions in {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}.items():
        count = n_params(models.cifar_resnet(depth, 10)) / 1e6
        assert abs(count - millions) < 0.05 * millions
    counts = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
    for depth, count in counts.items():
        assert n_params(models.imagenet_resnet(depth)) == count


def test_depth_is_the_number_of_layers_with_weights_along_the_longest_way():
    for config, depth in (
        (models.cifar_resnet(56, 10), 56),
        (models.imagenet_resnet(34), 34),
        (models.imagenet_resnet(50), 50),
    ):
        params, _ = jax.eval_shape(models.init_resnet, KEY, config)
        paths = tree.flatten_with_paths(params)
        kernels = [p for p in paths if p.endswith("kernel") and "projection" not in p]
        assert len(kernels) == depth


@pytest.mark.parametrize(
    "config",
    thorough_beyond(set(), {"basic": (BATCH_RESNET,), "bottlenecks": (BOTTLENECKS,)}),
)
def test_moments_move_as_linens(config, x64):
    params, state = jax.jit(models.init_resnet)(KEY, config)
    x = normal(0, (3, 9, 8, 2))
    _, got = jax.jit(lambda *a: models.resnet(a[0], config, a[1], state=a[2], train=True))(
        params, x, state
    )
    _, want = jax.jit(lambda *a: linen_images.resnet(a[0], config, *a[1:], train=True))(
        params, x, state
    )
    assert_trees_close(got, jax.tree.map(lambda leaf: leaf, want), 1e-6)


@pytest.mark.thorough
def test_gradients_through_bottlenecks_and_the_batchs_own_moments_are_linens(x64):
    """By parameters, images and the whole batch's moments, in training mode, in float64."""
    params, state = jax.jit(models.init_resnet)(KEY, BOTTLENECKS)
    x_key, weights_key = jax.random.split(KEY)
    x = jax.random.normal(x_key, (4, 14, 9, 2))
    weights = jax.random.normal(weights_key, (4, BOTTLENECKS.n_out))

    def gradients(resnet):
        def weighed(params, x):
            logits, _ = resnet(params, BOTTLENECKS, x, state=state, train=True)
            return jnp.vdot(logits, weights)

        return jax.jit(jax.grad(weighed, argnums=(0, 1)))(params, x)

    got = gradients(models.resnet)
    assert_trees_close(got, gradients(linen_images.resnet), 1e-12)
    assert all(jnp.max(jnp.abs(leaf)) > 1e-6 for leaf in jax.tree.leaves(got))


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_blocks_start_as_their_shortcuts(norm):
    """Where a block has no projection it is then the identity of what has passed an activation."""
    config = models.ResNetConfig(3, 4, (3,), (6,), norm=norm, groups=2)
    params, state = jax.jit(models.init_resnet)(KEY, config)
    x = normal(0, (2, 5, 6, 3))
    shallow = {**params, "stages": [[]]}
    got, _ = models.resnet(params, config, x, state=state)
    want, _ = models.resnet(shallow, config, x, state=state)
    np.testing.assert_array_equal(got, want)
    plain = models.ResNetConfig(3, 4, (3,), (6,), norm=norm, groups=2, zero_init=False)
    params, state = jax.jit(models.init_resnet)(KEY, plain)
    assert jnp.any(models.resnet(params, plain, x, state=state)[0] != want)


def test_group_norm_needs_no_state_and_has_none():
    config = models.ResNetConfig(1, 2, (1,), (4,), norm="group", groups=4)
    params, state = jax.jit(models.init_resnet)(KEY, config)
    assert not jax.tree.leaves(state)
    x = normal(0, (4, 4, 1))
    logits, after = models.resnet(params, config, x)
    assert logits.shape == (2,)
    assert not jax.tree.leaves(after)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="cifar_resnet: depth must be 6n"):
        models.cifar_resnet(18, 10)
    with pytest.raises(ValueError, match="imagenet_resnet: depth must be one of"):
        models.imagenet_resnet(51)
    with pytest.raises(ValueError, match="blocks and channels need one number for each stage"):
        models.ResNetConfig(3, 10, (1, 1), (8, 8, 8))
    with pytest.raises(ValueError, match=r"groups must divide all channels \(16, 20\), got 8"):
        models.ResNetConfig(3, 10, (1, 1), (16, 20), norm="group")
    with pytest.raises(ValueError, match="block must be 'basic' or 'bottleneck', got 'wide'"):
        models.ResNetConfig(3, 10, block="wide")
    with pytest.raises(ValueError, match="norm must be 'batch' or 'group', got 'layer'"):
        models.ResNetConfig(3, 10, norm="layer")
    config = models.ResNetConfig(3, 10, (1,), (8,))
    params, state = jax.jit(models.init_resnet)(KEY, config)
    with pytest.raises(ValueError, match=r"x must be \[..., height, width, 3\], got \[4, 4, 1\]"):
        models.resnet(params, config, jnp.ones((4, 4, 1)), state=state)
    with pytest.raises(ValueError, match="batch norm needs the state from init_resnet, got none"):
        models.resnet(params, config, jnp.ones((4, 4, 3)))
