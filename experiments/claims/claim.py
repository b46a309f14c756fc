"""What a claim's experiment gives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from experiments.claims.verdict import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tested(NamedTuple):
    """A sentence and what tests it."""

    sentence: str
    comparisons: Sequence[Comparison]
    """None only where `why` says why."""
    why: str = ""
    """Why it could not be tested."""


class Seen(NamedTuple):
    """A figure with what it shows."""

    figure: "Figure"
    caption: str


class Outcome(NamedTuple):
    """Of one claim's experiment."""

    setting: str
    """What was trained on what, and how: enough to do it again."""
    tested: Sequence[Tested]
    seen: Sequence[Seen]
    notes: str = ""
    """What the verdicts do not say; paragraphs."""
