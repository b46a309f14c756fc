"""How the tests compare numbers."""

import jax
import jax.numpy as jnp
import numpy as np


def _numbers(x):
    is_key = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def relative_error(got, want):
    """The largest difference over the largest magnitude of `want`, in float64."""
    got, want = (np.asarray(_numbers(x), np.float64) for x in (got, want))
    assert got.shape == want.shape, f"shapes {got.shape} and {want.shape}"
    if want.size == 0:
        return 0.0
    scale = np.abs(want).max()
    return float(np.abs(got - want).max() / (scale if scale > 0 else 1.0))


def assert_trees_close(got, want, rtol):
    """Each leaf within `rtol` of its largest magnitude; structures must agree."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        error = relative_error(a, b)
        assert error <= rtol, f"{jax.tree_util.keystr(path)}: relative error {error:.2e} > {rtol}"


def assert_trees_equal(got, want):
    """The same bits in each leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def normal(seed, shape, dtype=float, scale=1.0):
    """Drawn by NumPy: `jax.random.normal` would compile for every shape."""
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), dtype)


def integers(seed, below, shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape, np.int32))


def drawn(init, *arguments):
    """Random leaves of the shapes of `init(key, *arguments)`, of which nothing is compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init(key, *arguments), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
