"""Parameters, gradients and runs for the tests of optimizers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 300


def make_matrices(dtype=jnp.float32):
    """For optimizers of matrices."""
    params = make_params(dtype)
    return {"dense": params["dense"], "stack": params["stack"][0], "still": params["still"]}


def make_params(dtype=jnp.float32):
    """A matrix, a stack, a scalar, a vector, an empty leaf; gradients far apart in magnitude."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(np.float32(rng.normal(size=shape)), dtype)

    return {
        "dense": {"kernel": normal(5, 3)},
        "stack": [normal(2, 3, 3), normal()],
        "tiny": normal(4),
        "still": normal(2, 2),
        "empty": jnp.zeros((0, 3), dtype),
    }


def gradients(params, step):
    """Deterministic gradients of changing sign; tiny for `tiny`, 0 for `still`.

    Those of wider parameters are the same numbers.
    """

    def gradient(p):
        x = p.astype(jnp.float32)
        return (jnp.sin(3 + 7 * x + jnp.float32(0.7) * step) + jnp.float32(0.3) * x).astype(p.dtype)

    grads = jax.tree.map(gradient, params)
    for name, factor in {"tiny": 1e-6, "still": 0}.items():
        if name in params:
            grads[name] = (factor * grads[name]).astype(params[name].dtype)
    return grads


@partial(jax.jit, static_argnames="steps")
def all_gradients(params, steps):
    """Those of the first steps, stacked; compiled once for all parameters of the same shapes."""
    return jax.vmap(lambda t: gradients(params, t))(jnp.arange(steps))


@partial(jax.jit, static_argnums=(0, 1))
def _scanned(optimizer, extra, carry, grads):
    def step(carry, grads):
        moved, state = carry
        keywords = {} if extra is None else extra(moved, grads)
        updates, state = optimizer.update(grads, state, moved, **keywords)
        return (optax.apply_updates(moved, updates), state), updates

    return jax.lax.scan(step, carry, grads)


def scanned(optimizer, extra=None):
    """`((params, state), gradients) -> ((params, state), updates)`, one scan, compiled.

    Once for equal optimizers. The gradients are the same bits whatever the optimizer does, so that
    two runs compare the optimizers, and neither how chaotic a loss is nor how a compiler rounds
    its gradient.
    """
    return partial(_scanned, optimizer, extra)


def run(optimizer, params, steps=STEPS, grad_dtype=None, extra=None):
    """Params and state after a run in one scan, and all its updates."""
    grads = all_gradients(params, steps)
    if grad_dtype is not None:
        grads = jax.tree.map(lambda g: g.astype(grad_dtype), grads)
    carry = (params, optimizer.init(params))
    (moved, state), updates = scanned(optimizer, extra)(carry, grads)
    return moved, state, updates
