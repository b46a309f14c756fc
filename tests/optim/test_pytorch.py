"""Ours against PyTorch's optimizers: 12 steps in float64, from `make_pytorch_values.py`."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim
from jaxnets.optim import adagrad, amsgrad, nadam, nadamw, radam

VALUES = json.loads(Path(__file__).with_name("pytorch.json").read_text())


def l2(optimizer):
    return optim.chain(optim.add_decayed_weights(0.01), optimizer)


def pytorch_adagrad(learning_rate, start, eps):
    return adagrad(learning_rate, start, eps, eps_in_sqrt=False)


def pytorch_rmsprop(decay, eps, **keywords):
    return optim.rmsprop(0.01, decay, eps, eps_in_sqrt=False, **keywords)


OURS = {
    "sgd": lambda: optim.sgd(0.1),
    "sgd momentum": lambda: optim.sgd(0.1, 0.9),
    "sgd nesterov": lambda: optim.sgd(0.1, 0.9, nesterov=True),
    "sgd L2": lambda: l2(optim.sgd(0.1, 0.9)),
    "adam": lambda: optim.adam(0.1),
    "adam L2": lambda: l2(optim.adam(0.1, 0.8, 0.99, 1e-3)),
    "adamw": lambda: optim.adamw(0.1, weight_decay=0.01),
    "amsgrad": lambda: amsgrad(0.1, b2=0.9, eps=1e-3, correct_before_max=False),
    "amsgradw": lambda: optim.chain(
        optim.scale_by_amsgrad(b2=0.9, correct_before_max=False),
        optim.add_decayed_weights(0.01),
        optim.scale_by_learning_rate(0.1),
    ),
    "adamax": lambda: optim.adamax(0.1, b2=0.9),
    "nadam": lambda: nadam(0.1, momentum_decay=4e-3),
    "nadam L2": lambda: l2(nadam(0.1, 0.8, 0.9, 1e-3, momentum_decay=0.5)),
    "nadamw": lambda: nadamw(0.1, weight_decay=0.01, momentum_decay=4e-3),
    "radam": lambda: radam(0.1, eps_before_correction=True),
    "radam eps": lambda: radam(0.1, 0.8, 0.9, 1e-2, eps_before_correction=True),
    "adagrad": lambda: pytorch_adagrad(0.1, 0.0, 1e-10),
    "adagrad lr_decay": lambda: pytorch_adagrad(lambda t: 0.1 / (1 + 0.1 * t), 0.5, 1e-2),
    "adadelta": lambda: optim.adadelta(1.0),
    "adadelta L2": lambda: optim.adadelta(0.5, 0.8, 1e-3, weight_decay=0.01),
    "rmsprop": lambda: pytorch_rmsprop(0.99, 1e-8),
    "rmsprop eps": lambda: pytorch_rmsprop(0.9, 1e-2),
    "rmsprop centered": lambda: pytorch_rmsprop(0.9, 1e-3, centered=True),
    "rmsprop momentum": lambda: pytorch_rmsprop(0.9, 1e-8, momentum=0.5),
    "rprop": lambda: optim.rprop(0.1),
    "rprop bounds": lambda: optim.rprop(0.1, 0.4, 1.5, 0.07, 0.2),
}


def final(optimizer):
    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optim.apply_updates(params, updates), state), None

    params = [jnp.asarray(x, jnp.float64) for x in VALUES["start"]]
    gradients = [jnp.asarray(g) for g in zip(*VALUES["gradients"], strict=True)]
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
    return params


@pytest.mark.parametrize("name", VALUES["final"])
def test_pytorch(name, x64):
    for got, want in zip(final(OURS[name]()), VALUES["final"][name], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
