import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_equal

PARAMS = {
    "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "norm": [{"scale": jnp.ones(2)}, {"scale": 2 * jnp.ones(2)}],
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
KERNEL_ONLY = {
    "dense": {"kernel": 0.1 * PARAMS["dense"]["kernel"], "bias": ZEROS["dense"]["bias"]},
    "norm": ZEROS["norm"],
}


def decayed(mask, params=PARAMS, updates=ZEROS):
    optimizer = optim.add_decayed_weights(0.1, mask)
    return jax.jit(optimizer.update)(updates, optimizer.init(params), params)[0]


@pytest.mark.parametrize(
    "mask",
    [
        "kernel$",
        "^dense/k",
        {"dense": {"kernel": True, "bias": False}, "norm": [{"scale": False}, {"scale": False}]},
        {"dense": {"kernel": True, "bias": False}, "norm": False},
        {"dense": {"kernel": np.True_, "bias": np.False_}, "norm": [False, False]},
        lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        lambda params: {"dense": {"kernel": True, "bias": False}, "norm": False},
    ],
)
def test_masks(mask):
    assert_trees_equal(decayed(mask), KERNEL_ONLY)


def test_all_by_default():
    assert_trees_equal(decayed(None), jax.tree.map(lambda p: 0.1 * p, PARAMS))
    assert_trees_equal(decayed(True), decayed(None))
    assert_trees_equal(decayed(False), ZEROS)


def test_rule_as_mask_of_optax():
    grads = jax.tree.map(lambda p: 0.5 * p, PARAMS)
    mask = {"dense": {"kernel": True, "bias": False}, "norm": False}
    ours = optim.adamw(0.1, weight_decay=0.3, mask="kernel$")
    theirs = optax.adamw(0.1, weight_decay=0.3, mask=mask)
    got, _ = jax.jit(ours.update)(grads, ours.init(PARAMS), PARAMS)
    want, _ = jax.jit(theirs.update)(grads, theirs.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_array_max_ulp(a, b, 1), got, want)


def test_only_masked_leaves_reach_a_rule():
    """Where Optax's `multi_transform` hands over a part of the tree, or none of it."""
    labels = {"dense": "a", "norm": "b"}
    tx = {"a": optim.adamw(0.1, mask="kernel$"), "b": optim.sgd(0.1)}
    for choice in (labels, {"dense": "b", "norm": "b"}):
        optimizer = optax.multi_transform(tx, choice)
        updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
        assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


def test_gradients_of_none():
    got = decayed("kernel$", updates=ZEROS | {"norm": [None, {"scale": jnp.zeros(2)}]})
    assert got["norm"][0] is None
    assert_trees_equal(got["dense"], KERNEL_ONLY["dense"])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("kernle$", "rule 'kernle\\$' matches no leaf"),
        (
            {"dense": True, "head": {"kernel": True}},
            "a mask must be a tree of the parameters' structure or a prefix of it; "
            "missing 'norm/0/scale', 'norm/1/scale'; added 'head/kernel'",
        ),
        (lambda params: [True], "prefix of it; missing .*'norm/1/scale'; added '0'"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        optim.adamw(0.1, mask=mask).init(PARAMS)


@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_needs_params(weight_decay):
    optimizer = optim.adamw(0.1, weight_decay=weight_decay)
    with pytest.raises(ValueError, match=r"update\(gradients, state, params\)"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def test_scheduled():
    optimizer = optim.add_decayed_weights(lambda step: 0.1 * step, "kernel$")
    state = optimizer.init(PARAMS)
    first, state = optimizer.update(ZEROS, state, PARAMS)
    second, _ = optimizer.update(ZEROS, state, PARAMS)
    assert_trees_equal(first, ZEROS)
    assert_trees_equal(second, KERNEL_ONLY)
