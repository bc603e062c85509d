"""Hooks that a run adds to the estimator: saving, shapes and progress."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from utils.base import progress, scratch
from utils.training import checkpoints
from utils.workers import tasks

import tensorflow.compat.v1 as tf


def saver_hooks(params: Mapping[str, Any]) -> list[tf.train.SessionRunHook]:
    """The hook that saves checkpoints to model_dir; none without a model_dir.

    Without a TPU its saver writes one part. The estimator's own makes parts for the devices of many
    machines in a folder and merges them, to the same bytes, which takes a bucket 13 requests more.
    """
    if not params["model_dir"]:
        return []
    # A model function may be called once for each of several devices.
    if not params["use_tpu"] and not tf.get_collection(tf.GraphKeys.SAVERS):
        saver = tf.train.Saver(
            max_to_keep=params["keep_checkpoint_max"], defer_build=True, save_relative_paths=True
        )
        tf.add_to_collection(tf.GraphKeys.SAVERS, saver)
    steps = params["save_checkpoints_steps"] or params["steps_per_eval"]
    if params["use_async_checkpointing"]:
        # Imported here: the module is internal to TensorFlow and only this setting needs it.
        from tensorflow.python.tpu import async_checkpoint

        return [async_checkpoint.AsyncCheckpointSaverHook(params["model_dir"], save_steps=steps)]
    make = SaverHook if tasks.current().is_chief else TakingPartInSavesHook
    hook = make(params["model_dir"], steps)
    hook._set_steps_per_run(params["iterations_per_loop"] if params["use_tpu"] else 1)
    return [hook]


class ShapesHook(tf.train.SessionRunHook):
    """Checks, before a training resumes, that its checkpoint has the shapes of the network."""

    def __init__(self, checkpoint: str | None):
        self._checkpoint = checkpoint

    def begin(self):
        if self._checkpoint:
            variables = {v.op.name: v for v in tf.global_variables()}
            checkpoints.check_shapes(self._checkpoint, variables)


class ProgressHook(tf.train.SessionRunHook):
    """Shows a progress line with ETA, and writes images per second for TensorBoard."""

    def __init__(self, params: Mapping[str, Any], start: int):
        self._params = params
        self._start = start
        self._progress: progress.Progress | None = None
        self._step_done = self._next_summary = self._last_summary = start

    def begin(self):
        self._step = tf.train.get_global_step()
        self._loss = tf.get_collection(tf.GraphKeys.LOSSES)[-1]

    def after_create_session(self, session, coord):
        self._progress = progress.Progress(
            "train",
            self._params["train_steps"],
            done=self._start,
            log_every=self._params["log_step_count_steps"],
        )
        self._results, self._setting_up = [self._loss], 1
        if self._params["add_summaries"] and not self._params["use_tpu"]:
            # The estimator writes them after some of the steps; but all compute them, because the
            # session would prepare its graph once more for a step with other results.
            self._results += tf.get_collection(tf.GraphKeys.SUMMARY_OP)
            self._setting_up = 2  # after the second, graph and pictures are written

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._results)

    def after_run(self, run_context, run_values):
        # Read after the step: read next to it, the value may be of before or after the update.
        self._step_done = int(run_context.session.run(self._step))
        self._progress.record(self._step_done)
        if self._setting_up:  # the session was prepared, which says nothing of the speed
            self._progress.restart_clock()
            self._setting_up -= 1
        values = {"loss": float(run_values.results[0])}
        if self._images_a_second():
            values["images/s"] = round(self._images_a_second(), 1)
        self._progress.show(**values)
        if self._step_done >= self._next_summary:
            self._write_summary()

    def end(self, session):
        # A run that is shorter than the interval is to show something, too.
        self._progress.log()
        if self._step_done != self._last_summary:
            self._write_summary()

    def _images_a_second(self):
        return self._progress.rate() * self._params["train_batch_size"]

    def _write_summary(self):
        if not self._params["add_summaries"] or not self._images_a_second():
            return
        self._last_summary = self._step_done
        self._next_summary = self._step_done + self._params["log_step_count_steps"]
        value = tf.Summary.Value(tag="images_per_second", simple_value=self._images_a_second())
        writer = tf.summary.FileWriterCache.get(self._params["model_dir"])
        writer.add_summary(tf.Summary(value=[value]), self._step_done)

    def close(self):
        if self._progress:
            self._progress.close()


class EvalProgressHook(tf.train.SessionRunHook):
    """Shows a progress line of an evaluation on a terminal."""

    def __init__(self, steps: int):
        self._steps = steps
        self._done = 0
        self._progress: progress.Progress | None = None

    def after_create_session(self, session, coord):
        self._done = 0
        self._progress = progress.Progress("evaluate", self._steps, unit="batch")

    def after_run(self, run_context, run_values):
        self._done += 1
        self._progress.update(self._done)

    def close(self):
        if self._progress:
            self._progress.close()


@contextlib.contextmanager
def closing(hooks):
    """Ends the hooks' progress lines whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            if hasattr(hook, "close"):
                hook.close()


class SaverHook(tf.train.CheckpointSaverHook):
    """Saves every N steps and at the end; not at the start, and without the graph.

    Graph and meta graph would add seconds to every start and megabytes to every checkpoint, and
    nothing here reads them.
    """

    def __init__(self, model_dir: str, save_steps: int):
        super().__init__(model_dir, save_steps=save_steps, save_graph_def=False)

    def _save(self, session, step):
        try:
            return super()._save(session, step)
        except tf.errors.OutOfRangeError as e:
            # A file too large for its disk; a session would take it for the end of the images.
            raise OSError(e.message) from e

    def after_create_session(self, session, coord):
        self._timer.update_last_triggered_step(session.run(self._global_step_tensor))


class TakingPartInSavesHook(SaverHook):
    """Saves whenever the chief saves, and throws away what it saved.

    The moving statistics are averaged over all workers as they are read, so a chief that saved
    alone would wait for the others for ever.
    """

    def begin(self):
        # Not the parent's, which would open a file of events in model_dir.
        self._global_step_tensor = tf.train.get_global_step()

    def _save(self, session, step):
        with scratch.folder("mnasnet-worker-") as folder:
            # Saved as the chief's, so that the operations are the same.
            self._get_saver().save(
                session, os.path.join(folder, "model.ckpt"), step, write_meta_graph=False
            )
        return False
