"""Single optimizers and wrappers: a function for each row of the table in the docs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxnets import optim
from tests.optim.differences.both import BOTH, updates_of

HALF, BRAIN = jnp.float16, jnp.bfloat16


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
