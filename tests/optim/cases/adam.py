"""Adam's and Adagrad's families."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnets import optim
from tests.optim.cases.case import OptimizerCase, same_call


def _decays(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.ndim(x) != 1, params)


CASES = [
    same_call("nadam", lambda lib: lib.nadam(0.01)),
    same_call(
        "nadamw decay", lambda lib: lib.nadamw(0.01, eps=1e-4, weight_decay=0.1, mask=_decays)
    ),
    OptimizerCase("nadam rising momentum", lambda: optim.nadam(0.01, momentum_decay=0.05), None),
    same_call("amsgrad", lambda lib: lib.amsgrad(0.01)),
    same_call(
        "amsgrad uncorrected",
        lambda lib: lib.amsgrad(
            0.01, 0.8, 0.9, 1e-4, 1e-6, bias_correction_mu=False, bias_correction_nu=False
        ),
    ),
    OptimizerCase(
        "amsgrad corrected last", lambda: optim.amsgrad(0.01, correct_before_max=False), None
    ),
    same_call("adamax", lambda lib: lib.adamax(0.01)),
    same_call(
        "adamaxw decay",
        lambda lib: lib.adamaxw(0.01, 0.8, 0.9, 1e-4, weight_decay=0.1, mask=_decays),
    ),
    same_call("adabelief", lambda lib: lib.adabelief(0.01)),
    same_call(
        "adabelief nesterov",
        lambda lib: lib.adabelief(0.01, 0.8, 0.95, 1e-4, 1e-6, nesterov=True),
    ),
    same_call("radam", lambda lib: lib.radam(0.01)),
    same_call(
        "radam nesterov",
        lambda lib: lib.radam(0.01, 0.8, 0.95, 1e-4, 1e-6, threshold=8.0, nesterov=True),
    ),
    OptimizerCase("radam eps first", lambda: optim.radam(0.01, eps_before_correction=True), None),
    same_call("adan", lambda lib: lib.adan(0.01)),
    same_call(
        "adan decay", lambda lib: lib.adan(0.01, 0.9, 0.8, 0.95, weight_decay=0.1, mask=_decays)
    ),
    same_call("yogi", lambda lib: lib.yogi(0.01), moves_at_zero=True),
    same_call("scale_by_yogi", lambda lib: lib.scale_by_yogi(0.8, 0.9, 1e-4, 1e-6, 0.0)),
    same_call("adadelta", lambda lib: lib.adadelta(1.0)),
    same_call(
        "adadelta decay",
        lambda lib: lib.adadelta(0.5, 0.8, 1e-4, weight_decay=0.1, weight_decay_mask=_decays),
    ),
    OptimizerCase("rprop", lambda: optim.rprop(0.01), None),
    same_call("novograd", lambda lib: lib.novograd(0.01)),
    same_call("novograd decay", lambda lib: lib.novograd(0.01, 0.8, 0.9, 1e-4, 1e-6, 0.1)),
    OptimizerCase(
        "adagrad eps outside", lambda: optim.adagrad(0.1, 0.0, 1e-10, eps_in_sqrt=False), None
    ),
    OptimizerCase(
        "adam stored in bfloat16",
        lambda: optim.adam(0.01, b2=0.9, mu_dtype=jnp.bfloat16, nu_dtype=jnp.bfloat16),
        None,
    ),
]

SWEEPS: dict[str, tuple[Any, list[float]]] = {
    "nadam b1": (lambda x: optim.nadam(0.1, b1=x, momentum_decay=4e-3), [0.5, 0.9]),
    "nadam b2": (lambda x: optim.nadam(0.1, b2=x, momentum_decay=4e-3), [0.9, 0.99]),
    "nadam eps": (lambda x: optim.nadam(0.1, eps=x, momentum_decay=4e-3), [1e-8, 1e-3]),
    "momentum_decay": (lambda x: optim.nadam(0.1, momentum_decay=x), [4e-3, 1.0]),
    "amsgrad b2": (lambda x: optim.amsgrad(0.1, b2=x), [0.9, 0.99]),
    "amsgrad eps_root": (lambda x: optim.amsgrad(0.1, eps_root=x), [1e-8, 1e-3]),
    "adamax b2": (lambda x: optim.adamax(0.1, b2=x), [0.5, 0.9]),
    "adamax eps": (lambda x: optim.adamax(0.1, eps=x), [1e-8, 1e-3]),
    "adabelief b2": (lambda x: optim.adabelief(0.1, b2=x), [0.9, 0.99]),
    "adabelief eps_root": (lambda x: optim.adabelief(0.1, eps_root=x), [1e-16, 1e-3]),
    "radam b2": (lambda x: optim.radam(0.1, b2=x, threshold=0.5), [0.1, 0.2]),
    "radam threshold": (lambda x: optim.radam(0.1, b2=0.2, threshold=x), [0.5, 1.2]),
    "adan b1": (lambda x: optim.adan(0.1, b1=x), [0.9, 0.98]),
    "adan b2": (lambda x: optim.adan(0.1, b2=x), [0.5, 0.92]),
    "adan b3": (lambda x: optim.adan(0.1, b3=x), [0.9, 0.99]),
    "adan eps": (lambda x: optim.adan(0.1, eps=x), [1e-8, 1e-3]),
    "yogi b2": (lambda x: optim.yogi(0.1, b2=x), [0.9, 0.99]),
    "yogi initial": (
        lambda x: optim.scale_by_yogi(initial_accumulator_value=x),
        [1e-6, 1e-3],
    ),
    "adadelta rho": (lambda x: optim.adadelta(1.0, rho=x), [0.5, 0.9]),
    "adadelta eps": (lambda x: optim.adadelta(1.0, eps=x), [1e-6, 1e-3]),
    "rprop eta_minus": (lambda x: optim.rprop(0.1, eta_minus=x), [0.2, 0.5]),
    "rprop eta_plus": (lambda x: optim.rprop(0.1, eta_plus=x), [1.2, 2.0]),
    "rprop max_step_size": (lambda x: optim.rprop(0.1, max_step_size=x), [0.1, 50.0]),
    "novograd b1": (lambda x: optim.novograd(0.1, b1=x), [0.5, 0.9]),
    "novograd b2": (lambda x: optim.novograd(0.1, b2=x), [0.25, 0.9]),
    "novograd weight_decay": (lambda x: optim.novograd(0.1, weight_decay=x), [0.0, 0.1]),
}
