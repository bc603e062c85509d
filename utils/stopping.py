"""SIGINT and SIGTERM: training saves a checkpoint first, anything else ends at once."""

from __future__ import annotations

import signal
import threading

from absl import logging

import utils.tensorflow_version  # noqa: F401

import tensorflow.compat.v1 as tf  # isort: skip

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(SystemExit):
    """The program was asked to stop; the exit status is 128 + the signal's number."""

    def __init__(self, signal_number: int):
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


class _State:
    """What the signal handler and the training hook share."""

    training = False
    requested: int | None = None


def _handle(signal_number, frame) -> None:
    del frame
    if _State.training and _State.requested is None:
        _State.requested = signal_number
        logging.info(
            "%s: finishing this step and saving a checkpoint; a second signal stops at once.",
            signal.Signals(signal_number).name,
        )
        return
    raise Stop(signal_number)


def install() -> None:
    """Handles both signals from now on (in the main thread; elsewhere it does nothing)."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _handle)


def is_requested() -> bool:
    """Whether a signal ended the training."""
    return _State.requested is not None


def raise_if_requested() -> None:
    """Raises Stop if a signal ended the training."""
    if _State.requested is not None:
        raise Stop(_State.requested)


class StopHook(tf.train.SessionRunHook):
    """Ends a training at the next step after a signal; the checkpoint hook then saves.

    It belongs among the training hooks that the model function gives: TPUEstimator calls those
    after its own, and those that `train` is given before them.
    """

    def after_create_session(self, session, coord):
        _State.training = True

    def before_run(self, run_context):
        # TPUEstimator's own hook has just set SIGINT to kill the process; take it back.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            install()

    def after_run(self, run_context, run_values):
        if _State.requested is not None:
            run_context.request_stop()

    def end(self, session):
        _State.training = False
