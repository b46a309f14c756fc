import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import nn
from tests.numerics import assert_trees_close, normal, relative_error

KEY = jax.random.key(0)


def reference_conv(x, kernel, bias, stride, dilation):
    """Direct sums in float64: `x [H, W, in]`, `"VALID"`."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    kh, kw, _, n_out = kernel.shape
    height = (x.shape[0] - (kh - 1) * dilation - 1) // stride + 1
    width = (x.shape[1] - (kw - 1) * dilation - 1) // stride + 1
    y = np.zeros((height, width, n_out))
    for r in range(height):
        for c in range(width):
            for i in range(kh):
                for j in range(kw):
                    pixel = x[r * stride + i * dilation, c * stride + j * dilation]
                    y[r, c] += pixel @ kernel[i, j]
    return y + np.asarray(bias, np.float64)


def test_conv_is_the_sum_it_says():
    params = nn.init_conv(KEY, (3, 2), 2, 4)
    params["bias"] = jnp.arange(4.0)
    x = normal(0, (9, 8, 2))
    want = reference_conv(x, params["kernel"], params["bias"], stride=2, dilation=2)
    got = nn.conv(params, x, stride=2, dilation=2, padding="VALID")
    assert relative_error(got, want) <= 1e-6


def test_causal_convolution_does_not_see_the_future():
    params = nn.init_conv(KEY, (3,), 1, 1)
    x = normal(0, (8, 1))
    jacobian = jax.jacobian(lambda x: nn.conv(params, x, padding="CAUSAL", dilation=2))(x)
    dependence = jnp.abs(jacobian[:, 0, :, 0])
    assert not jnp.any(jnp.triu(dependence, 1))
    assert jnp.all(jnp.diagonal(dependence) > 0)


def test_gradients_inside_scan_are_those_outside():
    params = nn.init_conv(KEY, (3, 3), 4, 4)
    x = normal(0, (2, 8, 8, 4))

    def loss(params, x):
        return jnp.sum(jnp.square(nn.conv(params, x)))

    outside = jax.jit(jax.grad(loss))(params, x)

    def body(total, x):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    inside, _ = jax.jit(lambda xs: jax.lax.scan(body, zeros, xs))(x[None])
    assert_trees_close(inside, outside, 1e-6)


def convolution_layouts(hlo):
    return [
        line.split("dim_labels=")[1].split(",")[0]
        for line in hlo.splitlines()
        if "dim_labels=" in line
    ]


def test_the_backward_pass_is_made_of_canonical_convolutions():
    """XLA's CPU backend runs other layouts tens of times slower inside a loop."""
    params = nn.init_conv(KEY, (3, 3), 4, 8)
    x = jnp.ones((2, 8, 8, 4))

    def loss(params, x):
        return jnp.sum(jnp.square(nn.conv(params, x)))

    text = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).as_text("hlo")
    layouts = convolution_layouts(text)
    assert len(layouts) == 3
    assert set(layouts) == {"b01f_01io->b01f"}


def test_depthwise_is_one_filter_per_channel():
    params = nn.init_conv(KEY, (3, 3), 3, 3, groups=3)
    assert params["kernel"].shape == (3, 3, 1, 3)
    x = normal(0, (6, 6, 3))
    jacobian = jax.jacobian(lambda x: nn.conv(params, x, groups=3))(x)
    across = jnp.abs(jacobian).sum((0, 1, 3, 4))
    assert jnp.all((across > 0) == jnp.eye(3, dtype=bool))


def test_max_pool_gradient_at_ties_goes_to_the_first_as_in_linen():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 8, 8, 3)), jnp.float32)
    weights = normal(0, (2, 4, 4, 3))
    ours = jax.grad(lambda x: jnp.sum(weights * nn.max_pool(x, 2, 2)))(x)
    theirs = jax.grad(lambda x: jnp.sum(weights * linen.max_pool(x, (2, 2), (2, 2))))(x)
    np.testing.assert_array_equal(ours, theirs)


def test_max_pool_of_integers_and_of_infinities():
    x = jnp.array([[3], [-7], [5], [5]], jnp.int32)
    np.testing.assert_array_equal(nn.max_pool(x, (2,), 2), [[3], [5]])
    x = jnp.full((4, 1), -jnp.inf)
    np.testing.assert_array_equal(nn.max_pool(x, (2,), 2, "SAME"), jnp.full((2, 1), -jnp.inf))


def test_pooling_propagates_nan():
    x = jnp.zeros((4, 4, 1)).at[1, 1].set(jnp.nan)
    assert jnp.isnan(nn.max_pool(x, 2, 2)[0, 0, 0])
    assert jnp.isnan(nn.avg_pool(x, 2, 2)[0, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: nn.conv(p, x[..., :1]), r"conv: x must be \[..., space, space, 2\]"),
        (lambda p, x: nn.conv(p, x[0, 0]), r"conv: x must be"),
        (lambda p, x: nn.conv(p, x, padding="REFLECT"), r"padding must be 'SAME'.*'REFLECT'"),
        (lambda p, x: nn.conv(p, x, stride=0), "stride must be a positive integer or 2 of them"),
        (lambda p, x: nn.conv(p, x, stride=(1, 2, 3)), "stride must be a positive integer or 2"),
        (lambda p, x: nn.conv(p, x, dilation=-1), "dilation must be a positive integer"),
        (lambda p, x: nn.conv(p, x, groups=3), "groups must divide the 4 output channels, got 3"),
        (lambda p, x: nn.conv(p, x, groups=0), "groups must divide the 4 output channels, got 0"),
        (lambda p, x: nn.conv(p, x, padding=((1, 2, 3), (1, 1))), "padding must be"),
        (lambda p, x: nn.conv(p, x, padding=(1.5, 1)), "padding must be"),
        (lambda p, x: nn.conv(p, x, stride=1.5), "stride must be a positive integer"),
        (lambda p, x: nn.max_pool(x, 2, 2, 2), "nor as large as the window"),
        (lambda p, x: nn.conv(p, x, groups=2), r"x must be \[..., space, space, 4\]"),
        (lambda p, x: nn.conv(p, x, padding=((1, 1),)), "padding must be"),
        (lambda p, x: nn.conv_transpose(p, x, padding="CAUSAL"), "conv_transpose: padding must be"),
        (lambda p, x: nn.max_pool(x, 9, 9), r"window \(9, 9\) is larger than x's space \(6, 6\)"),
        (lambda p, x: nn.max_pool(x[0, 0], 2, 2), "max_pool: x must be"),
        (lambda p, x: nn.max_pool(x, 2, 2, -1), "padding must not be negative"),
        (lambda p, x: nn.avg_pool(x, 0, 2), "window must be a positive integer"),
        (lambda p, x: nn.global_avg_pool(x[0, 0]), "global_avg_pool: x must be"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    params, x = nn.init_conv(KEY, (3, 3), 2, 4), jnp.zeros((1, 6, 6, 2))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, params, x)


def test_numpy_integers_are_integers():
    params, x = nn.init_conv(KEY, (3, 3), 2, 4), jnp.zeros((1, 6, 6, 2))
    assert nn.conv(params, x, stride=np.int64(2)).shape == (1, 3, 3, 4)


def test_bad_construction_is_named():
    with pytest.raises(ValueError, match="window must be 1 to 3 positive integers, got 3"):
        nn.init_conv(KEY, 3, 2, 4)
    with pytest.raises(ValueError, match="window must be 1 to 3 positive integers"):
        nn.init_conv(KEY, (3, 0), 2, 4)
    with pytest.raises(ValueError, match="groups must divide n_in 3 and n_out 4, got 2"):
        nn.init_conv(KEY, (3, 3), 3, 4, groups=2)


def test_integer_images_are_refused():
    params = nn.init_conv(KEY, (3, 3), 2, 4)
    with pytest.raises(TypeError, match="conv: x must be of a floating dtype, got uint8"):
        nn.conv(params, jnp.zeros((6, 6, 2), jnp.uint8))
    with pytest.raises(TypeError, match="avg_pool: x must be of a floating dtype"):
        nn.avg_pool(jnp.zeros((6, 6, 2), jnp.uint8), 2, 2)
    with pytest.raises(TypeError, match="global_avg_pool: x must be of a floating dtype"):
        nn.global_avg_pool(jnp.zeros((6, 6, 2), jnp.uint8))
    with pytest.raises(TypeError, match="max_pool: x must be of a real floating dtype, got bool"):
        nn.max_pool(jnp.zeros((6, 6, 2), bool), 2, 2)
