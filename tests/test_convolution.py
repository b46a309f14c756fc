"""Convolutions that are found in a traced program and computed with other derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets.convolution import convolve, geometry_of

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
