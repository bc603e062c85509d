"""Ends a program before its work is done.

At SIGINT and SIGTERM a training saves a checkpoint first; any other work ends at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from absl import logging

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(SystemExit):
    """Ends the program after a signal; the exit status is 128 + the number of the signal."""

    def __init__(self, signal_number: int):
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


def behind(error: BaseException) -> Stop | None:
    """Returns the stop that an error took the place of, if any.

    A signal may come at any line. TensorFlow's scopes that it unwinds raise errors of their own.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, Stop):
        found = found.__context__
    return found


class _State:
    """Holds what the signal handler, other threads and the training share."""

    training = False
    requested: int | None = None


def _handle(signal_number, frame) -> None:
    del frame
    if signal_number == signal.SIGINT:
        erase_echo()
    if _State.training and _State.requested is None:
        _State.requested = signal_number
        logging.info(
            "%s: finishing this step and saving a checkpoint; a second signal stops at once.",
            signal.Signals(signal_number).name,
        )
        return
    raise Stop(signal_number)


def erase_echo() -> None:
    """Erases the ^C that a terminal shows behind a line where Ctrl-C is pressed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
        if sys.stderr.isatty():
            # Not through the stream, in whose middle of writing the signal may have come.
            os.write(sys.stderr.fileno(), b"\b\b  \b\b")


def install() -> None:
    """Handles both signals from now on; does nothing outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _handle)


def uninstall() -> None:
    """Lets a further signal kill the process, for one that is done but for its exit.

    Python would print the stack trace of an exception that comes up in what runs at exit.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def request(signal_number: int) -> None:
    """Asks the training to end as if this process had got the signal, unless it got one before."""
    if _State.requested is None:
        _State.requested = signal_number


def is_requested() -> bool:
    """Whether a signal ends the training, or ended it."""
    return _State.requested is not None


def raise_if_requested() -> None:
    """Raises Stop if a signal ended the training."""
    if _State.requested is not None:
        raise Stop(_State.requested)


def start_training() -> None:
    """Lets signals from now on wait for the training to save."""
    _State.training = True


def end_training() -> None:
    """Lets signals end the program at once again."""
    _State.training = False


def restore() -> None:
    """Handles SIGINT again, if a library made it kill the process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        install()
