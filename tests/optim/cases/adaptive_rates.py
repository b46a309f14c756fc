"""Optimizers that need no schedule or no rate, and relatives of Adam: Optax's `contrib`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxnets import optim
from tests.optim.cases.case import OptimizerCase


def _contrib(name, build, **keywords):
    """The same call in both: `build(optim, optim)` and `build(optax, optax.contrib)`."""
    return OptimizerCase(
        name, lambda: build(optim, optim), lambda: build(optax, contrib), **keywords
    )


def _no_matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.ndim(x) != 2, params)


def _value(params: Any, updates: Any) -> dict[str, Any]:
    return {"value": optim.global_norm(params)}


CASES = [
    # Optax takes y back from a rounded x: its float32 is further from float64 than ours
    _contrib(
        "schedule_free_adamw",
        lambda _, lib: lib.schedule_free_adamw(0.01, weight_decay=0.01, weight_lr_power=1.0),
        rtol32=1e-5,
        same_updates=False,
    ),
    _contrib(
        "schedule_free momentum",
        lambda base, lib: lib.schedule_free(
            base.sgd(0.1, momentum=0.5), base.warmup_cosine_decay_schedule(0.0, 0.1, 20, 200)
        ),
        rtol32=1e-5,
        same_updates=False,
    ),
    _contrib(
        "prodigy decay",
        lambda base, lib: lib.prodigy(
            base.cosine_decay_schedule(1.0, 200),
            (0.8, 0.95),
            0.9,
            1e-6,
            1e-4,
            0.5,
            0.01,
            safeguard_warmup=True,
        ),
    ),
    # without the matrices: their decay is part of a norm that all steps depend on, and a gradient
    # of None has none
    _contrib(
        "dog decay",
        lambda _, lib: lib.dog(0.5, ("distance", 0.1), weight_decay=0.1, mask=_no_matrices),
    ),
    _contrib("dowg", lambda _, lib: lib.dowg(0.5, 0.01, 1e-3)),
    # Optax's needs rank promotion, which the tests forbid
    OptimizerCase(
        "scale_by_distance_over_gradients",
        lambda: optim.scale_by_distance_over_gradients(1e-2, global_scale=-1.0),
        None,
    ),
    # the sum of steps is taken back from the parameters' difference: for small s, rounding errors
    _contrib(
        "mechanize adamw",
        lambda base, lib: lib.mechanize(base.adamw(0.1), 0.1, 1e-6, 0.1, num_betas=3),
        rtol32=5e-6,
        same_updates=False,
    ),
    _contrib(
        "ademamix scheduled decay",
        lambda base, lib: lib.ademamix(
            0.01,
            0.8,
            0.95,
            base.linear_schedule(0.5, 0.99, 200),
            base.linear_schedule(0.0, 5.0, 200),
            1e-4,
            1e-6,
            weight_decay=0.1,
        ),
    ),
    _contrib(
        "simplified_ademamix decay",
        lambda base, lib: lib.simplified_ademamix(
            0.001, alpha=base.linear_schedule(0.0, 5.0, 200), eps_root=1e-6, weight_decay=0.1
        ),
    ),
    _contrib("adopt", lambda _, lib: lib.adopt(0.01)),
    _contrib(
        "adopt nesterov",
        lambda _, lib: lib.adopt(0.01, 0.8, 0.99, 1e-3, nesterov=True, clip_value_fn=jnp.sqrt),
    ),
    _contrib(
        "sam",
        lambda base, lib: lib.sam(
            base.sgd(0.1, momentum=0.9),
            base.chain(lib.normalize(), base.sgd(0.05, momentum=0.5)),
        ),
    ),
    _contrib(
        "sam of three adam",
        lambda base, lib: lib.sam(
            base.adam(0.01), base.sgd(0.05, momentum=0.9), sync_period=3, reset_state=False
        ),
    ),
    _contrib(
        "reduce_on_plateau",
        lambda base, lib: base.chain(
            base.sgd(0.03, momentum=0.9),
            lib.reduce_on_plateau(0.7, 3, 1e-3, cooldown=2, min_scale=0.1),
        ),
        extra=_value,
    ),
]

SWEEPS = {
    "schedule_free b1": (lambda x: optim.schedule_free_sgd(0.1, b1=x), [0.5, 0.9]),
    "weight_lr_power": (
        lambda x: optim.schedule_free(
            optim.sgd(0.1), optim.linear_schedule(0.0, 0.1, 5), weight_lr_power=x
        ),
        [1.0, 2.0],
    ),
    "schedule_free b2": (lambda x: optim.schedule_free_adamw(0.1, b2=x), [0.9, 0.99]),
    "prodigy betas": (lambda x: optim.prodigy(1.0, (x, 0.99)), [0.5, 0.9]),
    "prodigy beta2": (lambda x: optim.prodigy(1.0, (0.9, x)), [0.9, 0.99]),
    "beta3": (lambda x: optim.prodigy(1.0, beta3=x), [0.9, 0.99]),
    "prodigy eps": (lambda x: optim.prodigy(1.0, eps=x), [1e-8, 1e-3]),
    "estim_lr_coef": (lambda x: optim.prodigy(1.0, estim_lr_coef=x), [0.5, 2.0]),
    "prodigy weight_decay": (lambda x: optim.prodigy(1.0, weight_decay=x), [0.0, 0.1]),
    "dog eps": (lambda x: optim.dog(eps=x), [1e-8, 1e-1]),
    "layer dog global_scale": (
        lambda x: optim.scale_by_distance_over_gradients(1e-2, global_scale=x),
        [0.5, 1.0],
    ),
    "layer dog eps": (
        lambda x: optim.scale_by_distance_over_gradients(1e-2, x),
        [1e-8, 1e-1],
    ),
    "dowg eps": (lambda x: optim.dowg(init_estim_sq_dist=0.01, eps=x), [1e-4, 1e-1]),
    "mechanize weight_decay": (
        lambda x: optim.mechanize(optim.sgd(1.0), weight_decay=x, s_init=1e-2),
        [0.0, 0.1],
    ),
    "mechanize eps": (lambda x: optim.mechanize(optim.sgd(1.0), eps=x, s_init=0.01), [1e-8, 1e-3]),
    "ademamix b1": (lambda x: optim.ademamix(0.1, b1=x), [0.5, 0.9]),
    "ademamix b2": (lambda x: optim.ademamix(0.1, b2=x), [0.9, 0.99]),
    "b3": (lambda x: optim.ademamix(0.1, b3=x), [0.9, 0.99]),
    "alpha": (lambda x: optim.ademamix(0.1, alpha=x, b3=0.9), [1.0, 5.0]),
    "simplified alpha": (lambda x: optim.simplified_ademamix(0.1, alpha=x), [1.0, 5.0]),
    "simplified b1": (lambda x: optim.simplified_ademamix(0.1, b1=x), [0.5, 0.9]),
    "adopt b1": (lambda x: optim.adopt(0.1, b1=x), [0.5, 0.9]),
    "adopt b2": (lambda x: optim.adopt(0.1, b2=x), [0.5, 0.9]),
    "adopt eps": (lambda x: optim.adopt(0.1, eps=x), [1e-6, 1.0]),
}
