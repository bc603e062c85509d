"""The one kind of error that a user can repair, and how its sentence shows a value."""

from typing import Any


class UserError(Exception):
    """Bad input. The message is one sentence naming the file, flag or value, and the remedy.

    Programs print it without a stack trace and exit with status 1 (`utils.base.program`).
    """


def quoted(value: Any) -> str:
    """Returns a value from a file as a sentence shows it: in quotes if it is a text."""
    return excerpt(repr(value))


def excerpt(text: str, most: int = 150) -> str:
    """Returns a text as a sentence shows it: on one line, and cut off where it is long."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return shown if len(text) <= most else f"{shown}..."
