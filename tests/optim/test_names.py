"""Every public name of Optax is here too, with its arguments, or is left out for a reason."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxnets import optim
from tests.numerics import assert_trees_close, assert_trees_equal

MODULES = (optax, optax.contrib, optax.schedules, optax.transforms)

LEFT_OUT = {
    "in jaxnets.losses, or a loss": """
        convex_kl_divergence cosine_distance cosine_similarity ctc_loss ctc_loss_with_forward_probs
        generalized_kl_divergence hinge_loss huber_loss kl_divergence l2_loss log_cosh ntxent
        safe_softmax_cross_entropy sigmoid_binary_cross_entropy sigmoid_focal_loss smooth_labels
        softmax_cross_entropy softmax_cross_entropy_with_integer_labels squared_error
    """,
    "per-example gradients: in jaxnets.gradients": """
        DifferentiallyPrivateAggregateState differentially_private_aggregate dpsgd microbatch
        per_example_global_norm_clip per_example_layer_norm_clip
    """,
    "not of optimizers": "multi_normal scale_gradient",
    "linear algebra: in jax.numpy and jax.scipy": """
        matrix_inverse_pth_root nnls power_iteration
    """,
    "nothing to split: moments of complex parameters are right as they are": """
        SplitRealAndImaginaryState split_real_and_imaginary
    """,
    "rarely used": """
        COCOBState DAdaptAdamWState GaLoreDimensionNumbers GaLoreState MadgradState MomoAdamState
        MomoState acprop cocob dadapt_adamw galore madgrad momo momo_adam scale_by_acprop
        scale_by_cocob scale_by_galore scale_by_madgrad
    """,
}


def public(module):
    """What `module` has, by name; `__all__` leaves some of it out."""
    members = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {name: x for name, x in members.items() if not isinstance(x, types.ModuleType)}


THEIRS = {name: member for module in MODULES for name, member in public(module).items()}
SHARED = {name: member for name, member in THEIRS.items() if name in optim.__all__}
# which those two modules define, and contrib does not hand on
SHARED |= {
    "scale_by_muon": optax.contrib._muon.scale_by_muon,
    "scale_by_sophia": optax.contrib._sophia.scale_by_sophia,
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_name_is_here_or_left_out_for_a_reason(module):
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    assert left_out <= THEIRS.keys() - SHARED.keys()
    missing = public(module).keys() - left_out - set(optim.__all__)
    assert not missing, f"add them to jaxnets.optim, or to LEFT_OUT with a reason: {missing}"


def is_tuple(member):
    return inspect.isclass(member) and issubclass(member, tuple)


STATES = [name for name, member in SHARED.items() if is_tuple(member)]
FUNCTIONS = [
    name
    for name, member in SHARED.items()
    if name not in STATES
    and not isinstance(member, types.GenericAlias)
    and (inspect.isfunction(member) or inspect.isclass(member))
]


@pytest.mark.parametrize("name", STATES)
def test_fields_are_those_of_optax(name):
    assert getattr(optim, name)._fields == SHARED[name]._fields


ANOTHER_DEFAULT = {("MultiSteps", "accumulator_dtype")}
"""See the differences in docs/optimizers.md."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_those_of_optax(name):
    """Names, kinds and defaults, in order; what ours have besides has a default."""
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(SHARED[name]).parameters
    if any(p.kind is p.VAR_POSITIONAL for p in theirs.values()):
        assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]
        return
    in_order = [p for p in ours.values() if p.name in theirs]
    assert [(p.name, p.kind) for p in in_order] == [(p.name, p.kind) for p in theirs.values()]
    positional = [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert (
        positional[: len(theirs)]
        == [p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD][: len(positional)]
    )
    for parameter in theirs.values():
        got, want = ours[parameter.name].default, parameter.default
        if want is parameter.empty or (name, parameter.name) in ANOTHER_DEFAULT:
            continue
        # functions and transformations by default are each library's own
        assert got == want or (callable(got) and callable(want)) or (is_tuple(type(want)))
    assert all(p.default is not p.empty for p in ours.values() if p.name not in theirs)


def test_states_without_fields_are_one_class():
    assert optim.ScaleState is optim.ClipState is optim.EmptyState


G = {"a": jnp.array([0.5, -2.0]), "b": [jnp.array(3.0)]}
M = {"a": jnp.array([1.0, 4.0]), "b": [jnp.array(0.25)]}


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.update_moment(G, M, 0.9, 1),
        lambda lib: lib.update_moment(G, M, 0.9, 3),
        lambda lib: lib.update_moment_per_elem_norm(G, M, 0.9, 3),
        lambda lib: lib.update_infinity_moment(G, M, 0.9, 1e-2),
        lambda lib: lib.bias_correction(M, 0.9, jnp.int32(3)),
        lambda lib: [lib.safe_increment(jnp.array(x)) for x in (7, 2**31 - 1, 1.5, 3e38, jnp.inf)],
        lambda lib: lib.safe_int32_increment(jnp.uint8(255)),
        lambda lib: [lib.safe_norm(M["a"], c) for c in (0.1, 100.0)],
        lambda lib: lib.safe_norm(jnp.eye(3) * 2, 3.0, ord="fro"),
        lambda lib: lib.safe_norm(jnp.arange(6.0).reshape(2, 3), 4.0, axis=1, ord=1),
        lambda lib: lib.safe_norm(jnp.arange(6.0).reshape(2, 3), 4.0, axis=1, keepdims=True),
        lambda lib: jax.grad(lib.safe_norm)(jnp.zeros(2), 0.0),
        lambda lib: [lib.safe_root_mean_squares(M["a"], c) for c in (0.1, 100.0)],
        lambda lib: jax.grad(lib.safe_root_mean_squares)(jnp.zeros(2), 0.0),
        lambda lib: lib.init_empty_state(G) == (),
    ],
)
def test_helpers_equal_those_of_optax(call):
    assert_trees_close(call(optim), call(optax), 1e-6)


def test_moments_of_complex_gradients():
    g, m = jnp.array([3 + 4j]), jnp.zeros(1)
    np.testing.assert_allclose(optim.update_moment_per_elem_norm(g, m, 0.5, 2), 12.5)
    np.testing.assert_allclose(optim.update_moment_per_elem_norm(g, m, 0.5, 1), 2.5)
    np.testing.assert_allclose(optim.update_moment(g, m.astype(g.dtype), 0.5, 2), (3 + 4j) ** 2 / 2)


def test_moments_keep_their_dtypes_and_what_has_no_gradient():
    g = {"x": jnp.ones(2, jnp.float16), "y": None}
    m = {"x": jnp.ones(2), "y": jnp.ones(3)}
    moved = optim.update_moment(g, m, 0.999, 2)
    assert_trees_equal(moved["y"], m["y"])
    assert moved["x"].dtype == jnp.float32
    halves = optim.bias_correction(jnp.full(2, 1e-3, jnp.bfloat16), 0.999, jnp.int32(1))
    assert halves.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(halves), 1.0, rtol=1e-2)


def test_root_mean_square_does_not_overflow():
    x = jnp.array([1e30, -1e30])
    np.testing.assert_allclose(optim.safe_root_mean_squares(x, 1.0), 1e30, rtol=1e-6)


def test_a_count_is_a_number():
    with pytest.raises(ValueError, match="count must be integer or floating, got bool"):
        optim.safe_increment(jnp.array(True))


@pytest.mark.parametrize("lib", [optim, optax])
def test_tree_map_params(lib):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    names = {"kernel": "k", "bias": "b"}
    optimizer = lib.chain(lib.clip_by_global_norm(1.0), lib.adam(lambda step: 0.1))
    for initable in (optimizer, optimizer.init):
        named = optim.tree_map_params(
            initable,
            lambda leaf, name: (name, leaf.shape),
            optimizer.init(params),
            names,
            transform_non_params=lambda x: x.dtype,
        )
        adam, schedule = named[1]
        assert adam.mu == adam.nu == {"kernel": ("k", (2, 3)), "bias": ("b", (3,))}
        assert adam.count == schedule.count == jnp.int32


def test_tree_map_params_of_parts():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    optimizer = optim.partition({"kernel$": optim.adam(0.1), ".*": optim.sgd(0.1, 0.9)})
    state = optimizer.init(params)
    moved = optim.tree_map_params(
        optimizer,
        lambda x, p: x if isinstance(x, optim.MaskedNode) else x + p.size,
        state,
        params,
        is_leaf=lambda x: isinstance(x, optim.MaskedNode),
    )
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    adam, trace = (moved.inner_states[rule].inner_state[0] for rule in ("kernel$", ".*"))
    np.testing.assert_array_equal(adam.mu["kernel"], 6)
    np.testing.assert_array_equal(trace.trace["bias"], 3)
    assert adam.count == 0
