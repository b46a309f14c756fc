"""One leaf after the other: the same results, and each leaf's kernels wait for the one before."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim
from jaxnets.optim.in_turn import SMALL
from tests.numerics import assert_trees_close, assert_trees_equal

BIG = (SMALL // 64, 64)

OPTIMIZERS = {
    "sgd": lambda: optim.sgd(0.1),
    "adamw": lambda: optim.adamw(optim.cosine_decay_schedule(0.1, 10), weight_decay=0.1),
    "clipped": lambda: optim.chain(optim.clip_by_global_norm(1e-3), optim.adam(0.1)),
    "lamb": lambda: optim.lamb(0.1),
    "accumulated": lambda: optim.MultiSteps(optim.adam(0.1), 2),
    "frozen": lambda: optim.freeze("^b", optim.adam(0.1)),
    "apply_if_finite": lambda: optim.apply_if_finite(optim.adam(0.1), 3),
    "polyak_sgd": optim.polyak_sgd,
}


def leaves(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 5)
    return {
        "a": jax.random.normal(keys[0], BIG, dtype),
        "b": jax.random.normal(keys[1], BIG, dtype),
        "few": jax.random.normal(keys[2], (3,), dtype),
        "none": jnp.zeros((0, 4), dtype),
        "z": jax.random.normal(keys[4], BIG, dtype),
    }


def both(optimizer, params, grads, extra):
    def at_once(state, params):
        updates, state = optimizer.update(grads, state, params, **extra)
        return optim.apply_updates(params, updates), state

    def in_turn(state, params):
        return optim.step_in_turn(optimizer, grads, state, params, **extra)

    return at_once, in_turn


def after(step, optimizer, params, steps=3):
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(state, params)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_results(name):
    optimizer, params = OPTIMIZERS[name](), leaves(0)
    extra = {"value": 1.0} if name == "polyak_sgd" else {}
    steps = both(optimizer, params, leaves(1), extra)
    want, got = (after(jax.jit(step), optimizer, params) for step in steps)
    assert_trees_close(got, want, 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64, jnp.complex64])
def test_dtypes(dtype, x64):
    optimizer, params = optim.adam(0.1), leaves(0, dtype)
    steps = both(optimizer, params, leaves(1, dtype), {})
    want, got = (after(jax.jit(step), optimizer, params) for step in steps)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, want)
    for part in (jnp.real, jnp.imag):
        assert_trees_close(*(jax.tree.map(part, tree) for tree in (got, want)), 1e-6)


def test_nan_and_negative_zero_pass_through():
    optimizer = optim.sgd(1.0)
    params = {"a": jnp.full(BIG, jnp.nan), "b": jnp.full(BIG, -0.0), "c": jnp.full(BIG, jnp.inf)}
    grads = jax.tree.map(jnp.zeros_like, params)
    at_once, in_turn = both(optimizer, params, grads, {})
    got, want = (jax.jit(step)(optimizer.init(params), params)[0] for step in (in_turn, at_once))
    assert_trees_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got["b"]), np.signbit(want["b"]))


def test_packed(x64):
    optimizer, params = optim.flat(optim.adamw(0.1)), leaves(0, jnp.float64)
    pack = lambda leaves: optim.pack(leaves, full=SMALL)  # noqa: E731
    _, in_turn = both(optimizer, pack(params), pack(leaves(1, jnp.float64)), {})
    at_once, _ = both(optim.adamw(0.1), params, leaves(1, jnp.float64), {})
    got, _ = after(in_turn, optimizer, pack(params))
    want, _ = after(at_once, optim.adamw(0.1), params)
    assert_trees_close(optim.unpack(got), want, 1e-13)


def test_vmap_and_scan():
    params, grads = leaves(0), leaves(1)

    def trained(rate):
        optimizer = optim.adam(rate)
        _, in_turn = both(optimizer, params, grads, {})
        carry = (optimizer.init(params), params)
        (_, moved), _ = jax.lax.scan(lambda c, _: (in_turn(*c)[::-1], None), carry, length=3)
        return moved

    rates = jnp.array([0.1, 0.2])
    got = jax.vmap(trained)(rates)
    for i, rate in enumerate(rates):
        want, _ = after(both(optim.adam(rate), params, grads, {})[0], optim.adam(rate), params)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], got), want, 1e-5)


def _made_of(entry, name, found):
    """The instructions of a compiled program that `name` is computed from."""
    for operand in entry.get(name, ()):
        if operand not in found:
            found.add(operand)
            _made_of(entry, operand, found)
    return found


def test_each_leaf_waits_and_none_is_copied():
    """In the compiled program: leaf z is made of leaf a's result, and no buffer is copied."""
    if jax.default_backend() != "cpu":
        pytest.skip("leaves wait on a CPU only")
    optimizer, params = optim.adamw(0.1), leaves(0)
    state = optimizer.init(params)

    def results(step, *arguments):
        program = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile().as_text()
        _, entry = program.split("\nENTRY ")
        lines = re.findall(r"%([\w.-]+) = (\S+) (\w[\w-]*)\((.*?)\)[,\n]", entry)
        assert not [shape for _, shape, op, _ in lines if op == "copy" and "256,64" in shape]
        made = {name: re.findall(r"%([\w.-]+)", operands) for name, _, _, operands in lines}
        new = [name for name, shape, op, _ in lines if op == "fusion" and "256,64" in shape]
        reads = {name: _made_of(made, name, set()) for name in new}
        return {
            name: {p for p in below if p.startswith("params__")} for name, below in reads.items()
        }

    # donated buffers are reused in the order of what is returned
    at_once, in_turn = (
        lambda state, params, step=step: step(state, params)[::-1]
        for step in both(optimizer, params, leaves(1), {})
    )
    alone, waiting = (results(step, state, params) for step in (at_once, in_turn))
    assert max(map(len, alone.values())) == 1
    assert max(map(len, waiting.values())) == 3


def test_layout_of_full_buffers():
    packed = optim.pack(
        {"a": jnp.ones(3), "b": jnp.ones(3), "c": jnp.ones(3), "d": jnp.ones(1)}, full=4
    )
    assert {name: b.size for name, b in packed.buffers.items()} == {"float32": 6, "float32#1": 4}
    grouped = optim.pack({"a": jnp.ones(3), "b": jnp.ones(3)}, {".*": "all"}, full=1)
    assert set(grouped.buffers) == {"float32/all", "float32#1/all"}
    with pytest.raises(ValueError, match="full must be >= 1, got 0"):
        optim.pack({"a": jnp.ones(3)}, full=0)


@pytest.mark.thorough
def test_hundreds_of_leaves():
    params = {f"layer{i}": jnp.ones(2) for i in range(600)} | {"a": jnp.ones(BIG)}
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.1))
    at_once, in_turn = both(optimizer, params, params, {})
    want, got = (step(optimizer.init(params), params)[0] for step in (at_once, in_turn))
    assert_trees_close(got, want, 1e-6)


def test_effects_and_functions_as_arguments():
    seen = []

    def update(updates, state, params=None, *, function, **extra):
        jax.debug.callback(lambda x: seen.append(float(x)), function(params["a"]))
        return updates, state

    optimizer = optim.GradientTransformation(lambda params: (), update)
    params = {"a": jnp.ones(BIG), "b": jnp.ones(BIG)}
    jax.jit(lambda p: optim.step_in_turn(optimizer, p, (), p, function=jnp.max))(params)
    jax.effects_barrier()
    assert seen == [1.0]
