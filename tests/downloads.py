"""What the tests that download share: they are skipped where a package is not to be had."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest

from experiments.errors import FetchError

P = ParamSpec("P")
R = TypeVar("R")


def or_skip(fetch: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `fetch(*args, **kwargs)` returns; the test is skipped if no client brings the package.

    Whatever came and is not what it must be is an error, as everywhere.
    """
    try:
        return fetch(*args, **kwargs)
    except FetchError as error:
        pytest.skip(str(error))
