"""Masks, partitions and frozen parameters, by path and by Optax's means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close, assert_trees_equal

PARAMS = {
    "encoder": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "head": [{"kernel": 2 * jnp.ones((3, 1)), "bias": jnp.ones(1)}],
}
GRADS = jax.tree.map(lambda p: 0.5 * p, PARAMS)
KERNELS = {"encoder": {"kernel": True, "bias": False}, "head": [{"kernel": True, "bias": False}]}


def size(state):
    """How many numbers a state keeps, counts left out."""
    return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)


def doubled(kernels=True, biases=False):
    return jax.tree.map(lambda g: (1 + (kernels if g.ndim > 1 else biases)) * g, GRADS)


@pytest.mark.parametrize(
    "mask",
    [
        "kernel$",
        KERNELS,
        lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        jax.tree.map(np.bool_, KERNELS),
    ],
)
def test_masked(mask):
    optimizer = optim.masked(optim.scale(2.0), mask)
    updates, _ = jax.jit(optimizer.update)(GRADS, optimizer.init(PARAMS))
    assert_trees_equal(updates, doubled())
    assert size(optim.masked(optim.trace(0.9), mask).init(PARAMS)) == 9


def test_prefix_masks():
    for mask, want in ((True, doubled(True, True)), (False, GRADS)):
        optimizer = optim.masked(optim.scale(2.0), mask)
        assert_trees_equal(optimizer.update(GRADS, optimizer.init(PARAMS))[0], want)
    optimizer = optim.masked(optim.scale(2.0), {"encoder": True, "head": False})
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS))
    assert_trees_equal(updates, GRADS | {"encoder": doubled(True, True)["encoder"]})


def test_mask_function_sees_params_then_updates():
    seen = []

    def mask(tree):
        seen.append(tree)
        return True

    optimizer = optim.masked(optim.scale(2.0), mask)
    optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    assert seen == [PARAMS, GRADS]


def test_extra_arguments_are_masked_on_request():
    seen = []
    inner = optim.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None, **extra: (seen.append(extra) or updates, state),
    )
    for compatible in (False, True):
        optimizer = optim.masked(inner, "kernel$", mask_compatible_extra_args=compatible)
        optimizer.update(GRADS, optimizer.init(PARAMS), tags=GRADS, value=1)
    assert seen[0] == {"tags": GRADS, "value": 1}
    assert [len(jax.tree.leaves(extra["tags"])) for extra in seen] == [4, 2]
    assert seen[1]["tags"]["encoder"]["bias"] == optim.MaskedNode()


@pytest.mark.parametrize(
    "build",
    [
        lambda: optim.masked(optim.adam(0.1), "bias$"),
        lambda: optim.masked(optim.adam(0.1), jax.tree.map(lambda m: not m, KERNELS)),
        lambda: optim.partition({"bias$": optim.adam(0.1), ".*": optim.sgd(0.1)}),
        lambda: optim.partition(
            {"a": optim.adam(0.1), "b": optim.sgd(0.1)},
            lambda params: jax.tree.map(lambda p: "a" if p.ndim < 2 else "b", params),
        ),
        lambda: optim.freeze("bias$", optim.adam(0.1)),
    ],
)
@pytest.mark.parametrize("with_params", [True, False])
def test_no_gradient_at_all_for_what_is_chosen(build, with_params):
    """A rule is no error for it, and the state keeps its structure."""
    grads = jax.tree.map(lambda g: g if g.ndim > 1 else None, GRADS)
    optimizer = build()
    state = optimizer.init(PARAMS)
    updates, after = optimizer.update(grads, state, PARAMS if with_params else None)
    assert updates["encoder"]["bias"] is None
    assert updates["head"][0]["bias"] is None
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)


def test_partition_by_path():
    """The first rule wins; labels may be kept apart from rules."""
    rules = {"^head.*kernel": 2, "kernel$": 3, ".*": 5}
    transforms = {rule: optim.scale(float(factor)) for rule, factor in rules.items()}
    want = {
        "encoder": {"kernel": 3 * GRADS["encoder"]["kernel"], "bias": 5 * GRADS["encoder"]["bias"]},
        "head": [{"kernel": 2 * GRADS["head"][0]["kernel"], "bias": 5 * GRADS["head"][0]["bias"]}],
    }
    labels = optim.label_by_path(rules)
    for optimizer in (
        optim.partition(transforms),
        optim.partition({k: optim.scale(float(k)) for k in (5, 3, 2)}, labels),
    ):
        updates, _ = jax.jit(optimizer.update)(GRADS, optimizer.init(PARAMS))
        assert_trees_equal(updates, want)


def test_partition_keeps_each_state_for_its_leaves():
    optimizer = optim.partition({"kernel$": optim.trace(0.9), ".*": optim.adam(0.1)})
    state = optimizer.init(PARAMS)
    assert size(state.inner_states["kernel$"]) == 9
    assert size(state.inner_states[".*"]) == 2 * 4
    assert isinstance(state.inner_states[".*"], optim.MaskedState)


def test_order_of_rules_counts_for_equality():
    a, b = optim.sgd(0.1), optim.adam(0.1)
    assert optim.partition({"x": a, ".*": b}) == optim.partition({"x": a, ".*": b})
    assert optim.partition({"x": a, ".*": b}) != optim.partition({".*": b, "x": a})
    assert hash(optim.freeze("x", a)) == hash(optim.freeze("x", a))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.masked(optim.sgd(0.1), "kernle$"), "rule 'kernle\\$' matches no leaf"),
        (lambda: optim.masked(optim.sgd(0.1), {"encoder": True}), "a mask must be a tree"),
        (lambda: optim.freeze("kernle$"), "rule 'kernle\\$' matches no leaf"),
        (lambda: optim.freeze("kernle$", optim.sgd(0.1)), "rule 'kernle\\$' matches no leaf"),
        (
            lambda: optim.partition({"kernel$": optim.sgd(0.1)}),
            "no rule covers leaf 'encoder/bias'",
        ),
        (
            lambda: optim.partition({".*": optim.sgd(0.1), "kernel$": optim.sgd(0.1)}),
            "rule 'kernel\\$' matches no leaf",
        ),
        (
            lambda: optim.partition({"a": optim.sgd(0.1)}, {"encoder": "a", "head": "b"}),
            "label 'b' of leaf 'head/0/bias'; the labels are \\['a'\\]",
        ),
        (
            lambda: optim.partition({"a": optim.sgd(0.1)}, {"encoder": "a"}),
            "param_labels must be a tree of the parameters' structure",
        ),
    ],
)
def test_rules_and_labels_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build().init(PARAMS)


@pytest.mark.parametrize("frozen", ["^encoder/", {"encoder": True, "head": False}])
def test_frozen_parameters_have_no_state(frozen):
    optimizer = optim.freeze(frozen, optim.adam(0.1))
    state = optimizer.init(PARAMS)
    assert size(state) == 2 * 4
    updates, _ = jax.jit(optimizer.update)(GRADS, state, PARAMS)
    alone = optim.adam(0.1)
    head, _ = alone.update(GRADS["head"], alone.init(PARAMS["head"]))
    assert_trees_close(updates["head"], head, 1e-6)
    assert_trees_equal(updates["encoder"], jax.tree.map(jnp.zeros_like, GRADS["encoder"]))
    assert optimizer == optim.selective_transform(optim.adam(0.1), freeze_mask=frozen)


def test_frozen_gradients_are_not_computed():
    """XLA leaves out the matrix product that only the frozen kernel's gradient needs."""

    def products(rule):
        optimizer = optim.freeze(rule, optim.sgd(0.1)) if rule else optim.sgd(0.1)
        params = {"a": jnp.ones((4, 5)), "b": jnp.ones((5, 6))}

        def step(params, state, x):
            loss = lambda p: jnp.sum(jnp.tanh(x @ p["a"]) @ p["b"])  # noqa: E731
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optim.apply_updates(params, updates)

        text = jax.jit(step).lower(params, optimizer.init(params), jnp.ones((7, 4))).compile()
        return text.as_text().count(" dot(")

    assert products("^a") < products(None)


def test_freeze_at_the_end_of_a_chain():
    optimizer = optim.chain(optim.sgd(0.1), optim.freeze("bias$"))
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS))
    assert not jnp.any(updates["encoder"]["bias"])
    assert jnp.all(updates["encoder"]["kernel"] < 0)


def test_optax_maps_over_the_parameters_in_states():
    for optimizer in (
        optim.masked(optim.adam(0.1), KERNELS),
        optim.partition({"kernel$": optim.adam(0.1), ".*": optim.sgd(0.1)}),
        optim.freeze("bias$", optim.adam(0.1)),
        optim.adamw(0.1, mask=KERNELS),
        optim.apply_if_finite(optim.MultiSteps(optim.adam(0.1), 2), 3),
        optim.inject_hyperparams(optim.adam)(0.1),
        optim.named_chain(("adam", optim.adam(0.1))),
    ):
        state = optimizer.init(PARAMS)
        moved = optax.tree_utils.tree_map_params(optimizer, lambda x: x + 1, state)
        nu = optax.tree_utils.tree_get(moved, "nu")
        np.testing.assert_array_equal(nu["encoder"]["kernel"], 1)
        assert optax.tree_utils.tree_get(moved, "ScaleByAdamState").count == 0


def test_names_of_a_chain_must_differ():
    with pytest.raises(ValueError, match=r"named_chain: names must differ, got \['a', 'a'\]"):
        optim.named_chain(("a", optim.sgd(0.1)), ("a", optim.sgd(0.1)))
    with pytest.raises(ValueError, match="must come from this chain's init"):
        optim.named_chain(("a", optim.sgd(0.1))).update(GRADS, {"b": ()})
    with pytest.raises(TypeError, match="pair, is needed, got function"):
        optim.masked(optim.adam, True)


def test_frozen_integers():
    """`allow_int` gradients of integers are of a dtype of their own; the rest trains."""
    params = {"table": jnp.arange(3), "kernel": jnp.ones(3)}

    def loss(params):
        return jnp.sum(params["kernel"] * params["table"])

    optimizer = optim.freeze("table", optim.adam(0.1))
    grads = jax.grad(loss, allow_int=True)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = optim.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["table"], params["table"])
    assert moved["table"].dtype == params["table"].dtype
    np.testing.assert_allclose(moved["kernel"], [1.0, 0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize("choice", [None, "kernel", np.array([True])])
def test_masks_of_anything_but_bools_are_refused(choice):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    for build in (
        lambda mask: optim.masked(optim.sgd(0.1), mask),
        lambda mask: optim.adamw(0.1, mask=mask),
    ):
        with pytest.raises(ValueError, match=r"must be of bools, got .* at 'b'"):
            build({"a": True, "b": choice}).init(params)
