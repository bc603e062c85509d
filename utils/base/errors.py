"""Defines the errors that the user can fix, and how a sentence shows a value."""

from typing import Any


class UserError(Exception):
    """Says in one sentence what is wrong: the file, flag or value, and the remedy.

    Commands print the sentence without a stack trace and exit (`utils.base.program`).

    Attributes:
      exit_status: of the command.
    """

    exit_status = 1


def quoted(value: Any) -> str:
    """Returns a value from a file as a sentence shows it: a text is in quotes."""
    return excerpt(repr(value))


def excerpt(text: str, most: int = 150) -> str:
    """Returns a text as a sentence shows it: on one line, and cut after `most` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return shown if len(text) <= most else f"{shown}..."
