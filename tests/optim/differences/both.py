"""Both libraries at once."""

import optax
import optax.contrib

from jaxnets import optim

BOTH = ((optim, optim), (optax, optax.contrib))
"""Each library's main part, and where it keeps what Optax has in `contrib`."""


def updates_of(optimizer, params, *gradients, **extra):
    """Each step's update, and the last state; the parameters stay."""
    state, sent = optimizer.init(params), []
    for g in gradients:
        update, state = optimizer.update(g, state, params, **extra)
        sent.append(update)
    return sent, state
