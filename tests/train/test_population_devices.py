"""Members spread over devices, in a process of its own that has two."""

import os
import subprocess
import sys

import jax
import pytest

from jaxnets import train

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jaxnets import losses, models, optim, train

net = models.MLPConfig(n_in=3, n_out=2, hidden=(8,))
x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
data = {"x": x, "y": (x[:, 0] > 0).astype(np.int32)}

def loss(params, batch):
    logits = models.mlp(params, net, batch["x"])
    return losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

def run(member, data):
    optimizer = optim.adam(member.hyper["learning_rate"])
    key = jax.random.key(member.seed)
    state = train.init_state(models.init_mlp(key, net), optimizer, key)
    return train.epoch(train.step(loss, optimizer), 8, order=jax.random.key(0))(state, data)[0]

grid = train.members([3, 4, 5], {"learning_rate": [1e-3, 0.1]})
program = jax.jit(train.population(run))
here, spread = program(grid, data), program(train.over_devices(grid), data)
for a, b in zip(jax.tree.leaves(here.params), jax.tree.leaves(spread.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert len(a.sharding.device_set) == 1
    assert len(b.sharding.device_set) == 2
    assert b.addressable_shards[0].data.shape[0] == 3
text = program.lower(train.over_devices(grid), data).compile().as_text()
talk = ("all-gather", "all-reduce", "collective-permute", "all-to-all")
print([word for word in talk if word in text] or "silent")
"""


def test_members_on_two_devices_are_those_on_one_and_do_not_talk():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "silent"


def test_devices_divide_the_members():
    device = jax.devices()[0]
    with pytest.raises(ValueError, match="multiple of the 0 devices, got 3"):
        train.over_devices(train.members(range(3)), [])
    placed = train.over_devices(train.members(range(3)), [device])
    assert placed.seed.tolist() == [0, 1, 2]
