"""The error that is the user's to mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """Bad input: its message is one line that says what is wrong and what is accepted.

    The command line prints that line and no traceback.
    """


class FetchError(UsageError):
    """A package is not to be had here: its client is missing, or could not reach it.

    Never raised of what did come: a damaged or another file is a plain `UsageError`.
    """


def diverged(what: str, flag: str = "--learning-rate") -> UsageError:
    """Of a training whose loss, or the like, is no longer finite: `what` says which, and where."""
    return UsageError(f"training diverged: {what}; try a lower {flag}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean …?)"` if one of `known` is close to `name`, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
