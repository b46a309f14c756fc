"""EfficientNet in two parts: what is below, computed once, and what is above."""

import jax
import numpy as np
import pytest

from jaxnets import models
from tests.catalogue import EFFICIENTNET


@pytest.mark.thorough
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_part_above_goes_on_where_the_part_below_ends(blocks):
    params, state = models.init_efficientnet(jax.random.key(0), EFFICIENTNET)
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, EFFICIENTNET.n_in))
    below = models.efficientnet_below(params, EFFICIENTNET, x, state=state, blocks=blocks)
    arguments = (params, EFFICIENTNET, below)
    logits = models.efficientnet_above(*arguments, state=state, blocks=blocks)
    whole, _ = models.efficientnet(params, EFFICIENTNET, x, state=state)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    above = models.efficientnet_levels_above(*arguments, state=state, blocks=blocks)
    levels = models.efficientnet_levels(params, EFFICIENTNET, x, state=state)
    assert len(above) == len(levels) - blocks
    for ours, expected in zip(above, levels[blocks:], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
