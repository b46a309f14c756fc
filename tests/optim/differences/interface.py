"""Dtypes, states, arguments and clipping: a function for each row of the table in the docs."""

import inspect
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.optim.differences.both import BOTH, updates_of

HALF, BRAIN = jnp.float16, jnp.bfloat16


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


def frozen():
    ours, theirs = (inspect.signature(lib.freeze).parameters for lib, _ in BOTH)
    assert (len(theirs), len(ours)) == (1, 2)


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
}
