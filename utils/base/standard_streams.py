"""Standard streams as programs find them: closed, on a full disk, or without letters like é."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from utils.base.errors import UserError, excerpt

_NAMES = ("stdin", "stdout", "stderr")


def open_missing() -> None:
    """Opens /dev/null for each stream that the program was started without, as by `>&-`.

    Otherwise the next file opened would get the stream's number, and native libraries, which write
    to that number, would write into it.
    """
    for name in _NAMES:
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the least that is free
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))


def check_locale(argv: list[str]) -> None:
    """Raises UserError for an argument that the locale cannot spell, and so no file of its name."""
    encoding = sys.getfilesystemencoding()
    for argument in argv:
        if encoding != "utf-8" and not argument.isascii():
            raise UserError(
                f"{excerpt(argument)} has letters that this locale ({encoding}) cannot spell: set "
                "the environment variable PYTHONUTF8=1, or LC_ALL=C.UTF-8."
            )


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Makes print() end in a UserError where stdout cannot be written, and flushes it at the end.

    Letters that stdout's encoding lacks are written as escapes. A BrokenPipeError stays what it is.
    """
    plain = sys.stdout
    if isinstance(plain, io.TextIOWrapper):
        plain.reconfigure(errors="backslashreplace")
    checked: Any = _CheckedOutput(plain)
    sys.stdout = checked
    try:
        try:
            yield
        finally:
            checked.flush()
    except _OutputError:
        discard_output()
        raise
    finally:
        sys.stdout = plain


def discard_output() -> None:
    """Lets what stdout still holds vanish: Python flushes it once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _OutputError(UserError):
    """stdout cannot be written."""

    def __init__(self, error: OSError):
        super().__init__(
            f"the output cannot be written ({error.strerror}): make room, or write it elsewhere."
        )


class _CheckedOutput:
    """A stream that tells its own errors from those of other files."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._checked(self._stream.write, text)

    def flush(self) -> None:
        self._checked(self._stream.flush)

    def _checked(self, method, *arguments):
        try:
            return method(*arguments)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise _OutputError(e) from e
