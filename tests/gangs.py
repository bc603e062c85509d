"""Trainings of several processes on this machine: their flags, their folders, what is left."""

import contextlib
import os
import pathlib
import signal
import time

from programs import flags, start

LIMIT = 240  # seconds for anything that could hang: here every mistake is a hang


def gang_flags(**values):
    """Flags of a short training of the tiny network in two processes, without evaluations."""
    given = {"num_workers": 2, "mode": "train", "step_timeout": 100, "max_restarts": 0, **values}
    return flags(**given)


@contextlib.contextmanager
def launched(*arguments, environment=None):
    """Starts the program; at the end it and all its workers are gone, whatever happened."""
    process = start(*arguments, environment=environment, start_new_session=True)
    try:
        yield process
    finally:
        left = workers(process.pid)
        for pid in [process.pid, *left]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def run_gang(*arguments, environment=None, limit=LIMIT):
    """Runs the program to its end; returns (status, stderr). No process of it may be left."""
    with launched(*arguments, environment=environment) as process:
        known = set()
        _, err = process.communicate(timeout=limit)
        known.update(workers(process.pid))
        assert not known, "a worker is left"
    return process.returncode, err


def workers(launcher):
    """The process ids of a launcher's workers, the chief's first."""
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == launcher and fields[0] != "Z":
                found.append(int(folder.name))
    return sorted(found)


def wait_for(condition, what):
    """Waits until a condition holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"no {what} within {LIMIT} s"
        time.sleep(0.1)
