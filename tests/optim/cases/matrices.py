"""Muon, Shampoo, SOAP and Sophia."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnets import optim
from tests.optim.cases.case import OptimizerCase
from tests.optim.trajectories import make_matrices


def _numbers_by(lib: Any) -> Any:
    numbers = lib.MuonDimensionNumbers
    return lambda params: {"dense": numbers(1, 0), "stack": numbers(2, 1), "still": None}


_numbers_of = {lib: _numbers_by(lib) for lib in (optim, optax.contrib)}


def _muon_of_stacks(lib: Any) -> Any:
    return lib.muon(
        0.01,
        "dion",
        weight_decay=0.1,
        nesterov=False,
        adaptive=True,
        preconditioning="schatten",
        adam_learning_rate=0.02,
        muon_weight_dimension_numbers=_numbers_of[lib],
        consistent_rms=0.2,
    )


def _objective(params: Any, updates: Any) -> Any:
    def obj_fn(params: Any) -> Any:
        # a Hessian-vector product of half-precision arithmetic is noise
        leaves = [
            x.astype(jnp.promote_types(x.dtype, jnp.float32))
            for x in map(jnp.asarray, jax.tree.leaves(params))
        ]
        return sum((jnp.sum(jnp.sin(x) + x**2 / 3) for x in leaves), jnp.zeros(()))

    return {"obj_fn": obj_fn}


CASES = [
    OptimizerCase(
        "sophia decay",
        lambda: optim.sophia(0.01),
        lambda: optax.contrib.sophia(0.01),
        extra=_objective,
    ),
    OptimizerCase(
        "sophia unclipped",
        lambda: optim.sophia(
            0.01, 0.9, 0.8, eps=1e-2, weight_decay=0.0, clip_threshold=None, update_interval=3
        ),
        lambda: optax.contrib.sophia(
            0.01, 0.9, 0.8, eps=1e-2, weight_decay=0.0, clip_threshold=None, update_interval=3
        ),
        extra=_objective,
    ),
    # of a sum of odd powers up to 5⁵ rounding errors grow
    OptimizerCase(
        "muon",
        lambda: optim.muon(0.01),
        lambda: optax.contrib.muon(0.01),
        rtol64=1e-9,
        params=make_matrices,
    ),
    OptimizerCase(
        "muon of stacks",
        lambda: _muon_of_stacks(optim),
        lambda: _muon_of_stacks(optax.contrib),
        rtol64=1e-9,
        params=make_matrices,
    ),
    # of a gradient [5, 3] the Gram matrix [5, 5] is singular, and its eigenvectors are anyone's
    OptimizerCase(
        "soap decay",
        lambda: optim.soap(0.01, max_precond_dim=4, precondition_frequency=2),
        None,
        params=make_matrices,
    ),
    OptimizerCase(
        "soap stacked",
        lambda: optim.scale_by_soap(
            shampoo_beta=0.9, max_precond_dim=4, stacked="^stack", merge_dims=True
        ),
        None,
        params=make_matrices,
    ),
    OptimizerCase(
        "shampoo",
        lambda: optim.shampoo(0.1, eps=1e-3, max_precond_dim=4, stacked="^stack"),
        None,
        params=make_matrices,
    ),
    OptimizerCase(
        "shampoo grafted",
        lambda: optim.shampoo(
            0.1, 0.9, eps=1e-3, grafting=optim.scale_by_adam(), momentum=0.9, nesterov=True
        ),
        None,
    ),
]


def _sophia(**hyper: Any) -> Any:
    # the gradient in the place of the Hessian's diagonal
    options = {"gamma": 1.0, "update_interval": 1, "hessian_diagonal_fn": optim.identity()}
    return optim.sophia(0.1, **(options | hyper))


SWEEPS = {
    "muon beta": (lambda x: optim.muon(0.1, beta=x), [0.5, 0.9]),
    "muon plain beta": (lambda x: optim.muon(0.1, beta=x, nesterov=False), [0.5, 0.9]),
    "muon eps": (lambda x: optim.muon(0.1, eps=x), [1e-8, 1e-3]),
    "consistent_rms": (lambda x: optim.muon(0.1, consistent_rms=x), [0.1, 0.2]),
    "adam_b2": (lambda x: optim.muon(0.1, adam_b2=x), [0.9, 0.99]),
    "sophia b1": (lambda x: _sophia(b1=x), [0.5, 0.9]),
    "sophia b2": (lambda x: _sophia(b2=x), [0.5, 0.9]),
    "sophia eps": (lambda x: _sophia(eps=x), [1e-3, 1e-2]),
    "gamma": (lambda x: _sophia(gamma=x), [0.5, 1.0]),
    "clip_threshold": (lambda x: _sophia(clip_threshold=x), [0.5, 1.0]),
    "soap b1": (lambda x: optim.soap(0.1, b1=x, max_precond_dim=4), [0.5, 0.9]),
    "soap b2": (lambda x: optim.soap(0.1, b2=x, max_precond_dim=4), [0.5, 0.9]),
    "soap eps": (lambda x: optim.soap(0.1, eps=x, max_precond_dim=4), [1e-8, 1e-3]),
    "precondition_frequency": (
        lambda x: optim.shampoo(0.1, eps=1e-3, precondition_frequency=x),
        [1, 2],
    ),
    "shampoo b2": (lambda x: optim.shampoo(0.1, x, eps=1e-3), [0.9, 1.0]),
    "shampoo eps": (lambda x: optim.shampoo(0.1, eps=x), [1e-3, 1e-2]),
    "shampoo exponent": (lambda x: optim.shampoo(0.1, eps=1e-3, exponent=x), [0.25, 0.5]),
}
