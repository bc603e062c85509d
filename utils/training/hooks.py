"""Hooks that a run adds to the estimator: saving, shapes, progress, summaries."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from utils.base import files, progress
from utils.training import checkpoints, inputs, model_files
from utils.workers import tasks

import tensorflow.compat.v1 as tf

_PICTURES = 16  # of the first batch
_PICTURES_TAG = "training_images"
_HISTOGRAMS_TAG = "weights"
# Of the files of events; of two of the same second, TensorBoard has to read the first one first.
_START_SUFFIX, _STEPS_SUFFIX = ".start", ".steps"


def training_summaries(
    loss: tf.Tensor,
    scalars: Mapping[str, tf.Tensor],
    global_step: tf.Tensor,
    params: Mapping[str, Any],
):
    """Adds summaries of scalars to the training graph, if the settings ask for summaries.

    Returns:
      The host_call that writes them, and the loss, from a TPU; None elsewhere, where the estimator
      writes them.
    """
    if not params["add_summaries"]:
        return None
    if not params["use_tpu"]:
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
        return None
    if params["skip_host_call"] or not params["model_dir"]:
        return None
    return _host_call({"loss": loss, **scalars}, global_step, params)


def _host_call(scalars, global_step, params):
    """Returns (function, tensors): the host writes them, and gets each value as a vector."""
    names = sorted(scalars)
    model_dir, queue = params["model_dir"], params["iterations_per_loop"]

    def write(step, *values):
        writer = tf.compat.v2.summary.create_file_writer(model_dir, max_queue=queue)
        with writer.as_default(), tf.compat.v2.summary.record_if(True):
            for name, value in zip(names, values, strict=True):
                tf.compat.v2.summary.scalar(name, tf.reduce_mean(value), step=step[0])
            return tf.summary.all_v2_summary_ops()

    vectors = [tf.reshape(tf.cast(scalars[name], tf.float32), [1]) for name in names]
    return write, [tf.reshape(global_step, [1]), *vectors]


class EventsHook(tf.train.SessionRunHook):
    """Writes, on every device, what no step computes: graph, first pictures, histograms.

    Graph and pictures are written where a training starts, not where it resumes: the graph alone
    has 9 MB and more, and TensorBoard shows the earlier ones. They have a file of their own: a
    bucket does not add to a file, so what the steps write is uploaded whole at each flush, every
    two minutes and before each evaluation. They are written after the second step, because a user
    waits for the first; with a TPU before it.

    Nothing here takes a random number of the training: the pictures have a graph and a session of
    their own, and operations for the histograms are made after all others.
    """

    def __init__(self, params: Mapping[str, Any], start: int, split: inputs.Split):
        """Opens the file of events; make the hook before the estimator builds its own.

        Args:
          params: all settings, with a model_dir.
          start: global step at which the training starts or resumes.
          split: the training images.
        """
        self._params, self._split = params, split
        self._start = self._next = self._last = start
        # First, for TensorBoard reads the files by their names, in which the time comes first.
        self._start_writer = self._open_start_writer() if start == 0 else None
        self._writer = open_writer(params["model_dir"])
        self._histograms: tf.Tensor | None = None
        self._steps_run = 0

    def begin(self):
        if not self._params["add_summaries"]:
            return
        self._graph = tf.get_default_graph()
        self._step = tf.train.get_global_step()
        if self._params["use_tpu"]:  # it returns after a loop of steps, perhaps after minutes
            self._write_start()
        if self._params["add_histograms"]:
            self._histograms = tf.summary.merge(
                [
                    # In no collection: the estimator writes what is in that of summaries.
                    tf.summary.histogram(f"{_HISTOGRAMS_TAG}/{v.op.name}", v, collections=[])
                    for v in tf.trainable_variables()
                ],
                collections=[],
            )

    def after_run(self, run_context, run_values):
        self._steps_run += 1
        if self._steps_run == 2:
            self._write_start()
        if self._histograms is None:
            return
        step = int(run_context.session.run(self._step))
        if step >= self._next:
            self._next = step + self._params["log_step_count_steps"]
            self._write_histograms(run_context.session, step)

    def end(self, session):
        self._write_start()
        if self._histograms is not None:
            self._write_histograms(session, int(session.run(self._step)))

    def close(self):
        if self._start_writer is not None:
            self._start_writer.close()

    def _write_start(self) -> None:
        """Writes graph and pictures, unless that is done, or not wanted."""
        if self._start_writer is None:
            return
        writer, self._start_writer = self._start_writer, None
        with writer:
            self._write_pictures(writer)
            # Last, for the first of the events is flushed apart, and the file twice.
            writer.add_graph(self._graph)

    def _write_histograms(self, session, step: int) -> None:
        if step != self._last:
            self._last = step
            self._writer.add_summary(session.run(self._histograms), step)

    def _open_start_writer(self) -> tf.summary.FileWriter | None:
        """Returns the writer of graph and pictures; None if the settings want no summaries."""
        if not self._params["add_summaries"]:
            return None
        return tf.summary.FileWriter(self._params["model_dir"], filename_suffix=_START_SUFFIX)

    def _write_pictures(self, writer: tf.summary.FileWriter) -> None:
        """Writes the first of the augmented pictures under the names of their classes."""
        found = self._split.first_images(_PICTURES)
        if found is None:
            return
        names = dict(enumerate(model_files.label_names(self._params)))
        with tf.Graph().as_default(), tf.Session(config=inputs.HOST_ALONE) as session:
            summary = tf.Summary.FromString(
                session.run(tf.summary.image(_PICTURES_TAG, found[0], _PICTURES))
            )
        for number, (value, label) in enumerate(zip(summary.value, found[1], strict=True)):
            # In the tag: TensorBoard's fast server leaves out the display name of a picture.
            value.tag = f"{_PICTURES_TAG}/{number:02} {names.get(label, f'class {label}')}"
        writer.add_summary(summary, self._start)


def open_writer(folder: str) -> tf.summary.FileWriter:
    """Returns the writer of a folder's events that the estimator and its hooks use as well.

    They take it from TensorFlow's cache, which would make one that begins with the graph, twice, in
    every run (17 MB for MnasNet-small), and an evaluation would upload that twice to a bucket. So
    the writer is put there first; the cache is private, but TensorFlow is pinned.
    """
    cache = tf.summary.FileWriterCache
    with cache._lock:
        if folder not in cache._cache:
            cache._cache[folder] = tf.summary.FileWriter(folder, filename_suffix=_STEPS_SUFFIX)
        return cache._cache[folder]


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
        with files.temporary_folder("mnasnet-worker-") as folder:
            # Saved as the chief's, so that the operations are the same.
            self._get_saver().save(
                session, os.path.join(folder, "model.ckpt"), step, write_meta_graph=False
            )
        return False
