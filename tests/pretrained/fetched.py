"""Files of pretrained weights for the tests that download them."""

import pytest

from experiments.data.weights import fetch_weights
from experiments.errors import UsageError


def fetched(name):
    """The files of `name`; the test is skipped where they cannot be had."""
    try:
        return fetch_weights(name)
    except UsageError as error:
        pytest.skip(str(error))
