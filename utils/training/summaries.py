"""Writes what TensorBoard shows of a training: scalars, the graph, first pictures, histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.training import inputs, model_files

import tensorflow.compat.v1 as tf

_PICTURES = 16  # of the first batch
_PICTURES_TAG = "training_images"
_HISTOGRAMS_TAG = "weights"
# Of the files of events; of two of the same second, TensorBoard has to read the first one first.
_START_SUFFIX, _STEPS_SUFFIX = ".start", ".steps"


def of_training(
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
