"""Stops a training at a signal: all of its workers at the same step.

A worker that stopped alone would leave the others waiting for it. So all of them count, in every
step, how many were asked to stop: one number that is summed with the gradients.
"""

from __future__ import annotations

import signal

import numpy as np

from utils.base import stopping

import tensorflow.compat.v1 as tf


class StopHook(tf.train.SessionRunHook):
    """Ends a training at the next step after a signal; the checkpoint hook then saves.

    The model function must return this hook: TPUEstimator calls the hooks of the model function
    after its own, but the hooks given to `train` before them. An abandoned training ends with an
    error, so that no hook saves.
    """

    def after_create_session(self, session, coord):
        stopping.start_training()

    def before_run(self, run_context):
        stopping.restore()  # TPUEstimator's own hook has just set SIGINT to kill the process

    def after_run(self, run_context, run_values):
        self.end_training(run_context, stopping.is_requested())

    def end_training(self, run_context, asked: bool) -> None:
        """Ends the training if this was asked for; with an error if it is abandoned."""
        stopping.end_if_abandoned()
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
