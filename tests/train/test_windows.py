"""Windows of a sequence, and steps on drawn batches, which are the same however they are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim, train
from tests.numerics import assert_trees_close


def test_windows_are_slices_and_those_too_near_the_end_are_moved_back():
    sequence = jnp.arange(20).reshape(10, 2)
    got = train.windows(sequence, jnp.array([[0, 3], [7, 9]]), 3)
    want = np.stack([sequence[i : i + 3] for i in (0, 3, 7, 7)]).reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(got, want)


def test_starts_of_one_byte_and_sequences_of_numpy():
    got = train.windows(np.arange(400), np.array([200], np.uint8), 100)
    np.testing.assert_array_equal(got, np.arange(200, 300)[None])


def test_every_window_is_as_likely_as_another():
    got = train.random_windows(jax.random.key(0), jnp.arange(10), 4, 7000)
    np.testing.assert_array_equal(got - got[:, :1], np.tile(np.arange(4), (7000, 1)))
    counts = np.bincount(got[:, 0], minlength=7)
    assert len(counts) == 7
    # within four deviations
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_a_sequence_of_just_one_window_is_that_window():
    got = train.random_windows(jax.random.key(0), jnp.arange(4), 4, 2)
    np.testing.assert_array_equal(got, np.tile(np.arange(4), (2, 1)))


@pytest.mark.parametrize("length", [0, 5])
def test_a_window_that_does_not_fit_is_refused(length):
    message = f"windows: length must be from 1 to 4, got {length}"
    with pytest.raises(ValueError, match=message):
        train.windows(jnp.arange(4), jnp.zeros(1, int), length)
    with pytest.raises(ValueError, match=message):
        train.random_windows(jax.random.key(0), jnp.arange(4), length, 1)


def _parts():
    def loss(params, batch):
        return jnp.mean((batch - params) ** 2)

    optimizer = optim.sgd(0.1)
    state = train.init_state(jnp.zeros(()), optimizer, jax.random.key(3))
    return train.step(loss, optimizer), state


def _draw(key, data):
    return train.random_windows(key, data, 2, 5)


def test_chunks_are_one_long_run_wherever_they_are_cut():
    step, state = _parts()
    data = jnp.linspace(0.0, 1.0, 50)
    whole, metrics = jax.jit(train.drawn(step, _draw, 7))(state, data)
    first, before = jax.jit(train.drawn(step, _draw, 3))(state, data)
    second, after = jax.jit(train.drawn(step, _draw, 4))(first, data)
    np.testing.assert_array_equal(metrics["loss"], np.concatenate([before["loss"], after["loss"]]))
    assert len(set(metrics["loss"].tolist())) == 7
    assert int(second.step) == 7
    assert_trees_close(second.params, whole.params, 0)


def test_a_chunk_is_steps_on_what_is_drawn():
    """The same by a loop, and what `on_step` sees of it."""
    step, state = _parts()
    data, losses, seen = jnp.linspace(0.0, 1.0, 50), [], []

    def see(state, metrics):
        jax.debug.callback(lambda *values: seen.append(values), state.step, metrics["loss"])

    end, metrics = jax.jit(train.drawn(step, _draw, 3, on_step=see))(state, data)
    jax.effects_barrier()
    for number in range(3):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), number)
        state, one = step(state, _draw(key, data))
        losses.append(float(one["loss"]))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    assert_trees_close(end.params, state.params, 1e-6)
    assert sorted(int(number) for number, _ in seen) == [1, 2, 3]


def test_a_chunk_has_a_step():
    with pytest.raises(ValueError, match="drawn: steps must be at least 1, got 0"):
        train.drawn(lambda state, batch: (state, {}), _draw, 0)
