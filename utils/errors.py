"""The one kind of error that is a user's to repair."""

from typing import Any

_LONGEST = 200


class UserError(Exception):
    """Bad input. The message is one sentence naming the file, flag or value, and the remedy.

    Programs print it without a stack trace and exit with status 1 (`utils.cli`).
    """


def quoted(value: Any) -> str:
    """A value from a file as an error names it: in quotes if a text, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
