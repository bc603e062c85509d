"""Ends a worker when the training hangs, because TensorFlow waits for lost workers for ever.

A worker that is killed breaks its connections, and the others end. One that is suspended, or whose
machine is gone, does not: the others' step never returns, no error comes, and no signal is seen.
A thread notices that and ends the process.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time

from utils.workers import rendezvous
from utils.workers.rendezvous import WorkerLost
from utils.workers.tasks import Task

import tensorflow.compat.v1 as tf

_POLLS = 20  # within the time that may pass


class Watchdog:
    """Ends the process when no step has ended for too long.

    Between the segments of a training, and before its first step, workers rightly wait: the chief
    evaluates, or another one is slow to build its graph. Then it is enough that the others' ports
    take connections.
    """

    def __init__(self, task: Task, patience: float):
        """Starts the thread, which ends with the process.

        Args:
          task: of this process.
          patience: seconds without a step after which the process ends.
        """
        self._task = task
        self._patience = patience
        self._stepping = False
        self._last = time.monotonic()
        self._paused = True
        if task.count > 1:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def wait(self) -> None:
        """Begins to expect the first step of a segment."""
        self._stepping, self._paused, self._last = False, False, time.monotonic()

    def step(self) -> None:
        """Notes that a step has ended, and expects the next one."""
        self._stepping, self._last = True, time.monotonic()

    def pause(self) -> None:
        """Expects no step until the next segment."""
        self._paused = True

    def _watch(self) -> None:
        interval = max(0.1, self._patience / _POLLS)
        while True:
            before = time.monotonic()
            time.sleep(interval)
            if time.monotonic() - before > interval + self._patience / 2:
                self._last = time.monotonic()  # it was this process that was suspended
            if not self._paused and not self._stepping and self._others_live():
                self._last = time.monotonic()
            if not self._paused and time.monotonic() - self._last > self._patience:
                self._end()

    def _others_live(self) -> bool:
        return all(
            rendezvous.can_be_reached(address)
            for index, address in enumerate(self._task.addresses)
            if index != self._task.index
        )

    def _end(self) -> None:
        print(
            f"error: Worker {self._task.index} ends: no step has ended for {self._patience:g} s "
            "(--step_timeout), so another worker hangs or its machine is gone; start all workers "
            "again: they resume from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        # Python is inside a step that will not return, so nothing gentler ends it.
        os._exit(WorkerLost.exit_status)


@functools.cache
def _of_process(task: Task, patience: float) -> Watchdog:
    return Watchdog(task, patience)


def hook(task: Task, patience: float) -> WatchdogHook:
    """Returns the hook that tells the watchdog of this process where the training is."""
    return WatchdogHook(_of_process(task, patience))


class WatchdogHook(tf.train.SessionRunHook):
    """Tells a watchdog where the training is."""

    def __init__(self, watchdog: Watchdog):
        self._watchdog = watchdog

    def begin(self):
        self._watchdog.wait()

    def after_run(self, run_context, run_values):
        self._watchdog.step()

    def end(self, session):
        self._watchdog.pause()
