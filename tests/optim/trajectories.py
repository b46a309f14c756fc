"""Parameters, gradients and runs for the tests of optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 120


def make_params(dtype=jnp.float32):
    """A matrix, a stack, a scalar, a vector, an empty leaf; gradients far apart in magnitude."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "dense": {"kernel": normal(5, 3)},
        "stack": [normal(2, 3, 3), normal()],
        "tiny": normal(4),
        "still": normal(2, 2),
        "empty": jnp.zeros((0, 3), dtype),
    }


def gradients(params, step):
    """Deterministic gradients of changing sign; tiny for `tiny`, 0 for `still`."""
    grads = jax.tree.map(lambda p: jnp.sin(3 + 7 * p + 0.7 * step) + 0.3 * p, params)
    if "tiny" in params:
        grads["tiny"] = (1e-6 * grads["tiny"]).astype(params["tiny"].dtype)
    grads["still"] = jnp.zeros_like(params["still"])
    return grads


def run(optimizer, params, steps=STEPS, grad_dtype=None):
    """Params and state after a run in one scan, and all its updates."""

    def step(carry, t):
        params, state = carry
        grads = gradients(params, t)
        if grad_dtype is not None:
            grads = jax.tree.map(lambda g: g.astype(grad_dtype), grads)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), updates

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps)))
    (params, state), updates = scan((params, optimizer.init(params)))
    return params, state, updates
