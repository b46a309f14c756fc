"""The table "Where they differ from Optax" in docs/optimizers.md: what it says of Optax is true."""

import inspect
import re
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxnets import optim
from tests.optim.test_names import LEFT_OUT

TEXT = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
TABLE = TEXT[TEXT.index("## Where they differ") : TEXT.index("## Optax's own tests")]
ROWS = [line[2:].split(" | ")[0] for line in TABLE.splitlines() if line.startswith("| ")][2:]

HALF, BRAIN = jnp.float16, jnp.bfloat16
BOTH = ((optim, optim), (optax, optax.contrib))


def updates_of(optimizer, params, *gradients, **extra):
    """Each step's update, and the last state; the parameters stay."""
    state, sent = optimizer.init(params), []
    for g in gradients:
        update, state = optimizer.update(g, state, params, **extra)
        sent.append(update)
    return sent, state


def half_precision():
    zeros = jnp.zeros(2, HALF)
    ours, theirs = (updates_of(lib.adam(0.1), zeros, zeros)[0][0] for lib, _ in BOTH)
    assert jnp.isnan(theirs).all()
    assert not ours.any()


def half_precision_moments():
    ours, theirs = (lib.scale_by_adam().init(jnp.ones(2, BRAIN)) for lib, _ in BOTH)
    assert (theirs.nu.dtype, ours.nu.dtype) == (BRAIN, jnp.float32)


def nu_dtype():
    ours, theirs = (inspect.signature(lib.adam).parameters for lib, _ in BOTH)
    assert "mu_dtype" in theirs
    assert "nu_dtype" in ours.keys() - theirs.keys()


def dtypes_of_a_state():
    params, g = jnp.ones(2, BRAIN), jnp.ones(2)
    ours, theirs = (
        (lib.scale_by_adam().init(params).mu.dtype, updates_of(lib.scale_by_adam(), params, g)[1])
        for lib, _ in BOTH
    )
    assert theirs[0] != theirs[1].mu.dtype
    assert ours[0] == ours[1].mu.dtype


def gradient_of_none():
    params, g = {"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.ones(1), "b": None}
    for name, moment in [("trace", "trace"), ("scale_by_rms", "nu"), ("scale_by_adamax", "mu")]:
        arguments = (0.9,) if name == "trace" else ()
        ours, theirs = (
            getattr(updates_of(getattr(lib, name)(*arguments), params, g)[1], moment)
            for lib, _ in BOTH
        )
        assert theirs["b"] is None
        assert ours["b"].shape == (1,)
    for name in ("adam", "adagrad", "lion"):
        with pytest.raises(ValueError, match="pytree structure error"):
            updates_of(getattr(optax, name)(0.1), params, g)
        assert updates_of(getattr(optim, name)(0.1), params, g)[0][0]["b"] is None


def complex_moments():
    ours, theirs = (lib.scale_by_adam().init(jnp.ones(2, jnp.complex64)).nu for lib, _ in BOTH)
    assert (theirs.dtype, ours.dtype) == (jnp.complex64, jnp.float32)
    z = jnp.array([3 + 4j])
    # of JAX's own a warning, which is to become an error
    with suppress(ValueError):
        with pytest.warns(DeprecationWarning, match="complex to real"):
            _, state = updates_of(optax.scale_by_adam(b1=0.5, mu_dtype=jnp.float32), z, z)
        np.testing.assert_allclose(state.mu, 1.5)
    with pytest.raises(ValueError, match="complex64 parameters cannot be stored in float32"):
        optim.scale_by_adam(mu_dtype=jnp.float32).init(z)


def hyperparameters():
    def half(step):
        return 0.5

    with pytest.raises(TypeError):
        updates_of(optax.adam(0.1, b1=half), jnp.ones(1), jnp.ones(1))
    assert updates_of(optim.adam(0.1, b1=half), jnp.ones(1), jnp.ones(1))


def injected():
    ours, theirs = (
        lib.inject_hyperparams(lib.adamw)(1e-3).init(jnp.ones(1, BRAIN)).hyperparams["b2"]
        for lib, _ in BOTH
    )
    assert theirs == 1
    np.testing.assert_allclose(ours, 0.999)


def equality():
    assert optax.adam(0.1) != optax.adam(0.1)
    assert optim.adam(0.1) == optim.adam(0.1)


def out_of_range():
    assert optax.adam(-1.0, b1=2.0)
    with pytest.raises(ValueError, match="learning_rate must be"):
        optim.adam(-1.0)


def masks():
    params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    ours, theirs = (
        lib.masked(lib.trace(0.9), "kernel$").init(params).inner_state.trace["bias"]
        for lib, _ in BOTH
    )
    assert isinstance(ours, optim.MaskedNode)
    # a text is true
    assert isinstance(theirs, jax.Array)


def broadcast_updates():
    assert optax.apply_updates(jnp.ones(3), jnp.ones(())).shape == (3,)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        optim.apply_updates(jnp.ones(3), jnp.ones(()))


def extra_arguments():
    for lib, handed_on in ((optim, True), (optax, False)):
        seen = []

        def update(updates, state, params=None, *, value=None, seen=seen):
            seen.append(value)
            return updates, state

        plain = optax.GradientTransformation(lambda params: (), update)
        takes_extra = optax.GradientTransformationExtraArgs(*optim.polyak_sgd())
        updates_of(lib.chain(plain, takes_extra), jnp.ones(1), jnp.ones(1), value=2.0)
        assert seen == [2.0 if handed_on else None]


def global_norm_clip():
    def clipped(lib, g):
        return lib.clip_by_global_norm(1.0).update(g, optax.EmptyState())[0]

    large, zero = jnp.full(2, 1e20), jnp.zeros(2)
    assert not clipped(optax, large).any()
    np.testing.assert_allclose(clipped(optim, large), 0.5**0.5, rtol=1e-6)
    ours, theirs = (jax.jacobian(lambda g, lib=lib: clipped(lib, g))(zero) for lib, _ in BOTH)
    assert jnp.isnan(theirs).any()
    assert jnp.isfinite(ours).all()


def not_in_optax():
    names = re.findall(r"`(\w+)`", next(row for row in ROWS if row.startswith("`clip_per_leaf`")))
    assert len(names) == 7
    for name in (*names, "gauss_newton_bartlett_estimator_diag_hessian"):
        assert hasattr(optim, name)
        assert not any(hasattr(lib, name) for lib in (optax, optax.contrib, optax.schedules))


def frozen():
    ours, theirs = (inspect.signature(lib.freeze).parameters for lib, _ in BOTH)
    assert (len(theirs), len(ours)) == (1, 2)


def rprop_is_late():
    gradients = [jnp.array([g]) for g in (1.0, 2.0, -1.0, 1.0, 3.0)]
    ours, theirs = (updates_of(lib.rprop(0.1), jnp.ones(1), *gradients)[0] for lib, _ in BOTH)
    np.testing.assert_allclose(np.ravel(ours), [-0.1, -0.12, 0, -0.06, -0.072], rtol=1e-5)
    np.testing.assert_allclose(np.ravel(theirs), [0, -0.1, 0, 0, -0.06], rtol=1e-5)


def negative_variance():
    g = jnp.linspace(1.0, 200.0, 64)
    for optimizer, stays_finite in (
        (optim.rmsprop(0.1, centered=True, bias_correction=True), True),
        (optax.rmsprop(0.1, centered=True, bias_correction=True), False),
    ):
        sent, _ = updates_of(optimizer, g, *[g] * 8)
        assert np.isfinite(sent).all() == stays_finite


def offset():
    for call in (
        lambda lib: lib.adafactor(0.1, decay_offset=3),
        lambda lib: lib.scale_by_factored_rms(step_offset=3),
    ):
        ours, theirs = (updates_of(call(lib), jnp.ones(2), jnp.ones(2))[0][0] for lib, _ in BOTH)
        assert jnp.isnan(theirs).all()
        assert jnp.isfinite(ours).all()


def novograd():
    ours, theirs = (
        updates_of(lib.scale_by_novograd(mu_dtype=BRAIN), jnp.ones(2), jnp.ones(2) / 3)[0][0]
        for lib, _ in BOTH
    )
    assert (theirs == theirs.astype(BRAIN)).all()
    assert (ours != ours.astype(BRAIN)).any()


def ademamix():
    ours, theirs = (
        lib.ademamix(0.1, mu_dtype=BRAIN).init(jnp.ones(2))[0].nu.dtype for _, lib in BOTH
    )
    assert (theirs, ours) == (BRAIN, jnp.float32)


def sm3_of_scalars():
    for params in (jnp.ones(()), jnp.ones((0, 2))):
        with pytest.raises((IndexError, TypeError, ValueError)):
            updates_of(optax.sm3(0.1), params, params)
        assert updates_of(optim.sm3(lambda step: 0.1), params, params)


def optimistic_schedule():
    with pytest.raises(ValueError, match="does not support learning rate schedules"):
        updates_of(optax.optimistic_adam(lambda step: 0.1), jnp.ones(1), jnp.ones(1))
    assert updates_of(optim.optimistic_adam(lambda step: 0.1), jnp.ones(1), jnp.ones(1))


def prodigy_at_rest():
    ours, theirs = (
        updates_of(lib.prodigy(), jnp.ones(2), jnp.zeros(2))[1].estim_lr for _, lib in BOTH
    )
    assert jnp.isnan(theirs)
    np.testing.assert_allclose(ours, 1e-6)


def sam_of_one_step():
    paths = []
    for lib, contrib in BOTH:
        optimizer = contrib.sam(lib.sgd(0.1), lib.sgd(0.1), sync_period=1)
        path = [jnp.array(1.0)]
        state = optimizer.init(path[0])
        for _ in range(5):
            update, state = optimizer.update(path[-1], state, path[-1])
            path.append(path[-1] + update)
        paths.append(np.array(path))
    ours, theirs = paths
    np.testing.assert_allclose(ours[1:], 0.9 * ours[:-1], rtol=1e-6)
    np.testing.assert_allclose(theirs[2:], theirs[:-2] - 0.1 * theirs[1:-1], rtol=1e-6)


def normalize():
    ours, theirs = (lib.normalize().update(jnp.zeros(2), ())[0] for _, lib in BOTH)
    assert jnp.isnan(theirs).all()
    assert not ours.any()


def schatten():
    x = jax.random.normal(jax.random.key(0), (3, 5), jnp.complex64)
    for matrix, equal in ((x.real, True), (x, False)):
        ours, theirs = (
            f(matrix, jnp.array([2.0, -1.5, 0.5]), 5, "schatten")
            for f in (
                optim.orthogonalize_via_newton_schulz,
                optax.contrib._muon.orthogonalize_via_newton_schulz,
            )
        )
        assert np.allclose(ours, theirs, atol=1e-4) == equal


def failed_search():
    def rates(lib):
        optimizer = lib.scale_by_backtracking_linesearch(3)
        state, found = optimizer.init(jnp.ones(1)), []
        for value_fn in (lambda p: jnp.sum(p) * jnp.inf, lambda p: jnp.sum(p**2)):
            extra = {"value": 1.0, "grad": jnp.full(1, 2.0), "value_fn": value_fn}
            _, state = optimizer.update(jnp.full(1, -0.5), state, jnp.ones(1), **extra)
            found.append(float(state.learning_rate))
        return found

    assert rates(optax) == [0.0, 0.0]
    assert rates(optim)[1] > 0


def scalars_by_distance():
    ours, theirs = (
        updates_of(lib.scale_by_distance_over_gradients(), jnp.ones(()), jnp.ones(()))[0][0].shape
        for lib in (optim, optax)
    )
    assert (theirs, ours) == ((1,), ())


def multi_steps():
    with jax.enable_x64(True):
        wide = jnp.ones(1, jnp.float64)
        ours, theirs = (lib.MultiSteps(lib.sgd(0.1), 2).init(wide).acc_grads for lib, _ in BOTH)
    assert (theirs.dtype, ours.dtype) == (jnp.float32, jnp.float64)
    gradients = [jnp.array([g]) for g in (jnp.nan, 1.0, 1.0, 1.0)]
    ours, theirs = (
        updates_of(lib.MultiSteps(lib.sgd(0.1), 2), jnp.ones(1), *gradients)[0][-1]
        for lib, _ in BOTH
    )
    assert jnp.isnan(theirs).all()
    np.testing.assert_allclose(ours, -0.1)


def narrow_gradients():
    params, g = jnp.ones(1), jnp.ones(1, HALF)
    with pytest.raises(TypeError):
        updates_of(optax.apply_if_finite(optax.adam(0.1), 2), params, g)
    assert updates_of(optim.apply_if_finite(optim.adam(0.1), 2), params, g)


def sums():
    for shape, theirs_stays in (((2,), True), ((), False)):
        gradients = [jnp.full(shape, g) for g in (jnp.nan, 1.0, 2.0, 3.0)]
        ours, theirs = (
            np.array(updates_of(lib.apply_every(2), jnp.zeros(shape), *gradients)[0])
            for lib, _ in BOTH
        )
        assert np.isnan(theirs[2:]).all() == theirs_stays
        assert np.isnan(theirs[0]).all() == theirs_stays
        np.testing.assert_array_equal(ours[2:], np.stack([np.zeros(shape), np.full(shape, 5.0)]))


def monitored():
    for lib, same in ((optim, True), (optax, False)):
        optimizer = lib.monitor({"g": lambda updates, *_, **__: updates})
        _, state = updates_of(optimizer, jnp.ones(1), jnp.ones(1))
        begun = optimizer.init(jnp.ones(1))
        assert (jax.tree.structure(begun) == jax.tree.structure(state)) == same


def half_precision_noise():
    def noise(lib, dtype):
        zeros = jnp.zeros(4, dtype)
        return updates_of(lib.add_noise(1.0, 0.5, key=0), zeros, zeros)[0][0]

    same = noise(optax, jnp.float32).astype(HALF)
    assert (noise(optim, HALF) == same).all()
    assert (noise(optax, HALF) != same).any()


def accumulator_default():
    ours, theirs = (
        inspect.signature(lib.MultiSteps).parameters["accumulator_dtype"].default for lib, _ in BOTH
    )
    assert (ours, theirs) == (None, jnp.float32)


def moments_dtypes():
    g, m = jnp.ones(1), jnp.ones(1, BRAIN)
    assert optax.tree.update_moment(g, m, 0.9, 1).dtype == jnp.float32
    assert optim.update_moment(g, m, 0.9, 1).dtype == BRAIN


CHECKS = {
    "arithmetic in half precision": half_precision,
    "moments of half-precision parameters": half_precision_moments,
    "`nu_dtype`": nu_dtype,
    "dtypes of a state": dtypes_of_a_state,
    "a gradient of None": gradient_of_none,
    "moments of complex parameters": complex_moments,
    "hyper-parameters": hyperparameters,
    "`inject_hyperparams`": injected,
    "equality of optimizers": equality,
    "numbers out of range, path rules that match nothing, trees or shapes that do not match": (
        out_of_range
    ),
    "masks": masks,
    "`apply_updates`": broadcast_updates,
    "extra arguments of `update`": extra_arguments,
    "`clip_by_global_norm`": global_norm_clip,
    "`freeze(mask, optimizer)`": frozen,
    "`rprop`": rprop_is_late,
    "`rmsprop(centered=True)`, `scale_by_stddev`": negative_variance,
    "`adafactor(decay_offset=…)`, `scale_by_factored_rms(step_offset=…)`": offset,
    "`scale_by_novograd(mu_dtype=…)`": novograd,
    "`ademamix(mu_dtype=…)`": ademamix,
    "`sm3`": sm3_of_scalars,
    "`optimistic_adam`": optimistic_schedule,
    "`prodigy`": prodigy_at_rest,
    "`sam(sync_period=1)`": sam_of_one_step,
    "`normalize`": normalize,
    '`muon(preconditioning="schatten")`': schatten,
    "line searches": failed_search,
    "`scale_by_distance_over_gradients`": scalars_by_distance,
    "`MultiSteps`": multi_steps,
    "`apply_if_finite`": narrow_gradients,
    "`apply_every`": sums,
    "`monitor`": monitored,
    "`add_noise`, half precision": half_precision_noise,
    "`MultiSteps(accumulator_dtype=…)`": accumulator_default,
    "`update_moment` and its like": moments_dtypes,
}
UNTESTED = {
    "`schedule_free`": "a matter of rounding",
    "`muon`": "more is accepted",
    "`lbfgs`": "the same numbers",
}


def test_every_row_is_checked():
    first = [row for row in ROWS if row.startswith("`clip_per_leaf`")]
    assert {*ROWS} == {*CHECKS, *UNTESTED, *first}
    assert len(ROWS) == len(set(ROWS))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", [*CHECKS, "not there"])
def test_what_a_row_says(row):
    with jax.numpy_rank_promotion("allow"):
        CHECKS.get(row, not_in_optax)()


# those of all optimizers are said where they belong: `hyper`, `masking`, `adam`
SAID_ELSEWHERE = {"nu_dtype", "update"}


@pytest.mark.parametrize("name", sorted({n for row in ROWS for n in re.findall(r"`(\w+)", row)}))
def test_a_docstring_names_the_difference(name):
    if name not in SAID_ELSEWHERE:
        assert "Optax" in getattr(optim, name).__doc__


def test_what_is_left_out_is_listed():
    section = TEXT[TEXT.index("## Left out") : TEXT.index("## PyTorch's forms")]
    listed = set(re.findall(r"`(\w+)`", section))
    for reason, names in LEFT_OUT.items():
        if "losses" not in reason:
            assert {name for name in names.split() if name[0].islower()} <= listed
    assert not listed & set(optim.__all__)


def test_scale_by_forms_name_it_too():
    for name in ("scale_by_ademamix", "orthogonalize_via_newton_schulz", "scale_by_factored_rms"):
        assert "Optax" in getattr(optim, name).__doc__, name
