"""Starts the workers of a training on this machine, and starts them again when one is lost.

One worker that dies stops all: their steps wait for each other. So the others are ended, and all
start again from the last checkpoint, at new ports, because the old ones may still be taken.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from utils.base import stopping
from utils.workers import gpus, orphans, tasks
from utils.workers.lost import WorkerLost

_POLL = 0.1  # seconds
# How long the others may take to notice that one is lost, or to save at a signal. A checkpoint in a
# bucket takes some seconds.
GRACE_SECONDS = 60.0
GRACE_AFTER_LOSS = 15.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(command: Sequence[str], count: int, max_restarts: int, grace: float = GRACE_SECONDS) -> int:
    """Runs a command in several processes that find each other through TF_CONFIG.

    Where the machine has GPUs, each process sees one of them. The output of the chief is this
    process's own; the others' lines come with their number.

    Args:
      command: program and arguments.
      count: number of workers.
      max_restarts: how often to start all workers again after one was lost.
      grace: seconds that workers have to end after a signal.

    Returns:
      The exit status: 0; or 128 + the number of the signal that this process got; or that of the
      worker that failed first.
    """
    with _listening_to_signals() as received:
        for attempt in range(max_restarts + 1):
            with _Gang(command, count) as gang:
                status = gang.wait(received, grace)
            if not _is_loss(status) or received or attempt == max_restarts:
                break
            logging.info(
                "%s; starting all %d again from the last checkpoint (%d of at most %d times).",
                gang.failure, count, attempt + 1, max_restarts,
            )  # fmt: skip
    if _is_loss(status) and not received:
        logging.info("%s; not starting again (--max_restarts=%d).", gang.failure, max_restarts)
    return 128 - status if status < 0 else status


def _is_loss(status: int) -> bool:
    """Tells whether starting again may help: a worker was killed, or says that it lost another."""
    return status < 0 or status == WorkerLost.exit_status


class _Gang:
    """The processes of one attempt.

    Attributes:
      failure: what happened to the worker that failed first, in words.
    """

    def __init__(self, command: Sequence[str], count: int):
        self.failure = ""
        self._readers: list[threading.Thread] = []
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
        names = gpus.visible()
        self._processes: list[subprocess.Popen] = []
        try:
            for index in range(count):
                environment = _environment(tasks.Task(addresses, index), names)
                self._processes.append(self._start(command, index, environment))
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def _start(self, command, index: int, environment: Mapping[str, str]) -> subprocess.Popen:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=None if index == 0 else subprocess.PIPE,
            stderr=None if index == 0 else subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which passes it on.
            start_new_session=True,
            # A worker other than the chief has no part in what is typed.
            stdin=None if index == 0 else subprocess.DEVNULL,
        )
        if index:
            reader = threading.Thread(target=_pass_on, args=(process.stdout, index), daemon=True)
            reader.start()
            self._readers.append(reader)
        return process

    def wait(self, received: Sequence[int], grace: float) -> int:
        """Waits until all workers have ended, and ends those that do not; returns the status.

        Args:
          received: the signals that this process got; the list grows.
          grace: seconds that workers have to end after a signal.
        """
        passed_on = 0
        deadline = None
        first = 0  # the status of the worker that failed first
        while True:
            statuses = [process.poll() for process in self._processes]
            failed = [(i, s) for i, s in enumerate(statuses) if s]
            if failed and not first:
                # A worker that was killed comes before those that noticed.
                index, first = min(failed, key=lambda pair: pair[1])
                self.failure = _in_words(index, first)
                if not received:
                    stopped = first > 128  # by a signal that it got alone; the others save, too
                    deadline = time.monotonic() + (grace if stopped else GRACE_AFTER_LOSS)
            if all(status is not None for status in statuses):
                return 128 + received[0] if received else first
            if len(received) > passed_on:
                passed_on = len(received)
                deadline = time.monotonic() + grace
                self._signal(received[-1])
            if deadline is not None and time.monotonic() > deadline:
                _log_late([index for index, status in enumerate(statuses) if status is None])
                self.end()
                deadline = None
            time.sleep(_POLL)

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

    def end(self) -> None:
        """Kills what still runs, with all its children, and waits for it."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join(5)


def free_ports(count: int) -> list[int]:
    """Returns different ports of this machine that no program listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _environment(task: tasks.Task, names: Sequence[str]) -> dict[str, str]:
    environment = {**os.environ, tasks.VARIABLE: task.tf_config(), **orphans.environment()}
    if names:
        environment[gpus.VARIABLE] = names[task.index]
    return environment


def _pass_on(lines, index: int) -> None:
    """Prints the lines of a worker's output with its number."""
    for line in lines:
        with contextlib.suppress(OSError):
            text = line.decode(errors="replace").rstrip()
            print(f"worker {index}: {text}", file=sys.stderr, flush=True)


def _log_late(indices: Sequence[int]) -> None:
    numbers = ", ".join(map(str, indices))
    if len(indices) == 1:
        logging.info("Ending worker %s, which did not end itself.", numbers)
    else:
        logging.info("Ending workers %s, which did not end themselves.", numbers)


def _in_words(index: int, status: int) -> str:
    who = "The chief" if index == 0 else f"Worker {index}"
    if status < 0:
        return f"{who} was killed ({signal.Signals(-status).name})"
    if status == WorkerLost.exit_status:
        return f"{who} lost another worker"
    return f"{who} ended with status {status}"


@contextlib.contextmanager
def _listening_to_signals() -> Iterator[list[int]]:
    """Collects the numbers of the signals of the block, which are to be passed on."""
    received: list[int] = []

    def note(number, frame):
        del frame
        received.append(number)
        if number == signal.SIGINT:
            stopping.erase_echo()

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
