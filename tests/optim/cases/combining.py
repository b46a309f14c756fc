"""Combinators, each around optimizers whose states show when they ran."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnets import optim
from tests.optim.cases.case import OptimizerCase, same_call


def _by_rank(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda x: "a" if jnp.ndim(x) > 1 else "b", params)


def _every(step: Any) -> Any:
    return jnp.where(step < 5, 2, 3)


def _two_of_three(step: Any) -> Any:
    return step % 3 != 1


CASES = [
    same_call(
        "named_chain",
        lambda lib: lib.named_chain(("z", lib.clip(0.5)), ("a", lib.adam(0.01))),
    ),
    same_call("masked", lambda lib: lib.masked(lib.adam(0.01), _by_rank)),
    OptimizerCase(
        "masked by path",
        lambda: optim.masked(optim.adam(0.01), "kernel|0$"),
        lambda: optax.masked(
            optax.adam(0.01),
            {"dense": True, "stack": [True, False], "tiny": False, "still": False, "empty": False},
        ),
        by_path=True,
    ),
    same_call(
        "partition",
        lambda lib: lib.partition({"b": lib.sgd(0.1), "a": lib.adam(0.01)}, _labels),
    ),
    OptimizerCase(
        "partition by path",
        lambda: optim.partition(
            {"dense|stack/0": optim.adam(0.01), ".*": optim.sgd(0.1, momentum=0.9)}
        ),
        lambda: optax.partition(
            {"a": optax.sgd(0.1, momentum=0.9), "b": optax.adam(0.01)},
            {"dense": "b", "stack": ["b", "a"], "tiny": "a", "still": "a", "empty": "a"},
        ),
        by_path=True,
    ),
    OptimizerCase(
        "freeze",
        lambda: optim.freeze("dense|empty", optim.adam(0.01)),
        lambda: optax.selective_transform(
            optax.adam(0.01),
            freeze_mask={
                "dense": True,
                "stack": [False, False],
                "tiny": False,
                "still": False,
                "empty": True,
            },
        ),
        by_path=True,
    ),
    same_call(
        "inject_hyperparams adamw",
        lambda lib: lib.inject_hyperparams(lib.adamw, static_args="mu_dtype")(
            lib.linear_schedule(0.01, 0.001, 100), b1=0.8
        ),
    ),
    same_call(
        "MultiSteps",
        lambda lib: lib.MultiSteps(
            lib.adam(0.01), 3, accumulator_dtype=float
        ).gradient_transformation(),
    ),
    same_call(
        "MultiSteps sum every few",
        lambda lib: lib.MultiSteps(
            lib.adam(0.01),
            _every,
            use_grad_mean=False,
            should_skip_update_fn=lib.skip_not_finite,
            accumulator_dtype=float,
        ).gradient_transformation(),
    ),
    same_call("apply_if_finite", lambda lib: lib.apply_if_finite(lib.adam(0.01), 2)),
    same_call(
        "conditionally_transform",
        lambda lib: lib.conditionally_transform(lib.trace(0.9), _two_of_three),
    ),
    same_call(
        "conditionally_mask",
        lambda lib: lib.conditionally_mask(lib.adam(0.01), _two_of_three),
    ),
    # beside Optax's in test_monitor.py: the state of Optax's changes its structure
    OptimizerCase(
        "monitor",
        lambda: optim.chain(
            optim.snapshot("norm", optim.global_norm),
            optim.adam(0.01),
            optim.monitor({"mean norm": optim.measure_with_ema(optim.global_norm, 0.9)}),
        ),
        None,
    ),
    same_call("flatten", lambda lib: lib.flatten(lib.adam(0.01))),
    OptimizerCase(
        "dynamic_loss_scale",
        lambda: optim.dynamic_loss_scale(optim.adam(0.01), 4.0, min_scale=4.0, period=1000),
        lambda: optax.chain(optax.scale(0.25), optax.adam(0.01)),
        same_state=False,
    ),
]
