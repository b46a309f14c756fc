"""Convolutions that are found in a traced program and computed with other derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets.convolution import Geometry, convolve, geometry_of

NHWC = ("NHWC", "HWIO", "NHWC")


def drawn(groups=1, dtype=jnp.float64):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4), dtype)
    return x, jax.random.normal(jax.random.key(1), (3, 2, 4 // groups, 6), dtype)


def equation_of(x, kernel, *, numbers=NHWC, stride=(1, 1), padding="SAME", **options):
    def conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, stride, padding, dimension_numbers=numbers, **options
        )

    (equation,) = jax.make_jaxpr(conv)(x, kernel).jaxpr.eqns
    return conv, equation


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {"stride": (2, 1), "padding": [(1, 0), (2, 3)]}),
        (2, {"rhs_dilation": (2, 1), "feature_group_count": 2}),
    ],
)
def test_the_same_with_the_same_derivatives(groups, options, x64):
    x, kernel = drawn(groups)
    conv, equation = equation_of(x, kernel, **options)
    geometry = geometry_of(equation)
    error = jax.random.normal(jax.random.key(2), jax.eval_shape(conv, x, kernel).shape, x.dtype)
    for ours, theirs in zip(
        *(
            jax.jit(lambda x, kernel, f=f: jax.vjp(f, x, kernel)[1](error))(x, kernel)
            for f in (lambda x, kernel: convolve(x, kernel, geometry), conv)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


DEPTHWISE = [
    Geometry((1, 1), ((1, 1), (0, 1)), (1, 1), 4),
    Geometry((2, 3), ((1, 1), (0, 0)), (1, 1), 4),
    Geometry((1, 2), ((3, 0), (0, 4)), (2, 3), 4),
    Geometry((2, 2), ((-1, 2), (3, -2)), (1, 1), 4),
]


@pytest.fixture(params=DEPTHWISE, ids=str)
def depthwise(request, x64):
    """`(ours, what lax computes, x, kernel)`"""
    geometry = request.param
    x = jax.random.normal(jax.random.key(0), (2, 8, 9, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 2, 1, 4))

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, geometry.stride, geometry.padding, rhs_dilation=geometry.dilation,
            dimension_numbers=NHWC, feature_group_count=geometry.groups,
        )  # fmt: skip

    return (lambda x, kernel: convolve(x, kernel, geometry)), plain, x, kernel


def test_depthwise_ones_are_sums_over_the_window_on_cpus(depthwise):
    ours, _, x, kernel = depthwise
    compiled = jax.jit(ours).lower(x, kernel).compile().as_text()
    assert ("convolution(" in compiled) == (jax.default_backend() != "cpu")


def test_depthwise_ones_have_all_derivatives(depthwise):
    ours, plain, x, kernel = depthwise
    arguments = x, kernel
    moved = tuple(jax.random.normal(jax.random.key(2), v.shape) for v in arguments)
    error = jax.random.normal(jax.random.key(3), jax.eval_shape(plain, x, kernel).shape)

    def derivatives(f):
        by_both = jax.grad(lambda x, kernel: jnp.sum(jnp.tanh(f(x, kernel)) * error), (0, 1))
        return (
            f(x, kernel),
            by_both(x, kernel),
            jax.jvp(f, arguments, moved),
            jax.jvp(by_both, arguments, moved)[1],
            jax.vmap(f, (0, None))(x[:, None], kernel),
            jax.vmap(by_both, (None, 0))(x, jnp.stack([kernel, moved[1]])),
        )

    both = [jax.tree.leaves(jax.jit(lambda f=f: derivatives(f))()) for f in (ours, plain)]
    for got, expected in zip(*both, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def test_the_way_back_keeps_images_and_kernels_alone(depthwise):
    ours, _, x, kernel = depthwise
    kept = jax.make_jaxpr(lambda x, kernel: jax.vjp(ours, x, kernel)[1])(x, kernel).jaxpr.outvars
    images = [v.aval.shape for v in kept if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    assert sorted(images) == sorted([x.shape, kernel.shape])


def test_a_depthwise_window_longer_than_the_image_has_no_result():
    y = convolve(jnp.ones((1, 2, 4)), jnp.ones((3, 1, 4)), Geometry((1,), ((0, 0),), (1,), 4))
    assert y.shape == (1, 0, 4)


def test_depthwise_integers_stay_integers():
    x = jnp.full((1, 3, 2), 2**24 + 1)
    y = convolve(x, jnp.ones((1, 1, 2), x.dtype), Geometry((1,), ((0, 0),), (1,), 2))
    np.testing.assert_array_equal(y, x)


def test_narrow_depthwise_sums_are_in_float32():
    x = jnp.ones((1, 8, 8, 2), jnp.bfloat16)
    kernel = jnp.full((8, 8, 1, 2), 1.0, jnp.bfloat16).at[0, 0].set(256.0)
    y = convolve(x, kernel, Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), 2))
    # in bfloat16 256 + 1 is 256
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), 320.0)


@pytest.mark.parametrize(
    "options",
    [
        {"numbers": ("NWHC", "HWIO", "NWHC")},
        {"lhs_dilation": (2, 2), "padding": [(0, 0), (0, 0)]},
        {"precision": "highest"},
        {"preferred_element_type": jnp.float64},
        {"feature_group_count": 2, "batch_group_count": 1, "numbers": ("NHWC", "HWIO", "NCHW")},
    ],
)
def test_others_stay_as_they_are(options, x64):
    x, kernel = drawn(options.get("feature_group_count", 1), jnp.float32)
    _, equation = equation_of(x, kernel, **options)
    assert geometry_of(equation) is None


def test_other_equations_are_none():
    (equation,) = jax.make_jaxpr(jnp.add)(1.0, 2.0).jaxpr.eqns
    assert geometry_of(equation) is None
