"""Descent, Adagrad, RMSProp, Adam: the core."""

from typing import Any

import jax

from tests.optim.cases.case import same_call


def _decays(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim != 1, params)


CASES = [
    same_call("sgd", lambda lib: lib.sgd(0.1)),
    same_call("sgd momentum", lambda lib: lib.sgd(0.1, momentum=0.9)),
    same_call("sgd nesterov", lambda lib: lib.sgd(0.1, momentum=0.9, nesterov=True)),
    same_call(
        "sgd cosine",
        lambda lib: lib.sgd(lib.warmup_cosine_decay_schedule(0.0, 0.1, 10, 80), momentum=0.8),
    ),
    same_call(
        "sgd after decay, an L2 penalty",
        lambda lib: lib.chain(lib.add_decayed_weights(0.01), lib.sgd(0.1, momentum=0.9)),
    ),
    same_call("adagrad", lambda lib: lib.adagrad(0.1)),
    same_call("adagrad from 0", lambda lib: lib.adagrad(0.1, 0.0, 1e-10)),
    same_call("rmsprop", lambda lib: lib.rmsprop(0.01)),
    same_call(
        "rmsprop momentum",
        lambda lib: lib.rmsprop(
            lib.cosine_decay_schedule(0.01, 200), initial_scale=1.0, momentum=0.9, nesterov=True
        ),
    ),
    same_call(
        "rmsprop corrected eps outside",
        lambda lib: lib.rmsprop(0.01, 0.99, eps_in_sqrt=False, bias_correction=True),
    ),
    same_call("rmsprop centered", lambda lib: lib.rmsprop(0.01, centered=True)),
    same_call(
        "rmsprop centered corrected",
        lambda lib: lib.rmsprop(0.01, centered=True, bias_correction=True, initial_scale=0.1),
    ),
    same_call("adam", lambda lib: lib.adam(0.01)),
    same_call("adam constants", lambda lib: lib.adam(0.01, 0.8, 0.95, eps=1e-3, eps_root=1e-6)),
    same_call("adam nesterov", lambda lib: lib.adam(0.01, nesterov=True)),
    same_call(
        "adam step decay",
        lambda lib: lib.adam(lib.piecewise_constant_schedule(0.01, {20: 0.1, 50: 0.5})),
    ),
    same_call("adamw", lambda lib: lib.adamw(0.01)),
    same_call(
        "adamw masked", lambda lib: lib.adamw(0.01, eps=1e-4, weight_decay=0.1, mask=_decays)
    ),
    same_call(
        "adamw scheduled",
        lambda lib: lib.adamw(
            lib.exponential_decay(0.01, 30, 0.5),
            weight_decay=lib.linear_schedule(0.1, 0.0, 60),
            nesterov=True,
        ),
    ),
    same_call("clip adam", lambda lib: lib.chain(lib.clip(0.5), lib.adam(0.01))),
    same_call(
        "clip by norm adamw", lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(0.01))
    ),
]
