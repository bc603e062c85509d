"""Lets the workers of a training meet before they start, and stop at the same step.

TensorFlow's collective operations wait for ever for a worker that is missing or builds another
graph. So the workers first meet on plain sockets, at the chief's address. Each sends its settings,
the chief compares them with its own, and answers all of them when all are there: with its plan, or
with the sentence in which every worker then refuses. TensorFlow's server takes the port after that.

A worker that stopped alone at a signal would leave the others waiting for it. So all of them count,
in every step, how many were asked to stop: one number that is summed with the gradients.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from utils.base import stopping
from utils.base.errors import UserError, quoted
from utils.workers.tasks import Task

import tensorflow.compat.v1 as tf


class WorkerLost(UserError):
    """Says that a worker is gone or cannot start, so that all of them must start again.

    Its exit status tells whoever started the workers that starting them again is worth while,
    which no other error's does: a wrong flag stays wrong.
    """

    exit_status = os.EX_TEMPFAIL


_LONGEST = 10**7  # bytes of a message; settings have some thousands
_PAUSE = 0.2  # seconds between two tries of a worker to reach the chief
_SILENCE = 30  # seconds after which the chief says for whom it waits
_LAST_WORD = 10  # seconds in which the others may still come to hear of a refusal


class Meeting:
    """Takes the other workers' messages at the chief's address from its making on.

    So they wait for a chief that still prepares, however long that takes, and give up only where no
    chief is.
    """

    def __init__(self, task: Task, listener: socket.socket | None):
        """Keeps where to listen; use `opened`.

        Args:
          task: of this process.
          listener: listens at its address; None for a process without other workers.
        """
        self._task = task
        self._listener = listener
        self._deadline = 0.0

    def lead(self, settings: Mapping[str, Any], plan: Any, patience: float) -> None:
        """Waits for all workers, compares their settings, sends them the plan; ends the meeting.

        Args:
          settings: of this process, by name.
          plan: what the workers are to know, of types that JSON has.
          patience: seconds to wait for the last one.

        Raises:
          UserError: a worker has other settings.
          WorkerLost: a worker does not come.
        """
        if self._listener is None:
            return
        settings = _as_json(settings)
        with self._listener, contextlib.ExitStack() as stack:
            waiting: dict[int, socket.socket] = {}
            refusal = None
            self._deadline = time.monotonic() + patience
            for index, connection, theirs in self._messages(waiting):
                stack.enter_context(connection)
                waiting[index] = connection
                difference = _difference(index, settings, theirs)
                if difference and refusal is None:
                    refusal = difference
                    # The others, too, are to hear why all end.
                    self._deadline = min(self._deadline, time.monotonic() + _LAST_WORD)
            missing = self._missing(waiting)
            if missing and refusal is None:
                raise WorkerLost(
                    f"{_workers(missing)} of {self._task.count} did not come within {patience:g} "
                    "s: look into the logs, and start all workers again."
                )
            answer = {"refusal": refusal} if refusal else {"plan": plan}
            for connection in waiting.values():
                with contextlib.suppress(OSError):  # it died: the first step will show it
                    connection.sendall(_message(answer))
        if refusal:
            raise UserError(refusal)

    def refuse(self, sentence: str) -> None:
        """Tells the workers that wait by now why the chief ends; does nothing after `lead`."""
        while self._listener is not None and self._listener.fileno() >= 0:
            found = _accept(self._listener, self._task)
            if found is None:
                return
            with found[0] as connection, contextlib.suppress(OSError):
                connection.sendall(_message({"refusal": sentence}))

    def _messages(self, waiting: Mapping[int, Any]) -> Iterator[tuple]:
        """Yields (index, connection, settings) of workers until all wait, or it is too late."""
        assert self._listener is not None
        next_word = time.monotonic() + _SILENCE
        while (missing := self._missing(waiting)) and time.monotonic() < self._deadline:
            found = _accept(self._listener, self._task)
            if found is not None:
                connection, message = found
                yield message["index"], connection, message["settings"]
            elif time.monotonic() > next_word:
                logging.info("Waiting for %s of %d.", _workers(missing), self._task.count)
                next_word = time.monotonic() + _SILENCE

    def _missing(self, waiting: Mapping[int, Any]) -> list[int]:
        return sorted(set(range(1, self._task.count)) - set(waiting))


@contextlib.contextmanager
def opened(task: Task) -> Iterator[Meeting]:
    """Opens the meeting as the chief; a process without other workers meets nobody.

    Raises:
      WorkerLost: the port of the chief is in use.
    """
    if task.count == 1:
        yield Meeting(task, None)
        return
    with _listening(task) as listener:
        meeting = Meeting(task, listener)
        try:
            yield meeting
        except UserError as e:
            meeting.refuse(f"The chief refuses: {e}")
            raise


def follow(task: Task, settings: Mapping[str, Any], patience: float) -> Any:
    """Reports to the chief as another worker; returns the chief's plan when all have reported.

    Args:
      task: of this process.
      settings: of this process, by name.
      patience: seconds without a chief after which to give up.

    Raises:
      UserError: the settings differ from the chief's.
      WorkerLost: the port of this worker is in use, or the chief does not answer.
    """
    with _listening(task):
        pass  # TensorFlow's server will need the port
    message = {"addresses": task.addresses, "index": task.index, "settings": _as_json(settings)}
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with socket.create_connection(_host_and_port(task.addresses[0]), 10) as chief:
                end = time.monotonic() + patience  # it is there, and may prepare for hours
                chief.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                chief.settimeout(None)
                chief.sendall(_message(message))
                answer = _read(chief)
        except (OSError, ValueError):  # the chief is not there yet, or has ended
            time.sleep(_PAUSE)
            continue
        if "refusal" in answer:
            raise UserError(answer["refusal"])
        return answer["plan"]
    raise WorkerLost(
        f"The chief at {task.addresses[0]} did not answer worker {task.index} within "
        f"{patience:g} s: look into its log, and start all workers again."
    )


def can_be_reached(address: str, seconds: float = 10) -> bool:
    """Whether something takes connections at an address."""
    try:
        with socket.create_connection(_host_and_port(address), seconds):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _listening(task: Task) -> Iterator[socket.socket]:
    """Listens at the port of this worker, on all its networks, while the block runs."""
    _, port = _host_and_port(task.address)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as e:
            raise WorkerLost(
                f"The address {task.address} of worker {task.index} cannot be used "
                f"({e.strerror}): another program has the port; end it, or give the workers other "
                "ports."
            ) from e
        listener.listen(task.count)
        listener.settimeout(_PAUSE)
        yield listener


def _accept(listener: socket.socket, task: Task) -> tuple[socket.socket, dict[str, Any]] | None:
    """Returns the next worker's connection and message; None if none came, or something else."""
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return None
    try:
        connection.settimeout(10)
        message = _read(connection)
        if tuple(message["addresses"]) == task.addresses and 0 < message["index"] < task.count:
            return connection, message
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing of ours
    connection.close()
    return None


def _message(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _read(connection: socket.socket) -> dict[str, Any]:
    """Returns the message of a connection; ValueError if it is none."""
    with connection.makefile("rb") as stream:
        line = stream.readline(_LONGEST)
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a message")
    return content


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as they look after a journey as JSON."""
    return json.loads(json.dumps(dict(settings), default=str))


def _difference(index: int, chief: Mapping[str, Any], worker: Mapping[str, Any]) -> str | None:
    """Returns the sentence that names what a worker does otherwise than the chief."""
    differences = [
        f"{name} is {quoted(worker.get(name))} (the chief's: {quoted(chief.get(name))})"
        for name in sorted({*chief, *worker})
        if chief.get(name) != worker.get(name)
    ]
    if not differences:
        return None
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return (
        f"Worker {index} has other settings than the chief: {', '.join(differences[:3])}{more}: "
        "start all workers with the same ones."
    )


def _workers(indices: list[int]) -> str:
    numbers = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
    return f"worker{'s' if len(indices) > 1 else ''} {numbers}"


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        return host.strip("[]"), int(port)
    except ValueError as e:
        raise UserError(f"The worker's address {quoted(address)} has no port: HOST:PORT.") from e


class StopHook(tf.train.SessionRunHook):
    """Ends a training at the next step after a signal; the checkpoint hook then saves.

    The model function must return this hook: TPUEstimator calls the hooks of the model function
    after its own, but the hooks given to `train` before them.
    """

    def after_create_session(self, session, coord):
        stopping.start_training()

    def before_run(self, run_context):
        stopping.restore()  # TPUEstimator's own hook has just set SIGINT to kill the process

    def after_run(self, run_context, run_values):
        self.end_training(run_context, stopping.is_requested())

    def end_training(self, run_context, asked: bool) -> None:
        """Ends the training if this was asked for."""
        if asked:
            run_context.request_stop()

    def end(self, session):
        stopping.end_training()


def stop_hook() -> StopHook:
    """Returns the hook of the training graph that is being built, which ends it at a signal.

    In that of one of several workers it adds the sum of the votes.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return StopHook()
    own = tf.py_func(lambda: np.float32(stopping.is_requested()), [], tf.float32, stateful=True)
    own.set_shape([])
    return VoteHook(context.all_reduce(tf.distribute.ReduceOp.SUM, own))


class VoteHook(StopHook):
    """Ends the training of all workers at the step in which one was asked to stop.

    The workers that got no signal then end as those that did, so that whoever started them knows
    why.
    """

    def __init__(self, votes: tf.Tensor):
        """Keeps the number of workers that are asked to stop, a float32 scalar."""
        self._votes = votes

    def before_run(self, run_context):
        super().before_run(run_context)
        return tf.train.SessionRunArgs(self._votes)

    def after_run(self, run_context, run_values):
        # Not by the own signal alone, which may have come after the vote.
        asked = bool(run_values.results > 0)
        if asked:
            stopping.request(signal.SIGTERM)
        self.end_training(run_context, asked)
