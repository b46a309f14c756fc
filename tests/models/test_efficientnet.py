"""EfficientNet in two parts: what is below, computed once, and what is above."""

import jax
import numpy as np
import pytest

from jaxnets import models
from tests.catalogue import EFFICIENTNET
from tests.numerics import normal


@pytest.mark.thorough
def test_the_part_above_goes_on_where_the_part_below_ends():
    params, state = jax.jit(models.init_efficientnet)(jax.random.key(0), EFFICIENTNET)
    x = normal(1, (2, 8, 8, EFFICIENTNET.n_in))

    @jax.jit
    def both(x):
        below = models.efficientnet_below(params, EFFICIENTNET, x, state=state, blocks=1)
        arguments, how = (params, EFFICIENTNET, below), {"state": state, "blocks": 1}
        parts = [models.efficientnet_above(*arguments, **how)]
        parts += models.efficientnet_levels_above(*arguments, **how)
        logits, _ = models.efficientnet(params, EFFICIENTNET, x, state=state)
        levels = models.efficientnet_levels(params, EFFICIENTNET, x, state=state)
        return parts, [logits, *levels[1:]]

    for ours, expected in zip(*both(x), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
