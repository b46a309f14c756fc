"""What a row of the mutants' tables says."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A wrong optimizer, a text of its file replaced, and the tests that must fail for it."""

    optimizer: str
    mutation: str
    file: str
    """In `jaxnets/optim`."""
    old: str
    """Exact text that occurs there once."""
    new: str
    tests: str
    """Arguments of pytest, with paths in `tests/optim`."""
    equivalent: str = ""
    """Why nothing can notice, if that is so."""


def mutants(optimizer: str, file: str, tests: str, *rows: tuple[str, ...]) -> list[Mutant]:
    """Rows of `(mutation, old, new)`, with other tests of its own as a fourth, if it has any."""
    return [Mutant(optimizer, mutation, file, old, new, *(own or (tests,))) for mutation, old, new, *own in rows]


def swap(what: str, first: str, second: str, *tests: str) -> tuple[str, ...]:
    """A row for two arguments of `chain` that change places."""
    gap = "\n        "
    return (what, f"{first},{gap}{second},", f"{second},{gap}{first},", *tests)
