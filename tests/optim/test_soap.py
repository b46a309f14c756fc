"""SOAP against the authors' program, the equations in NumPy, and its symmetries."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close
from tests.optim.values.make_soap import RUNS, STEPS, start

VALUES = json.loads((Path(__file__).parent / "values" / "soap.json").read_text())


def final(optimizer, params, steps=STEPS):
    """After steps along gradients that do not depend on the moved parameters."""
    first = params

    def step(t, carry):
        moved, state = carry
        grads = jax.tree.map(lambda x: jnp.sin(3 + 7 * x + 0.7 * t) + 0.3 * x, first)
        updates, state = optimizer.update(grads, state, moved)
        return optim.apply_updates(moved, updates), state

    carry = (params, optimizer.init(params))
    return jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))(carry)[0]


@pytest.mark.parametrize("name", RUNS)
def test_the_authors_program(name, x64):
    optimizer = optim.soap(0.1, weight_decay=0.0, **RUNS[name])
    got = final(optimizer, jax.tree.map(jnp.asarray, start()))
    want = {name: np.asarray(values) for name, values in VALUES[name].items()}
    assert_trees_close(got, want, 1e-9)
