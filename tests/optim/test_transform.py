from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.catalogue import optimizers


def _seeing(seen, signature):
    """A transformation that notes which extra arguments it was given."""
    updates = {
        "none": lambda updates, state, params=None: (updates, state),
        "value": lambda updates, state, params=None, *, value: (
            seen.append({"value": value}) or updates,
            state,
        ),
        "any": lambda updates, state, params=None, **extra: (seen.append(extra) or updates, state),
    }
    return optim.GradientTransformation(lambda params: (), updates[signature])


def test_extra_arguments_reach_those_that_take_them():
    seen = []
    optimizer = optim.chain(
        _seeing(seen, "none"), _seeing(seen, "value"), optim.adam(0.1), _seeing(seen, "any")
    )
    g = jnp.ones(2)
    optimizer.update(g, optimizer.init(g), g, value=3, grad=4)
    assert seen == [{"value": 3}, {"value": 3, "grad": 4}]


def test_transformations_of_optax_with_and_without_extra_arguments():
    g = jnp.ones(2)
    optimizer = optim.chain(optax.scale(2.0), optax.polyak_sgd(), optim.chain(optax.scale(1.0)))
    got, _ = optimizer.update(g, optimizer.init(g), g, value=1.0)
    want, _ = optax.polyak_sgd().update(2 * g, optax.polyak_sgd().init(g), g, value=1.0)
    np.testing.assert_array_equal(got, want)


def test_all_of_ours_take_extra_arguments():
    g = jnp.ones(2)
    for optimizer in (
        optim.identity(),
        optim.scale(2.0),
        optim.adam(lambda step: 0.1, b1=lambda step: 0.9),
        optim.adamw(0.1),
        optim.sgd(0.1, momentum=0.9),
        optim.adagrad(0.1),
        optim.rmsprop(0.1),
        optim.rmsprop(0.1, centered=True),
        optim.clip(1.0),
        optim.clip_by_global_norm(1.0),
    ):
        optimizer.update(g, optimizer.init(g), g, value=1.0, grad=g)


def test_empty_chain():
    optimizer = optim.chain()
    g = jnp.ones(2)
    assert optimizer.update(g, optimizer.init(g)) == (g, ())


@pytest.mark.parametrize("state", [(), (optim.EmptyState(),), optim.EmptyState(), {}])
def test_state_of_another_chain(state):
    optimizer = optim.chain(optim.scale(1.0), optim.scale(2.0))
    with pytest.raises(ValueError, match="2 transformations; the state must come from"):
        optimizer.update(jnp.ones(2), state)


def test_optimizer_is_not_applied_without_parentheses():
    with pytest.raises((TypeError, ValueError)):
        optim.chain(optim.adam)


def test_apply_updates():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": 1.0, "c": None, "d": jnp.ones(1)}
    updates = {"a": jnp.full(2, 0.5), "b": 2.0, "c": None, "d": None}
    got = optim.apply_updates(params, updates)
    assert got["a"].dtype == jnp.bfloat16
    assert got["c"] is None
    np.testing.assert_array_equal(np.float32(got["a"]), 1.5)
    np.testing.assert_array_equal(got["b"], 3.0)
    np.testing.assert_array_equal(got["d"], 1.0)


def test_apply_updates_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 2\) for a parameter of shape \(2,\)"):
        optim.apply_updates(jnp.ones(2), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"\(3,\) for a parameter .* at 'dense/kernel'"):
        optim.apply_updates({"dense": {"kernel": jnp.ones(2)}}, {"dense": {"kernel": jnp.ones(3)}})


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"a": {"c": 1.0}, "d": 1.0}, "in updates: missing 'a/b'; added 'a/c', 'd'$"),
        ({"a": {}}, "in updates: missing 'a/b'$"),
        ({"a": [1.0]}, "in updates: missing 'a/b'; added 'a/0'$"),
        ({"a": {"b": 1.0}, "d": None}, "in updates: added 'd'$"),
        ({"a": {"b": {"c": 1.0}}}, "a dict as the update of the parameter at 'a/b'$"),
        (OrderedDict(a={"b": 1.0}), r"missing '\(dict\)'; added '\(OrderedDict\)'$"),
    ],
)
def test_apply_updates_of_another_structure(updates, message):
    with pytest.raises(ValueError, match=f"^apply_updates: .*{message}"):
        optim.apply_updates({"a": {"b": jnp.ones(())}}, updates)


def test_count_saturates():
    optimizer = optim.adam(0.1)
    g = jnp.ones(())
    state = optimizer.init(g)
    last = jnp.iinfo(jnp.int32).max
    state = (state[0]._replace(count=jnp.int32(last)), *state[1:])
    updates, state = optimizer.update(g, state)
    assert state[0].count == last
    assert np.isfinite(updates)


def test_optax_tools_find_what_states_hold():
    state = optim.adam(optim.constant_schedule(0.1)).init(jnp.ones(2))
    np.testing.assert_array_equal(optax.tree_utils.tree_get(state, "mu"), 0)
    optimizer = optim.adamw(0.1, mask="kernel$")
    state = optimizer.init({"kernel": jnp.ones(2)})
    moved = optax.tree_utils.tree_map_params(optimizer, lambda x: x + 1, state)
    np.testing.assert_array_equal(moved[0].nu["kernel"], 1)
    assert moved[0].count == 0


def test_sharded_as_the_parameters():
    device = jax.devices()[0]
    params = jax.device_put(jnp.ones(4), jax.sharding.SingleDeviceSharding(device))
    assert optim.adam(0.1).init(params)[0].mu.sharding == params.sharding


@optimizers(beyond=pytest.mark.exhaustive)
def test_parameters_and_state_may_be_donated(case):
    """No buffer is in them twice; in Optax, many states hold the parameters themselves."""
    params = case.params(jnp.float32)
    leaves = jax.tree.leaves((params, case.ours().init(params)))
    buffers = [x.unsafe_buffer_pointer() for x in leaves if isinstance(x, jax.Array) and x.size]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize(
    "build",
    [
        optim.sgd,
        optim.sign_sgd,
        optim.fromage,
        optim.schedule_free_sgd,
        optim.dowg,
        optim.shampoo,
        optim.noisy_sgd,
    ],
)
def test_integer_parameters_are_refused(build):
    optimizer = build(0.1)
    params = {"a": {"n": jnp.arange(1, 4)}}
    g = {"a": {"n": jnp.ones(3)}}

    def step():
        updates, _ = optimizer.update(g, optimizer.init(params), params)
        optim.apply_updates(params, updates)

    with pytest.raises(ValueError, match=r"int32.* at 'a/n'"):
        step()
