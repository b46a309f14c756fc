"""What several experiments ask of their flags: each error names the flag and what it was given."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.errors import UsageError

Amounts = TypeVar("Amounts", bound=NamedTuple)


def filled(config: Any, defaults: Amounts) -> Amounts:
    """The config's fields of these names; where one is None, the default."""
    given = {name: getattr(config, name) for name in defaults._fields}
    return defaults._replace(**{name: v for name, v in given.items() if v is not None})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def require_positive(values: Mapping[str, float | None]) -> None:
    """Above 0 and finite, or None."""
    for name, value in values.items():
        if value is not None and not (value > 0 and np.isfinite(value)):
            raise UsageError(f"{_flag(name)} must be positive, got {value}")


def require_not_negative(values: Mapping[str, float]) -> None:
    """0 or above, and finite."""
    for name, value in values.items():
        if not (value >= 0 and np.isfinite(value)):
            raise UsageError(f"{_flag(name)} must not be negative, got {value}")


def require_shares(values: Mapping[str, float]) -> None:
    """In `[0, 1)`."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"{_flag(name)} must be from 0 to below 1, got {value}")


def require_seed(seed: int, seeds: int | None = None) -> None:
    """The first of `seeds` seeds, all of 31 bits."""
    most, why = 2**31 - 1, "2³¹ - 1"
    if seeds is not None:
        most, why = most - seeds, f"{why} - seeds"
    if not 0 <= seed <= most:
        raise UsageError(f"--seed must be from 0 to {most} ({why}), got {seed}")


def require_batch(batch_size: int, n: int, examples: str = "images") -> None:
    """A batch is of different training examples."""
    if batch_size > n:
        raise UsageError(
            f"--batch-size must be at most the {n} training {examples}, got {batch_size}"
        )
