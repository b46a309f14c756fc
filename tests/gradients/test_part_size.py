"""Batches in parts of a size that is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients
from jaxnets.gradients import part_size as of_parts
from jaxnets.gradients.per_example import tracer

FEATURES = 8
KEPT = 4 * 2 * FEATURES
"""Bytes for each example: an input and an error signal of the layer."""
PARAMETERS = 4 * FEATURES * FEATURES


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["kernel"]) ** 2)


def checkpointed(params, x):
    return jax.checkpoint(loss)(params, x)


def drawn(examples):
    key = jax.random.key(0)
    params = {"kernel": jax.random.normal(key, (FEATURES, FEATURES))}
    return params, jax.random.normal(key, (examples, FEATURES))


def chosen(loss, examples):
    params, x = drawn(examples)
    return of_parts.part_size(tracer(loss, has_aux=False, keep_batch_dim=False)(params, (x,)))


@pytest.fixture
def room_for(monkeypatch):
    def set_room(examples):
        monkeypatch.setattr(of_parts, "PASSES", 1)
        monkeypatch.setattr(of_parts, "CACHE", examples * KEPT - PARAMETERS)

    return set_room


@pytest.mark.parametrize(
    ("examples", "room", "size"),
    [
        (24, 24, 24),  # all of it
        (24, 11, 8),  # the largest divisor
        (26, 11, 9),  # 9, 9 and 8: its largest divisor, 2, would be too small
        (7, 3, 3),
        (4, 0, 1),  # one at least
    ],
)
def test_as_many_as_fit(examples, room, size, room_for):
    room_for(room)
    assert chosen(loss, examples) == size


def test_large_parameters_want_large_parts(room_for, monkeypatch):
    room_for(3)
    monkeypatch.setattr(of_parts, "PASSES", 1 + 3 * KEPT / PARAMETERS)
    assert chosen(loss, 24) == 6


def test_nothing_is_kept_under_checkpoint(room_for):
    room_for(1)
    assert chosen(loss, 8) == 1
    assert chosen(checkpointed, 8) == 8


def test_accelerators_take_all(room_for, monkeypatch):
    room_for(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(loss, 8) == 8


@pytest.mark.parametrize("room", [3, 7])
def test_the_sum_is_that_of_the_whole(room, room_for):
    params, x = drawn(7)
    mask = jnp.arange(7) != 2
    whole = gradients.clipped_grad(loss, 1.0)(params, x, mask=mask)
    room_for(room)
    parts = gradients.clipped_grad(loss, 1.0, microbatch_size="auto")
    loops = str(jax.make_jaxpr(parts)(params, x, mask=mask)).count("scan[")
    assert loops == (1 if room < 7 else 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        parts(params, x, mask=mask),
        whole,
    )
