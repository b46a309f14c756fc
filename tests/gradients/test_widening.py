"""What computes in narrow types computes in float64, and gives what it would have given there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets.gradients.widening import in_float64, narrowest

W = np.random.default_rng(0).normal(size=(3, 3))
IDS = np.array([0, 2, 2])


def _scan(w):
    return lax.scan(lambda h, x: (jnp.tanh(h @ w + x),) * 2, jnp.zeros(3, w.dtype), w)


def _while(w):
    return lax.while_loop(lambda h: jnp.sum(h) < 9, lambda h: h + w**2 / 3, w)


def _scattered(w):
    return jnp.zeros((4, 3), w.dtype).at[IDS].add(w).at[1].multiply(2).at[3].max(w[0])


def _conv(w):
    return lax.conv(w[None, None], w[None, None, :2, :2], (1, 1), "SAME")


def _dot(w):
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if w.dtype == jnp.bfloat16 else None
    out = jnp.promote_types(w.dtype, jnp.float32)
    return lax.dot(w, w, precision=precision, preferred_element_type=out)


FUNCTIONS = {
    "a scan": _scan,
    "a loop": _while,
    "a branch": lambda w: lax.cond(w[0, 0] > 0, jnp.sin, jnp.cos, w),
    "a platform": lambda w: lax.platform_dependent(w, cpu=jnp.sin, default=jnp.cos),
    "a checkpoint": lambda w: jax.checkpoint(jnp.sin)(w @ w),
    "rules": lambda w: jax.nn.relu(w) + jax.nn.softmax(w) + jax.nn.logsumexp(w),
    "rows": lambda w: w[IDS],
    "scattered": _scattered,
    "a pool": lambda w: lax.reduce_window(w, -np.inf, lax.max, (2, 2), (1, 1), "VALID"),
    "a fold": lambda w: lax.reduce(w, jnp.ones((), w.dtype), lambda a, b: a * b, (0,)),
    "a convolution": _conv,
    "a product": _dot,
    "sorted": lambda w: jnp.cumsum(jnp.sort(w, 0), 1),
    "counted": lambda w: w * jnp.arange(3, dtype=w.dtype)[None],
    "fewer digits": lambda w: lax.reduce_precision(w, 8, 3) if w.dtype != jnp.float64 else w,
    "solved": lambda w: jnp.linalg.det(w.astype(jnp.promote_types(w.dtype, jnp.float32))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_gives_what_float64_gives(name):
    function = FUNCTIONS[name]
    with jax.enable_x64(True):
        w = jnp.asarray(W)
        wide = in_float64(lambda w: function(w.astype(jnp.bfloat16)), w)
        assert wide is not None
        got, want = wide(w), function(w)
        program = jax.make_jaxpr(wide)(w).jaxpr
        assert narrowest(program, [True])[0] == jnp.finfo(jnp.float64).eps
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_complex_numbers_too():
    with jax.enable_x64(True):
        z = jnp.asarray(W + 1j)
        wide = in_float64(lambda z: jnp.exp(z.astype(jnp.complex64)), z)
        np.testing.assert_allclose(wide(z), jnp.exp(z), rtol=1e-12)


def test_what_takes_no_float64_keeps_its_type():
    def bits(w):
        return lax.bitcast_convert_type(w.astype(jnp.float32), jnp.int32), jnp.sin(w)

    with jax.enable_x64(True):
        got = in_float64(bits, jnp.asarray(W))(jnp.asarray(W))
    np.testing.assert_array_equal(got[0], W.astype(np.float32).view(np.int32))
    np.testing.assert_allclose(got[1], np.sin(W), rtol=1e-12)


def test_rules_are_kept_where_they_are_asked_for():
    @jax.custom_jvp
    def sin(x):
        return jnp.sin(x)

    sin.defjvp(lambda x, dx: (jnp.sin(*x), 7 * dx[0]))
    with jax.enable_x64(True):
        function = in_float64(lambda x: sin(x.astype(jnp.bfloat16)), 0.5, keep_rules=True)
        assert jax.grad(function)(0.5) == 7
        assert jax.grad(in_float64(lambda x: sin(x.astype(jnp.bfloat16)), 0.5))(0.5) == jnp.cos(0.5)


def test_a_call_without_operands_is_no_matter():
    program = jax.make_jaxpr(lambda x: x * jax.jit(lambda: jnp.ones(2))())(jnp.ones(2))
    assert narrowest(program.jaxpr, [True])[1] == [True]


def test_what_cannot_be_traced_is_nothing():
    assert in_float64(np.asarray, jnp.ones(3)) is None


def _with_a_rule(function):
    ruled = jax.custom_jvp(function)
    ruled.defjvp(lambda x, dx: jax.jvp(function, x, dx))
    return ruled


@pytest.mark.parametrize("place", ["plain", "jit", "branch", "rule"])
def test_the_narrowest_type_of_each_input(place):
    around = {
        "plain": lambda f: f,
        "jit": jax.jit,
        "branch": lambda f: lambda *x: lax.cond(jnp.all(x[0] > 0), f, f, *x),
        "rule": _with_a_rule,
    }[place]

    def function(a, b, c):
        # what is looked at, but leads to no slope, does not count
        found = jnp.sum(a.astype(jnp.float16) > 0)
        half = jnp.sin(b.astype(jnp.bfloat16)).astype(a.dtype)
        return a * found, half, c

    program = jax.make_jaxpr(around(function))(*[jnp.ones(3, jnp.float32)] * 3).jaxpr
    types = [jnp.float32, jnp.bfloat16, jnp.float32]
    for i, dtype in enumerate(types):
        reached = [i == j for j in range(3)]
        assert narrowest(program, reached) == (float(jnp.finfo(dtype).eps), reached)
