"""Prepares the standard streams: closed, full, without letters like é, or flooded by C++ code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import logging

from utils.base.errors import UserError, excerpt

_NAMES = ("stdin", "stdout", "stderr")


def open_missing() -> None:
    """Opens /dev/null for each stream that the program was started without, as by `>&-`.

    Otherwise the next file that is opened would get the number of the stream, and native libraries,
    which write to that number, would write into the file.
    """
    for name in _NAMES:
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))


def check_locale(argv: list[str]) -> None:
    """Raises UserError for an argument that the locale cannot spell, for no file has its name."""
    encoding = sys.getfilesystemencoding()
    for argument in argv:
        if encoding != "utf-8" and not argument.isascii():
            raise UserError(
                f"{excerpt(argument)} has letters that this locale ({encoding}) cannot spell: set "
                "the environment variable PYTHONUTF8=1, or LC_ALL=C.UTF-8."
            )


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Makes print() raise UserError if stdout cannot be written, and flushes stdout at the end.

    Letters that the encoding of stdout lacks are written as escapes. A BrokenPipeError stays as it
    is, for a reader that has read enough is no mistake.
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
    """Drops what stdout still holds, because Python flushes stdout once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _OutputError(UserError):
    """Says that stdout cannot be written."""

    def __init__(self, error: OSError):
        super().__init__(
            f"the output cannot be written ({error.strerror}): make room, or write it elsewhere."
        )


class _CheckedOutput:
    """Wraps a stream and tells its own errors from those of other files."""

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


@contextlib.contextmanager
def hold_native_output() -> Iterator[None]:
    """Holds back what C++ code writes to stdout and stderr; an exception lets the text out.

    TensorFlow Lite's converter and interpreter print notes at every use, whatever the log level.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as held:
        for number in saved:
            os.dup2(held.fileno(), number)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved[2], held.read())
            raise
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            logging.set_verbosity(verbosity)
