import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import tree
from tests.numerics import relative_error

TREE = {"blocks": [{"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}], "head": (jnp.ones(4),)}


def test_paths():
    assert tree.paths(TREE) == {
        "blocks": [{"kernel": "blocks/0/kernel", "bias": "blocks/0/bias"}],
        "head": ("head/0",),
    }
    assert list(tree.flatten_with_paths(TREE)) == ["blocks/0/bias", "blocks/0/kernel", "head/0"]
    assert tree.paths(jnp.ones(2)) == ""
    assert tree.size(TREE) == 13


def test_match_and_rules():
    assert tree.match("kernel$", TREE)["blocks"] == [{"kernel": True, "bias": False}]
    values = tree.apply_rules({"bias$": 0.0, "^blocks/": 1.0, ".*": 2.0}, TREE)
    assert values == {"blocks": [{"kernel": 1.0, "bias": 0.0}], "head": (2.0,)}


def test_a_rule_that_decides_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"rule 'kernal' matches no leaf.*'blocks/0/kernel'"):
        tree.match("kernal", TREE)
    with pytest.raises(ValueError, match="rule 'kernel' matches no leaf"):
        tree.apply_rules({".*": 1.0, "kernel": 2.0}, TREE)
    with pytest.raises(ValueError, match="no rule covers leaf 'head/0'"):
        tree.apply_rules({"^blocks": 1.0}, TREE)
    with pytest.raises(ValueError, match=r"rule '\(' is not a regular expression"):
        tree.match("(", TREE)


def test_paths_that_collide_are_refused():
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        tree.flatten_with_paths({"a/b": 1, "a": {"b": 2}})


def test_stacks_of_layers_keep_their_order_past_ten():
    """`jit` sorts the keys of a dict: layer10 comes before layer2. Lists keep their order."""
    layers = [jnp.float32(i) for i in range(12)]

    def in_order(layers):
        return jnp.stack(layers)

    np.testing.assert_array_equal(jax.jit(in_order)(layers), np.arange(12))


def test_global_norm():
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(TREE)]).astype(np.float64)
    assert relative_error(tree.global_norm(TREE), np.linalg.norm(values)) <= 1e-6
    assert tree.global_norm({}) == 0


@pytest.mark.parametrize(
    ("leaf", "want"),
    [
        (np.float32([1e20, 1e20]), np.sqrt(2) * 1e20),
        (np.float16([300, 300]), np.sqrt(2) * 300),
        (np.float32([3e-30, 4e-30]), 5e-30),
        (np.complex64([3 + 4j]), 5),
        (np.float32([1, np.inf]), np.inf),
        (np.float32([1, np.nan]), np.nan),
    ],
)
def test_global_norm_neither_overflows_nor_underflows(leaf, want):
    np.testing.assert_allclose(tree.global_norm([jnp.asarray(leaf)]), want, rtol=1e-6)


def test_the_gradient_of_the_norm_is_the_direction_and_0_at_0():
    np.testing.assert_array_equal(jax.grad(tree.global_norm)(jnp.zeros(3)), jnp.zeros(3))
    x = jnp.array([3.0, -4.0])
    np.testing.assert_allclose(jax.grad(tree.global_norm)(x), x / 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("prefix", "full", "only", "only_other"),
    [
        ({"a": 0, "b": 0}, {"a": 1, "b": 1}, [], []),
        ({"a": 0}, {"a": {"b": 1, "c": [1, 2]}}, [], []),
        (0, {"a": 1}, [], []),
        ({"a": 0, "b": 0}, {"b": 1, "c": {"d": 1}}, ["a"], ["c/d"]),
        ({"a": {"b": 0}}, {"a": 1}, ["a/b"], ["a"]),
        ({"a": 0, "ab": 0}, {"a": {"x": 1}}, ["ab"], []),
        ({}, {"a": 1}, [], ["a"]),
        ({"a": [0, 0]}, {"a": (1, {"b": 1})}, ["a (list)"], ["a (tuple)"]),
    ],
)
def test_unmatched_paths(prefix, full, only, only_other):
    assert tree.unmatched(prefix, full) == (only, only_other)


def test_none_is_a_leaf_if_it_is_said_to_be_one():
    trees = {"a": None}, {"a": 1}
    assert tree.unmatched(*trees) == ([], ["a"])
    assert tree.unmatched(*trees, lambda x: x is None) == ([], [])


def test_of_many_paths_some_are_shown():
    many = [str(i) for i in range(12)]
    assert tree.missing_and_added(["a/b"], []) == "missing 'a/b'"
    assert tree.missing_and_added([], ["a", "c"]) == "added 'a', 'c'"
    assert tree.missing_and_added(many, ["c"]) == (
        f"missing {', '.join(map(repr, many[:10]))} and 2 more; added 'c'"
    )
