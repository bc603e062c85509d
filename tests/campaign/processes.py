"""Runs programs of the package as processes, and judges how they end.

A server process imports TensorFlow once and forks for each attempt, so that an attempt takes tenths
of a second instead of seconds. The server ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["mnasnet_main", "campaign.processes"])

TIME_LIMIT = 240  # seconds; a program that takes longer counts as a hang
MEMORY_LIMIT = 4 << 30
BUG = "this is a bug in mnasnet-tpu"  # begins a sentence that is a failure all the same
UNREAD = "a pipe that nobody reads"
FULL = "/dev/full"


def _main_of(module: str) -> Callable:
    """Returns the main function of a program; a package has it in its module `command`."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.command")
    return found.main


class Outcome(NamedTuple):
    """How a program ended: `status` is -N after signal N, and None if the time limit ended it."""

    status: int | None
    err: str


def _unread_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _program(module: str, argv: list[str], folder: str, limits: Mapping[int, int], out, err):
    """Does in the forked process what `python -m module argv` does, with its output in a file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(_unread_pipe() if out == UNREAD else os.open(os.path.join(folder, out), flags), 1)
    os.dup2(err.fileno(), 2)
    # The server's stdout may have no buffer, so the program gets one of its own.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.pop("TPU_NAME", None)
    # Temporary files that a program leaves are removed with the attempt's folder.
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk is an error, not a signal
    sys.argv = [module, *argv]
    from utils.base import program

    program.run(_main_of(module))


class Program:
    """A running program; `folder` is its working directory and takes its output."""

    def __init__(self, module: str, argv: list, folder: Path, limits=None, out="out"):
        # Errors go to a pipe, because a limit on the size of files would also limit a file of them.
        reading, writing = multiprocessing.Pipe(duplex=False)
        given = [str(argument) for argument in argv]
        self._process = _SERVER.Process(
            target=_program, args=(module, given, str(folder), limits or {}, out, writing)
        )
        self._err = bytearray()
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._process.start()
        writing.close()
        self._reader.start()

    def _read(self, reading) -> None:
        while data := os.read(reading.fileno(), 1 << 16):
            self._err += data
        reading.close()

    def err(self) -> str:
        """Returns what the program has written to stderr so far."""
        return self._err.decode(errors="replace")

    def wait(self, seconds: float = TIME_LIMIT) -> Outcome:
        """Waits for the end, kills the process after `seconds`, and returns the outcome."""
        self._process.join(seconds)
        status = self._process.exitcode
        self.kill()
        self._reader.join(5)
        return Outcome(status, self.err())

    def wait_for(self, condition: Callable[[str], bool], seconds: float = TIME_LIMIT) -> None:
        """Waits until stderr fulfils a condition, the program has ended, or `seconds` are over."""
        end = time.monotonic() + seconds
        while self._process.is_alive() and time.monotonic() < end and not condition(self.err()):
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Sends a signal, unless the program has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.is_alive():
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends the program and waits until it is gone."""
        self._process.kill()
        self._process.join()


def run(module: str, argv: list, folder: Path, limits=None, out: str = "out") -> Outcome:
    """Runs a program to its end or to the time limit; `out` names the file for its stdout."""
    return Program(module, argv, folder, limits, out).wait()


def misbehaviour(outcome: Outcome) -> str | None:
    """Says what a program did that none may do, whatever its input; None if there is nothing."""
    if outcome.status is None:
        return f"hang of more than {TIME_LIMIT} s"
    if outcome.status < 0:
        return f"crash by signal {-outcome.status}"
    for sign in ("Traceback (most recent call last)", "Exception ignored"):
        if sign in outcome.err:
            return f"stack trace: {outcome.err.strip().splitlines()[-1]}"
    if BUG in outcome.err:
        return f"bug: {outcome.err.strip().splitlines()[-1]}"
    if outcome.status and not _sentences(outcome.err):
        return f"status {outcome.status} without a sentence: {outcome.err[-200:]!r}"
    return None


def refused(outcome: Outcome, *words: str) -> str | None:
    """Says why an outcome is not a refusal in one sentence with the words; None if it is."""
    if problem := misbehaviour(outcome):
        return problem
    if outcome.status not in (1, 2):
        return f"status {outcome.status} instead of a refusal"
    sentences = _sentences(outcome.err)
    if len(sentences) != 1:
        return f"{len(sentences)} sentences: {sentences}"
    missing = [word for word in words if word not in sentences[0]]
    return f"{missing} not in {sentences[0]!r}" if missing else None


def finished(outcome: Outcome) -> str | None:
    """Says why an outcome is not a success; None if it is one."""
    return misbehaviour(outcome) or (f"refused: {outcome.err[-300:]}" if outcome.status else None)


def finished_or_refused(outcome: Outcome, *words: str) -> str | None:
    """Says why an outcome is neither a success nor a refusal in one sentence; None if it is."""
    return misbehaviour(outcome) or (refused(outcome, *words) if outcome.status else None)


def _sentences(err: str) -> list[str]:
    """Returns the lines that are error messages."""
    # argparse writes `prog: error: ...` after its usage.
    lines = err.splitlines()
    return [line for line in lines if line.startswith("error: ") or ": error: " in line]
