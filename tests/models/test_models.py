import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models, nn, tree
from tests.catalogue import CNN, CNN_STATE, MLP, _linen_cnn
from tests.numerics import assert_trees_close, normal, relative_error

KEY = jax.random.key(0)


def test_paths_are_those_of_the_design():
    params, state = jax.jit(models.init_cnn)(KEY, CNN)
    assert list(tree.flatten_with_paths(params)) == [
        "blocks/0/conv/kernel",
        "blocks/0/norm/bias",
        "blocks/0/norm/scale",
        "blocks/1/conv/kernel",
        "blocks/1/norm/bias",
        "blocks/1/norm/scale",
        "head/layers/0/bias",
        "head/layers/0/kernel",
        "head/layers/1/bias",
        "head/layers/1/kernel",
    ]
    assert list(tree.flatten_with_paths(state)) == [
        f"moments/{block}/{moment}" for block in range(2) for moment in ("mean", "var")
    ]


def test_the_cnns_moments_move_as_linens():
    params, _ = jax.jit(models.init_cnn)(KEY, CNN)
    x = normal(0, (5, *CNN.image))
    _, got = models.cnn(params, CNN, x, state=CNN_STATE, train=True)
    _, want = _linen_cnn(params, CNN_STATE, x, train=True)
    assert_trees_close(got, jax.tree.map(lambda leaf: leaf, want), 1e-6)


def test_configs_cross_jit_and_equal_ones_do_not_recompile():
    chex.clear_trace_counter()
    init = jax.jit(chex.assert_max_traces(models.init_mlp, n=1))
    for _ in range(2):
        config = models.MLPConfig(6, 4, (8, 5), kernel_init=nn.initializers.he_normal())
        params = jax.jit(init)(KEY, config)
    forward = jax.jit(chex.assert_max_traces(models.mlp, n=1))
    forward(params, config, jnp.ones(6))
    forward(params, models.MLPConfig(6, 4, (8, 5)), jnp.ones(6))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_compute_dtype_is_chosen_at_entry_and_parameters_keep_theirs(dtype):
    config = models.CNNConfig(CNN.image, 4, channels=(3, 5), hidden=(7,), dtype=dtype)
    params, state = jax.jit(models.init_cnn)(KEY, config)
    x = normal(0, (5, *CNN.image))
    logits, after = models.cnn(params, config, x, state=state, train=True)
    assert logits.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((params, after))} == {np.dtype("float32")}
    full, _ = models.cnn(params, CNN, x, state=state, train=True)
    assert relative_error(logits, full) < 30 * float(jnp.finfo(dtype).eps)


def test_param_dtype():
    config = models.MLPConfig(6, 4, param_dtype=jnp.bfloat16)
    params = jax.jit(models.init_mlp)(KEY, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_dropout_acts_with_a_key_only():
    config = models.MLPConfig(6, 4, (64,), dropout_rate=0.5)
    params, x = jax.jit(models.init_mlp)(KEY, config), jnp.ones((3, 6))
    evaluated = models.mlp(params, config, x)
    np.testing.assert_array_equal(evaluated, models.mlp(params, config, x))
    one, two = (models.mlp(params, config, x, key=jax.random.key(k)) for k in (1, 2))
    assert jnp.any(one != evaluated)
    assert jnp.any(one != two)


def test_kernels_are_independent_draws():
    params = jax.jit(models.init_mlp)(KEY, models.MLPConfig(8, 8, (8, 8)))
    kernels = [layer["kernel"] for layer in params["layers"]]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_bad_shapes_are_named():
    params, state = jax.jit(models.init_cnn)(KEY, CNN)
    with pytest.raises(
        ValueError, match=r"cnn: x must be \[..., \(8, 6, 2\)\], got \[3, 8, 6, 1\]"
    ):
        models.cnn(params, CNN, jnp.ones((3, 8, 6, 1)), state=state)
    with pytest.raises(
        ValueError, match=r"image must be \(height, width, channels\), got \(8, 8\)"
    ):
        models.CNNConfig((8, 8), 4)
    with pytest.raises(ValueError, match="MLPConfig: every size must be positive"):
        models.MLPConfig(4, -2)
    with pytest.raises(ValueError, match="CNNConfig: every size must be positive"):
        models.CNNConfig((8, 8, 1), 4, pool=0)
    with pytest.raises(ValueError, match="leave nothing of an image"):
        models.init_cnn(KEY, models.CNNConfig((8, 8, 1), 4, channels=(2, 2, 2, 2)))


def test_summary_lists_every_leaf_and_counts():
    params = jax.jit(models.init_mlp)(KEY, MLP)
    text = models.summary(params, lambda p, x: models.mlp(p, MLP, x), jnp.ones((10, 6)))
    lines = text.splitlines()
    assert any(line.split() == ["layers/0/kernel", "6×8", "float32", "48"] for line in lines)
    total = 6 * 8 + 8 + 8 * 5 + 5 + 5 * 4 + 4
    assert lines[-2].split() == ["total", f"{total}"]
    assert re.fullmatch(r"FLOPs  [\d,]+", lines[-1])


def test_flops_of_a_matrix_product_are_counted():
    count = models.flops(jnp.dot, jnp.ones((32, 64)), jnp.ones((64, 16)))
    reported = jax.default_backend() == "cpu" or count is not None
    assert count == 2 * 32 * 64 * 16 if reported else count is None


def test_summary_of_shapes_allocates_nothing():
    shapes = jax.eval_shape(models.init_mlp, KEY, models.MLPConfig(10**5, 10**5, (10**5,)))
    assert "20,000,200,000" in models.summary(shapes)
