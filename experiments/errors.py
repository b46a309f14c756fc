"""The error that is the user's to mend."""


class UsageError(Exception):
    """Bad input: its message is one line that says what is wrong and what is accepted.

    The command line prints that line and no traceback.
    """
