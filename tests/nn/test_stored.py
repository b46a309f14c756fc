import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import nn
from jaxnets.nn.stored import stored_gradient
from tests.numerics import normal


def twice(x):
    return jnp.sum(jnp.sin(stored_gradient(2 * stored_gradient(x))))


def without(x):
    return jnp.sum(jnp.sin(2 * x))


@pytest.mark.parametrize(
    "transform",
    [jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.vmap(jax.grad(f)), jax.vmap, jax.checkpoint],
    ids=["grad", "jacfwd", "hessian", "vmap of grad", "vmap", "checkpoint"],
)
def test_it_is_the_identity_under_every_transform(transform):
    x = normal(0, (3, 4))
    got, want = jax.jit(transform(twice))(x), jax.jit(transform(without))(x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(transform(twice)(x), transform(without)(x))


def test_gradients_that_are_empty_not_finite_or_of_half_precision_pass():
    for x in (jnp.ones((0, 2)), jnp.asarray([jnp.nan, 1]), jnp.ones(3, jnp.bfloat16)):
        _, pull = jax.vjp(stored_gradient, x)
        np.testing.assert_array_equal(jax.jit(pull)(x)[0], x)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_arrays_split_over_devices(kind):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    x = jnp.arange(8.0).reshape(4, 2)
    split = jax.device_put(x, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(jax.jit(jax.grad(twice))(split), jax.grad(without)(x))
        local = jax.shard_map(jax.grad(twice), in_specs=P("data"), out_specs=P("data"))
        np.testing.assert_array_equal(jax.jit(local)(split), jax.grad(without)(x))


def test_the_program_of_a_residual_net_grows_in_proportion_to_its_depth():
    def size(depth):
        keys = jax.random.split(jax.random.key(0), depth)
        params = [{"norm": nn.init_norm(8), "dense": nn.init_dense(k, 8, 8)} for k in keys]

        def loss(params, x):
            for layer in params:
                x = stored_gradient(x)
                x = x + nn.dense(layer["dense"], nn.layer_norm(layer["norm"], x))
            return jnp.sum(x**2)

        compiled = jax.jit(jax.grad(loss)).lower(params, jnp.ones((2, 3, 8))).compile()
        return compiled.as_text().count(" = ")

    assert size(12) < 2.1 * size(6)
