"""Batches that are split over devices, in a process of its own that has four."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding
from jaxnets import gradients, nn

P = jax.P
keys = jax.random.split(jax.random.key(0), 4)
params = {
    "embedding": jax.random.normal(keys[0], (7, 6)),
    "conv": nn.init_conv(keys[1], (3,), 6, 6),
    "layers": jax.random.normal(keys[2], (4, 6, 6)) / 3,
}
x = jax.random.randint(keys[3], (8, 5), 0, 7)

def loss(params, x):
    h = nn.conv(params["conv"], params["embedding"][x])
    h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, params["layers"])
    return jnp.sum(h**2)

factors = lambda *given: gradients.per_example_grad(loss)(*given)[1]
tools = {
    "norms": (gradients.per_example_norms(loss), P("data")),
    "clipped": (lambda *given: gradients.clipped_grad(loss, 1.0)(*given)[0], P()),
    "whole": (lambda *given: gradients.materialize(factors(*given)), P("data")),
    "gram": (lambda *given: gradients.gram(factors(*given)), P()),
}
wants = {name: jax.jit(f)(params, x) for name, (f, _) in tools.items()}

def mesh_of(kind):
    return jax.make_mesh((4,), ("data",), axis_types=(kind,))

def same(name, got):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wants[name]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4 * np.abs(b).max())

def says(f, *given):
    try:
        jax.jit(f)(*given)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")
"""

WAYS = (
    """
mesh = mesh_of(AxisType.Auto)
split = jax.device_put(x, NamedSharding(mesh, P("data")))
for name, (f, _) in tools.items():
    same(name, jax.jit(f)(params, split))
""",
    """
mesh = mesh_of(AxisType.Explicit)
with jax.set_mesh(mesh):
    given = jax.device_put((params, x), (NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))))
    for name, (f, out) in tools.items():
        same(name, jax.jit(jax.sharding.auto_axes(f, out_sharding=out))(*given))
    assert "auto_axes" in says(tools["norms"][0], *given)
""",
    """
mesh = mesh_of(AxisType.Auto)
def mapped(f, out, **options):
    def local(*given):
        got = f(*given)
        return got if out == P("data") else jax.lax.pmean(got, "data")
    return jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data")), out_specs=out, **options
    )
for name, (f, out) in tools.items():
    if name != "gram":  # of the device's own examples
        same(name, jax.jit(mapped(f, out, check_vma=False))(params, x))
assert "check_vma=False" in says(mapped(*tools["norms"]), params, x)
""",
)


@pytest.mark.thorough
def test_split_batches():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", "".join([PROGRAM, *WAYS, 'print("done")'])],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert out.stdout.strip().endswith("done"), out.stderr[-3000:]
