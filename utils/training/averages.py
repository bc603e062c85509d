"""Restores averaged weights where a checkpoint has them, and says which weights were used."""

from __future__ import annotations

from collections.abc import Callable

from absl import logging

from utils.training import checkpoints, optimization

import tensorflow.compat.v1 as tf

SUFFIX = "/ExponentialMovingAverage"


class AveragesSaver(tf.train.Saver):
    """Restores averaged weights into a network where the checkpoint has them, else the raw ones.

    It looks into the checkpoint itself, so that neither can be used by mistake
    (google/automl#168), and says which it used.
    """

    def __init__(self, use_averages: bool = True):
        self._use_averages = use_averages
        self._averaged_names = {v.op.name + SUFFIX: v for v in optimization.averaged_variables()}
        others = {
            v.op.name: v
            for v in tf.global_variables()
            if v.op.name + SUFFIX not in self._averaged_names
        }
        self._averages = tf.train.Saver({**others, **self._averaged_names})
        self._raw_names = {v.op.name: v for v in tf.global_variables()}
        super().__init__()

    def restore(self, sess, save_path):
        held = tf.train.load_checkpoint(save_path).get_variable_to_shape_map()
        averaged = self._use_averages and all(name in held for name in self._averaged_names)
        logging.info("Using the %s weights of %s.", "averaged" if averaged else "raw", save_path)
        checkpoints.check_shapes(save_path, {**self._raw_names, **self._averaged_names}, held)
        if averaged:
            self._averages.restore(sess, save_path)
        else:
            super().restore(sess, save_path)


def export_scaffold(params):
    """Returns the scaffold_fn of an export; None within the function that is its TPU program."""
    # Inside the TPU function a Saver would be traced into the program, which shares the variables
    # that the graph for CPUs has restored and saved.
    if tf.compat.v2.inside_function():
        return None
    return averages_scaffold(params["export_moving_average"])


def averages_scaffold(use_averages: bool) -> Callable[[], tf.train.Scaffold]:
    """Returns the scaffold_fn that restores averaged weights, or the raw ones if asked for."""
    return lambda: tf.train.Scaffold(saver=AveragesSaver(use_averages), **none_missing())


def none_missing() -> dict[str, tf.Tensor]:
    """Returns what tells a Scaffold that all variables are set, for a process that sets them.

    TensorFlow would ask each of them, which takes a second of the start of a training, and a
    quarter of a second of each evaluation.
    """
    names = tf.constant([], tf.string)
    return {"ready_op": names, "ready_for_local_init_op": names}
