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
from typing import Any

from absl import logging

from utils.base import stopping
from utils.base.errors import UserError, excerpt
from utils.workers import tasks
from utils.workers.rendezvous import WorkerLost
from utils.workers.tasks import current

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
_GPU_DRIVER = "/proc/driver/nvidia/version"
_DRIVER_SECONDS = 30  # a driver that hangs must not hang the program


def visible_gpus() -> list[str]:
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs that this process may use.

    They are those of the variable if it is set; else those that nvidia-smi lists.
    """
    named = os.environ.get(GPUS_VARIABLE)
    if named is not None:
        # As CUDA reads it: what follows an invalid name does not count.
        names = [name.strip() for name in named.split(",")]
        bad = [number for number, name in enumerate(names) if name in ("", "-1", "NoDevFiles")]
        return names[: bad[0]] if bad else names
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=_DRIVER_SECONDS
        ).stdout
        count = sum(line.startswith("GPU ") for line in listed.splitlines())
        return [str(number) for number in range(count)]
    return []


def has_gpu_driver() -> bool:
    """Whether the machine has NVIDIA's driver loaded."""
    return os.path.exists(_GPU_DRIVER)


def take_gpu(local_index: int | None) -> int:
    """Lets this process see one GPU alone, before TensorFlow looks for them.

    A process trains on one device; the others are for the other workers of the machine.

    Args:
      local_index: number of this process on the machine; None if whoever started it knows.

    Returns:
      How many GPUs the process could have had.
    """
    names = visible_gpus()
    if len(names) > 1:
        os.environ[GPUS_VARIABLE] = names[(local_index or 0) % len(names)]
    return len(names)


TRAINING_MODES = ("train", "train_and_eval")  # of several workers; the chief does the others
_MOST_WORKERS = 1024


def num_workers(params: Mapping[str, Any]) -> int:
    """Returns how many processes train together; an evaluation is always one process's.

    Raises:
      UserError: --num_workers is invalid, or more than this machine has GPUs.
    """
    if params["mode"] not in TRAINING_MODES:
        return 1
    if current().count > 1:
        return current().count
    given = params["num_workers"]
    found = len(visible_gpus()) if given != "1" else 0
    if given == "auto":
        return max(1, found)
    try:
        count = int(given)
    except ValueError:
        count = 0
    if not 1 <= count <= _MOST_WORKERS:
        raise UserError(
            f"--num_workers={excerpt(given)} is invalid: give a number from 1 to "
            f"{_MOST_WORKERS}, or auto for all GPUs of this machine."
        )
    if 0 < found < count:
        raise UserError(
            f"--num_workers={count}, but this machine shows {found} GPUs: give at most {found}, or "
            "look at CUDA_VISIBLE_DEVICES."
        )
    return count


def check(params: Mapping[str, Any]) -> None:
    """Refuses what several workers or an evaluator cannot do, before they are started.

    Raises:
      UserError: names the setting and the remedy.
    """
    if current().is_evaluator and params["mode"] != "eval":
        raise UserError(
            f"TF_CONFIG makes this process an evaluator, which --mode={params['mode']} is not for: "
            "start it with --mode=eval and the same --model_dir."
        )
    if params["use_tpu"]:
        _check_tpu(params)
        return
    workers, batch = num_workers(params), params["train_batch_size"]
    if workers == 1:
        return
    if batch % workers:
        below, above = batch // workers * workers, -(-batch // workers) * workers
        raise UserError(
            f"--train_batch_size={batch} is the batch of all workers and must be a multiple of "
            f"their number, {workers}: give {f'{below} or ' if below else ''}{above}."
        )
    for name in ("use_async_checkpointing", "cached_views"):
        if params[name]:
            raise UserError(
                f"--{name} is for one process: leave it out, or train without several workers "
                "(--num_workers, TF_CONFIG, srun)."
            )


def _check_tpu(params: Mapping[str, Any]) -> None:
    if params["num_workers"] != "1" or current().count > 1:
        raise UserError(
            "--num_workers, TF_CONFIG and srun are for GPUs and CPUs: one process trains on all "
            "cores of a TPU."
        )
    if params["sync_batch_norm"]:
        raise UserError(
            "--sync_batch_norm is for workers on GPUs and CPUs: each core of a TPU normalizes its "
            "part of the batch by itself, as published; leave it out."
        )


_LAUNCHER_VARIABLE = "MNASNET_LAUNCHER"  # process id of the launcher
_ORPHAN_POLL = 1.0  # seconds


def launcher_environment() -> dict[str, str]:
    """Returns what a launcher adds to the environment of its workers."""
    return {_LAUNCHER_VARIABLE: str(os.getpid())}


def end_with_launcher() -> None:
    """Sends this process SIGTERM, at which a training saves, once its launcher has died."""
    launcher = os.environ.pop(_LAUNCHER_VARIABLE, None)
    if launcher is None:
        return

    def wait() -> None:
        while os.getppid() == int(launcher):
            time.sleep(_ORPHAN_POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="orphans", daemon=True).start()


_GANG_POLL = 0.1  # seconds
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
                gang.failure,
                count,
                attempt + 1,
                max_restarts,
            )
    if _is_loss(status) and not received:
        logging.info("%s; not starting again (--max_restarts=%d).", gang.failure, max_restarts)
    return 128 - status if status < 0 else status


def _is_loss(status: int) -> bool:
    """Whether starting again may help: a worker was killed, or says that it lost another."""
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
        names = visible_gpus()
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
            time.sleep(_GANG_POLL)

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
    made = {**os.environ, tasks.VARIABLE: task.tf_config(), **launcher_environment()}
    if names:
        made[GPUS_VARIABLE] = names[task.index]
    return made


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
