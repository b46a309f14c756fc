"""Buffers instead of leaves."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim
from tests.catalogue import OPTIMIZERS, optimizers
from tests.numerics import assert_trees_close, assert_trees_equal
from tests.optim.trajectories import gradients, make_params, run

EACH_ELEMENT = {
    case.name: case
    for case in OPTIMIZERS
    if case.name
    in {"sgd nesterov", "adagrad", "rmsprop centered", "adam", "adam step decay", "adamw scheduled"}
}


@pytest.mark.parametrize("name", EACH_ELEMENT)
@pytest.mark.parametrize("largest", [None, 0, 10])
def test_as_on_leaves(name, largest, x64):
    params = make_params(jnp.float64)
    optimizer = EACH_ELEMENT[name].ours()
    got, _, updates = run(optim.flat(optimizer, largest=largest), params, steps=20)
    want, _, want_updates = run(optimizer, params, steps=20)
    assert_trees_close(got, want, 1e-13)
    assert_trees_close(updates, want_updates, 1e-13)


# the catalogue's rows that cannot be had in buffers, by what the error says; all others are taken
REFUSED = {
    "must treat each element on its own": [
        "clip by norm adamw", "novograd", "novograd decay", "lars", "lars decay masked",
        "lamb decay", "fromage decay", "fromage decay scheduled", "adafactor", "adafactor decay",
        "adafactor absolute", "sm3", "sm3 averaged", "polyak_sgd", "polyak_sgd from below",
        "small transformations", "clipped by unit, then by block", "clip_per_leaf",
        "scaled by norm and rms, positive decay", "sophia decay", "sophia unclipped", "muon",
        "soap decay", "shampoo grafted", "prodigy decay", "dog decay", "dowg",
        "scale_by_distance_over_gradients", "mechanize adamw", "sam", "MultiSteps sum every few",
        "apply_if_finite", "flatten", "dynamic_loss_scale", "monitor",
    ],
    "must treat all leaves alike": [
        "adamw masked", "nadamw decay", "adamaxw decay", "adan decay", "adadelta decay",
        "lion decay", "masked", "partition",
    ],
    "matches no leaf": [
        "masked by path", "partition by path", "freeze", "soap stacked", "shampoo",
    ],
    "must be a tree of the parameters' structure": ["muon of stacks"],
}  # fmt: skip
MESSAGES = {name: message for message, names in REFUSED.items() for name in names}


def steps(optimizer, case, params, how_many=2):
    moved, state = params, optimizer.init(params)
    for t in range(how_many):
        grads = gradients(params, t)
        updates, state = optimizer.update(grads, state, moved, **case.extra(moved, grads))
        moved = optim.apply_updates(moved, updates)
    return moved


@optimizers([case for case in OPTIMIZERS if case.name not in MESSAGES], pytest.mark.exhaustive)
def test_taken(case, x64):
    """What treats each element alike does as on leaves; noise is that of the buffer."""
    params = case.params(jnp.float64)
    got = steps(optim.flat(case.ours()), case, params)
    if "noisy" not in case.name:
        assert_trees_close(got, steps(case.ours(), case, params), 1e-12)
        return
    optimizer, moved = case.ours(), optim.pack(params)
    state = optimizer.init(moved.buffers)
    for t in range(2):
        grads = optim.pack(gradients(params, t))
        updates, state = optimizer.update(grads.buffers, state, moved.buffers)
        moved = optim.Packed(optim.apply_updates(moved.buffers, updates), moved.layout)
    assert_trees_close(got, optim.unpack(moved), 1e-12)


@pytest.mark.parametrize("name", MESSAGES)
def test_refused(name):
    """What looks beyond an element is an error when it is traced."""
    (case,) = (case for case in OPTIMIZERS if case.name == name)
    with pytest.raises(ValueError, match=MESSAGES[name]):
        jax.eval_shape(
            lambda params: steps(optim.flat(case.ours()), case, params, 1), case.params()
        )


@pytest.mark.parametrize("largest", [None, 10])
def test_kept_packed(largest, x64):
    """A loss of many leaves, whose gradient arrives packed."""
    params = make_params(jnp.float64)
    optimizer = optim.adamw(0.01, weight_decay=0.1)

    def loss(params, t):
        return sum(jnp.sum(jnp.sin(p + t) ** 3) for p in jax.tree.leaves(params))

    def train(params, optimizer, loss):
        def step(carry, t):
            params, state = carry
            grads = jax.grad(loss)(params, t)
            updates, state = optimizer.update(grads, state, params)
            return (optim.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(20.0))[0][0]

    packed = optim.pack(params, largest=largest)
    assert len(jax.tree.leaves(packed)) == (1 if largest is None else 3)
    assert_trees_equal(optim.unpack(packed), params)
    got = train(packed, optim.flat(optimizer), lambda packed, t: loss(optim.unpack(packed), t))
    assert isinstance(got, optim.Packed)
    assert_trees_close(optim.unpack(got), train(params, optimizer, loss), 1e-12)


def test_one_buffer_for_each_dtype_and_large_leaf():
    params = {
        "a": jnp.ones((2, 3)),
        "b": [jnp.ones(()), jnp.ones((0,)), jnp.ones(4, jnp.bfloat16)],
        "c": jnp.ones((4, 4)),
    }
    state = optim.flat(optim.adam(0.1), largest=10).init(params)
    assert jax.tree.map(jnp.shape, state.inner_state[0].mu) == {
        "float32": (7,),
        "bfloat16": (4,),
        "c": (4, 4),
    }


def test_mixed_dtypes():
    params = {"a": jnp.ones(3), "b": jnp.full(2, 2, jnp.bfloat16)}
    grads = {"a": jnp.full(3, 0.1, jnp.bfloat16), "b": jnp.full(2, -0.1)}
    optimizer = optim.adamw(0.1, weight_decay=0.1)
    flat = optim.flat(optimizer)
    got, _ = flat.update(grads, flat.init(params), params)
    want, _ = optimizer.update(grads, optimizer.init(params), params)
    assert_trees_equal(got, want)
    assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, want)


def test_groups_carry_path_rules():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = optim.adamw(0.1, weight_decay=0.5, mask="kernel$")
    flat = optim.flat(optimizer, groups={"kernel$": "kernel", ".*": "rest"})
    got = run(flat, params | {"still": jnp.ones(2)}, steps=3)[0]
    want = run(optimizer, params | {"still": jnp.ones(2)}, steps=3)[0]
    assert_trees_close(got, want, 1e-6)
    with pytest.raises(ValueError, match="no rule covers leaf 'bias'"):
        optim.flat(optimizer, groups={"kernel$": "kernel"}).init(params)
    with pytest.raises(ValueError, match=r"'kernel\$' matches no leaf"):
        optim.flat(optimizer).init(params)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: optim.clip_by_global_norm(1.0),
        lambda: optim.chain(optim.adam(0.1), optim.clip_by_global_norm(1.0)),
        lambda: optim.GradientTransformation(
            lambda params: (), lambda u, s, p=None: (jax.tree.map(jnp.sort, u), s)
        ),
        lambda: optim.GradientTransformation(
            lambda params: (), lambda u, s, p=None: (jax.tree.map(lambda x: x - x.mean(), u), s)
        ),
    ],
)
def test_what_mixes_elements_is_refused(inner):
    params = make_params()
    optimizer = optim.flat(inner())
    with pytest.raises(ValueError, match="each element on its own, got one that uses"):
        optimizer.update(params, optimizer.init(params), params)


def test_other_leaves_are_refused():
    params = make_params()
    optimizer = optim.flat(optim.adam(0.1))
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="missing 'still'; what has"):
        optimizer.update(params | {"still": None}, state, params)
    with pytest.raises(ValueError, match="added 'more'; what has"):
        optimizer.update(params | {"more": jnp.ones(1)}, state, params)
    with pytest.raises(ValueError, match=r"got \(3,\) for \(4,\) at 'tiny'"):
        optimizer.update(params | {"tiny": jnp.ones(3)}, state, params)
    with pytest.raises(ValueError, match="packed otherwise"):
        optimizer.update(optim.pack(params, largest=3), state, params)
    with pytest.raises(ValueError, match="largest must be >= 0"):
        optim.pack(params, largest=-1)


SPLIT = """
import jax, jax.numpy as jnp
from jaxnets import optim

mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
def put(x, *axes):
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P(*axes)))
flat = optim.flat(optim.adam(0.1))
flat.init({"w": put(jnp.ones(4))})
try:
    flat.init({"w": put(jnp.ones(4), "data")})
except ValueError as error:
    print(error)
"""


def test_split_parameters_are_refused():
    """In a process of its own, with two devices; copies on both are taken."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", SPLIT], env=os.environ | flags, capture_output=True, text=True
    )
    assert "'w' is split over 2 devices" in out.stdout, out.stderr


def test_crosses_jit_and_is_hashable():
    params = make_params()
    optimizer = optim.flat(optim.adam(0.1))
    assert optimizer == optim.flat(optim.adam(0.1))
    assert hash(optimizer) == hash(optim.flat(optim.adam(0.1)))
    state = jax.jit(optimizer.init)(params)
    updates, after = jax.jit(optimizer.update)(gradients(params, 0), state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_sweeps_by_vmap():
    params = make_params()

    def moved(rate):
        optimizer = optim.flat(optim.adam(rate))
        return optimizer.update(gradients(params, 0), optimizer.init(params), params)[0]

    swept = jax.vmap(moved)(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(swept["tiny"][1], 2 * swept["tiny"][0], rtol=1e-6)
    assert_trees_close(jax.tree.map(lambda x: x[0], swept), moved(0.1), 1e-6)
