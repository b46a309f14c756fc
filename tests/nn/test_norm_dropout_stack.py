import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import nn
from tests.numerics import assert_trees_close, normal, relative_error

KEY = jax.random.key(0)


def test_batch_norm_moves_its_moments_as_linen_does():
    params, state = nn.init_batch_norm(5)
    module = linen.BatchNorm(use_running_average=False)
    theirs = state
    for step in range(5):
        x = 3 + 2 * normal(step, (8, 4, 5))
        y, state = nn.batch_norm(params, state, x, train=True)
        want, updated = module.apply(
            {"params": params, "batch_stats": theirs}, x, mutable=["batch_stats"]
        )
        theirs = updated["batch_stats"]
        assert relative_error(y, want) <= 1e-6
        assert_trees_close(state, dict(theirs), 1e-6)


def test_batch_norm_in_evaluation_leaves_its_moments_alone():
    params, state = nn.init_batch_norm(5)
    _, after = nn.batch_norm(params, state, jnp.ones((3, 5)), train=False)
    assert after is state


def test_batch_norm_over_a_mapped_axis_is_batch_norm_over_the_whole_batch():
    params, state = nn.init_batch_norm(5)
    x = normal(0, (8, 4, 5))

    def loss(params, x, **keywords):
        y, after = nn.batch_norm(params, state, x, train=True, **keywords)
        return jnp.sum(jnp.sin(y)), after

    (_, whole), want = jax.value_and_grad(loss, has_aux=True)(params, x)
    sharded = jax.vmap(
        lambda x: jax.grad(loss, has_aux=True)(params, x, axis_name="devices"),
        axis_name="devices",
    )
    gradients, moments = sharded(x.reshape(2, 4, 4, 5))
    assert_trees_close(jax.tree.map(lambda g: g.sum(0), gradients), want, 1e-5)
    assert_trees_close(jax.tree.map(lambda m: m[1], moments), whole, 1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_norms_do_not_cancel_at_an_offset(offset):
    x = np.random.default_rng(0).standard_normal((4, 64)) + offset
    x = x.astype(np.float32).astype(np.float64)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    got = nn.layer_norm({}, jnp.asarray(x, jnp.float32))
    # x itself is known to offset · 2⁻²⁴
    assert relative_error(got, want) <= 1e-6 * max(1, offset / 10)


def test_norms_without_scale_or_bias():
    x = normal(0, (3, 6))
    np.testing.assert_allclose(nn.layer_norm({}, x).mean(1), 0, atol=1e-6)
    params = nn.init_norm(6, bias=False)
    assert set(params) == {"scale"}
    np.testing.assert_allclose(nn.layer_norm({}, x), nn.layer_norm(params, x), rtol=1e-6)


def test_norm_of_a_constant_is_finite_with_finite_gradient():
    x = jnp.full((2, 4, 6), 3.0)
    for norm in (nn.layer_norm, nn.rms_norm, lambda p, x: nn.group_norm(p, x, groups=2, spatial=1)):
        y, pullback = jax.vjp(lambda x, norm=norm: norm({}, x), x)
        assert jnp.all(jnp.isfinite(y))
        assert jnp.all(jnp.isfinite(pullback(jnp.ones_like(y))[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, s, x: nn.batch_norm(p, s, x[..., :2], train=True), r"x must be \[..., 6\]"),
        (lambda p, s, x: nn.batch_norm(p, s, x[0, 0], train=True), "more than one value per"),
        (lambda p, s, x: nn.layer_norm(p, x[..., :2]), r"layer_norm: x must be \[..., 6\]"),
        (lambda p, s, x: nn.group_norm(p, x, groups=4), "groups must divide the 6 channels, got 4"),
        (lambda p, s, x: nn.group_norm(p, x[0, 0], groups=2), "group_norm: x must be"),
    ],
)
def test_bad_input_is_named(call, message):
    params, state = nn.init_batch_norm(6)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, params, state, jnp.zeros((2, 3, 6)))


def test_norms_refuse_what_they_cannot_normalize():
    params, state = nn.init_batch_norm(6)
    with pytest.raises(ValueError, match="more than one value per feature"):
        nn.batch_norm(params, state, jnp.zeros((0, 6)), train=True)
    with pytest.raises(TypeError, match="layer_norm: x must be of a real floating dtype, got comp"):
        nn.layer_norm({}, jnp.zeros((2, 6), jnp.complex64))
    with pytest.raises(ValueError, match="got a scalar"):
        nn.layer_norm({}, jnp.float32(1))


def test_batch_norms_moments_keep_their_dtype(x64):
    params, state = nn.init_batch_norm(3)
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state)
    _, after = nn.batch_norm(params, state, jnp.ones((4, 3)), train=True)
    assert {leaf.dtype for leaf in after.values()} == {np.dtype("float32")}


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    x = jnp.ones((200, 100))
    y = nn.dropout(x, 0.3, key=KEY)
    dropped = float(jnp.mean(y == 0))
    assert abs(dropped - 0.3) < 5 * np.sqrt(0.21 / x.size)
    np.testing.assert_allclose(jnp.unique(y), [0, 1 / 0.7], rtol=1e-6)


def test_dropout_without_a_key_or_a_rate_is_the_identity():
    x = normal(0, (3, 4))
    assert nn.dropout(x, 0.5) is x
    assert nn.dropout(x, 0.0, key=KEY) is x


def test_dropout_of_everything_is_zero_with_a_zero_gradient():
    for rate in (1.0, jnp.float32(1.0)):
        value, gradient = jax.value_and_grad(
            lambda x, rate=rate: jnp.sum(nn.dropout(x, rate, key=KEY))
        )(jnp.ones(5))
        assert value == 0
        np.testing.assert_array_equal(gradient, jnp.zeros(5))


def test_dropout_rates_can_be_swept_by_vmap():
    x, rates = jnp.ones(1000), jnp.array([0.1, 0.5, 0.9])
    swept = jax.vmap(lambda rate: nn.dropout(x, rate, key=KEY))(rates)
    for rate, y in zip(rates, swept, strict=True):
        np.testing.assert_allclose(y, nn.dropout(x, float(rate), key=KEY), rtol=1e-6)


def test_spatial_dropout_drops_whole_channels():
    y = nn.spatial_dropout(jnp.ones((8, 5, 4, 16)), 0.5, key=KEY)
    per_channel = np.asarray(y).reshape(8, 20, 16)
    assert np.all(per_channel == per_channel[:, :1])
    assert 0 < np.mean(per_channel == 0) < 1


def test_dropout_refuses_bad_rates_and_integers():
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        nn.dropout(jnp.ones(3), 1.5, key=KEY)
    for rate in (np.float32(1.5), jnp.float32(-1)):
        with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
            nn.dropout(jnp.ones(3), rate, key=KEY)
    with pytest.raises(ValueError, match="shared_axes must be axes of x"):
        nn.dropout(jnp.ones(3), 0.5, key=KEY, shared_axes=(9,))
    with pytest.raises(TypeError, match="dropout: x must be of a floating dtype"):
        nn.dropout(jnp.ones(3, jnp.int32), 0.5, key=KEY)
    with pytest.raises(ValueError, match="spatial_dropout: x must be"):
        nn.spatial_dropout(jnp.ones((3, 4)), 0.5, key=KEY)


def test_scan_layers_hands_each_layer_its_own_slice_and_stacks_aux():
    stacked = nn.init_stack(lambda k: nn.init_dense(k, 4, 4), KEY, 3)
    keys = jax.random.split(KEY, 3)
    x = jnp.ones((2, 4))

    def layer(params, x, key):
        y = nn.dropout(nn.dense(params, x), 0.5, key=key)
        return y, jnp.mean(y)

    y, means = nn.scan_layers(layer, stacked, x, keys, has_aux=True)
    want, want_means = x, []
    for index in range(3):
        params = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
        want, mean = layer(params, want, keys[index])
        want_means.append(mean)
    assert relative_error(y, want) <= 1e-6
    assert relative_error(means, jnp.stack(want_means)) <= 1e-6


def test_remat_stores_less():
    stacked = nn.init_stack(lambda k: nn.init_dense(k, 64, 64), KEY, 12)
    x = jnp.ones((256, 64))

    def layer(params, x):
        for _ in range(4):
            x = jnp.tanh(nn.dense(params, x))
        return x

    def memory(remat):
        def loss(stacked, x):
            return jnp.sum(nn.scan_layers(layer, stacked, x, remat=remat))

        compiled = jax.jit(jax.grad(loss)).lower(stacked, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(remat=True) < 0.6 * memory(remat=False)


def test_compile_time_does_not_grow_with_depth():
    def instructions(depth):
        stacked = nn.init_stack(lambda k: nn.init_dense(k, 8, 8), KEY, depth)
        scanned = jax.jit(lambda p, x: nn.scan_layers(nn.dense, p, x))
        return len(scanned.lower(stacked, jnp.ones((2, 8))).as_text().splitlines())

    assert instructions(40) == instructions(4)


def test_stacks_refuse_what_does_not_fit():
    stacked = nn.init_stack(lambda k: nn.init_dense(k, 4, 4), KEY, 3)
    with pytest.raises(ValueError, match="needs the same first axis"):
        nn.scan_layers(lambda p, x, k: x, stacked, jnp.ones(4), jax.random.split(KEY, 2))
    with pytest.raises(TypeError, match=r"float32\[4\].*float32\[2\]"):
        nn.scan_layers(lambda p, x: x[:2], stacked, jnp.ones(4))
    with pytest.raises(ValueError, match="depth must be positive"):
        nn.init_stack(lambda k: nn.init_dense(k, 4, 4), KEY, 0)
