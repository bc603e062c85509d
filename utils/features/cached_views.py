"""Trains the classifier of a frozen network on features that are computed once (--cached_views).

All layers but the classifier are constant in a training with --freeze_backbone, dropout comes
behind them, and so does everything else that is random. So the input of the dropout, the features,
is computed once for some views of each picture and kept in a file in model_dir. The graph of the
training is the same as without: the steps feed features, so that TensorFlow runs nothing before
them, and a checkpoint holds the same variables.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

import imagenet_input
import mnasnet_model
from utils.base import files, memory, progress
from utils.base.errors import UserError
from utils.config import network_settings
from utils.features import feature_file, origin
from utils.features.feature_file import Features
from utils.features.order import Order
from utils.features.views_input import ViewsInput
from utils.training import averages, inputs, optimization

import tensorflow.compat.v1 as tf  # isort: skip

LABELS = "labels_of_features"


def mark(labels: tf.Tensor) -> None:
    """Tells the hook of a training graph which labels belong to its features; adds no operation.

    Args:
      labels: int32 [N].
    """
    tf.add_to_collection(LABELS, labels)


def of_run(params: Mapping[str, Any], split: inputs.Split) -> CachedViews | None:
    """Returns the cached views of a run; None without --cached_views.

    Raises:
      UserError: they fit neither on the disk nor in memory.
    """
    if not params["cached_views"]:
        return None
    views = CachedViews(params, split)
    views.check_room()
    return views


class CachedViews:
    """Holds the features of a run; each of its trainings, between evaluations, uses them.

    Attributes:
      params: all settings.
      split: the training images.
      path: of the file of features.
    """

    def __init__(self, params: Mapping[str, Any], split: inputs.Split):
        self.params, self.split = params, split
        self.path = os.path.join(params["model_dir"], feature_file.FILE_NAME)
        self._features: Features | None = None
        self._order: Order | None = None

    def input(self) -> ViewsInput:
        """Builds the input of a training: the views, which are read only to compute features."""
        source = self.split.input(0, ViewsInput, views=self.params["cached_views"])
        assert isinstance(source, ViewsInput)
        return source

    def hook(self) -> tf.train.SessionRunHook:
        """Returns the hook that computes or reads the features and feeds them to each step."""
        return _FeedHook(self)

    def prepare(self, session, features: tf.Tensor, labels: tf.Tensor, constants) -> None:
        """Reads the features from the file or else computes them, once a run.

        Args:
          session: of a training graph whose variables have their values.
          features: float [N, width], the features of a batch.
          labels: int32 [N], its labels; `imagenet_input.PADDING` behind the last view.
          constants: the variables that compute the features, and their averages, by name.

        Raises:
          UserError: an image is damaged, or the weights differ from their averages, or the disk
            takes no more.
        """
        if self._features is not None:
            return
        weights = _checked_weights(session.run(constants), self.params["model_dir"])
        found = origin.of_run(self.params, self.split, weights)
        self._features = self._read(found)
        if self._features is None:
            self._compute(session, [features, labels], found)
            self._features = feature_file.read(self.path)
        views = self.params["cached_views"]
        self._order = Order(
            len(self._features.labels) // views, views, self.params["train_batch_size"],
            self.params["tf_random_seed"],
        )  # fmt: skip

    def batch(self, step: int) -> Features:
        """Returns the features and labels of the step that follows global step `step`."""
        assert self._features is not None and self._order is not None
        rows = self._order.rows(step)
        return Features(self._features.values[rows], self._features.labels[rows])

    def _read(self, expected: Mapping[str, Any]) -> Features | None:
        """Returns the features in the file; None, and the log says why, if they are no use."""
        if not tf.io.gfile.exists(self.path):
            return None
        try:
            others = origin.differences(expected, feature_file.read_origin(self.path))
            if others:
                raise UserError(f"{self.path} does not fit this run (other {', '.join(others)}).")
            features = feature_file.read(self.path)
        except UserError as e:
            logging.warning("%s The features are computed again.", e)
            return None
        logging.info(
            "Using the features of %d views in %s (%s).",
            len(features.labels), self.path, _size(features.values.nbytes),
        )  # fmt: skip
        return features

    def _compute(self, session, fetches, found: Mapping[str, Any]) -> None:
        """Computes the features of all views, and writes them to the file."""
        start = time.monotonic()
        batches = _batches(session, fetches, self._num_rows)
        width = fetches[0].shape.as_list()[1]
        rows = feature_file.write(self.path, found, width, batches)
        logging.info(
            "Computed the features of %d views in %s and keep them in %s (%s).",
            rows, progress.duration(time.monotonic() - start), self.path,
            _size(feature_file.num_bytes(rows, width)),
        )  # fmt: skip

    def check_room(self) -> None:
        """Checks, before anything is built, that the features fit in memory and on the disk.

        Raises:
          UserError: they do not.
        """
        width = network_settings.describe(self.params)["head_size"]
        size = feature_file.num_bytes(self._num_rows, width)
        needs = f"--cached_views={self.params['cached_views']} needs {_megabytes(size)}"
        free = memory.free_memory()  # 0 if unknown
        if 0 < free < size:
            raise UserError(
                f"{needs} of memory, of which {_megabytes(free)} are free: lower --cached_views, "
                "or leave it out."
            )
        folder = self.params["model_dir"]
        if files.is_remote(folder) or tf.io.gfile.exists(self.path):
            return
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"{needs} on the disk of {folder}, which has {_megabytes(free)} left: make room, "
                "lower --cached_views, or leave it out."
            )

    @property
    def _num_rows(self) -> int:
        return self.params["num_train_images"] * self.params["cached_views"]


class _FeedHook(tf.train.SessionRunHook):
    """Feeds features and labels to each step of a training."""

    def __init__(self, views: CachedViews):
        self._views = views

    def begin(self):
        # The features are the last tensor that is constant for an image.
        (self._features,) = tf.get_collection(mnasnet_model.FEATURES)
        (self._labels,) = tf.get_collection(LABELS)
        self._global_step = tf.train.get_global_step()
        self._constants = _constants()

    def after_create_session(self, session, coord):
        self._views.prepare(session, self._features, self._labels, self._constants)
        self._step = int(session.run(self._global_step))

    def before_run(self, run_context):
        values, labels = self._views.batch(self._step)
        values = values.astype(self._features.dtype.as_numpy_dtype, copy=False)
        return tf.train.SessionRunArgs(None, {self._features: values, self._labels: labels})

    def after_run(self, run_context, run_values):
        self._step += 1


def _batches(session, fetches, total: int) -> Iterator[Features]:
    """Yields the features of all views, batch by batch, and shows the progress."""
    done = 0
    bar = progress.Progress("compute features", total, "view", log_every=max(1, total // 10))
    with contextlib.closing(bar):
        while True:
            values, labels = session.run(fetches)
            real = labels != imagenet_input.PADDING
            done += int(real.sum())
            bar.update(min(done, total))
            if real.any():
                yield Features(values[real].astype(np.float32), labels[real])
            if not real.all():
                break
    if not done:
        raise UserError("The training files hold no image: build the data set again.")


def _constants() -> dict[str, tf.Variable]:
    """Returns the variables that compute features, with their averages, if they have any."""
    names = {v.op.name for v in optimization.constant_variables()}
    wanted = names | {name + averages.SUFFIX for name in names}
    return {v.op.name: v for v in tf.global_variables() if v.op.name in wanted}


def _checked_weights(values: Mapping[str, np.ndarray], model_dir: str) -> dict[str, np.ndarray]:
    """Returns the values without those of averages.

    Raises:
      UserError: an average differs from its weight. It would move towards it in each step of a
        training that reads the pictures, and evaluations use it.
    """
    weights = {n: value for n, value in values.items() if not n.endswith(averages.SUFFIX)}
    for name, value in weights.items():
        average = values.get(name + averages.SUFFIX)
        if average is not None and not np.array_equal(average, value):
            raise UserError(
                f"--cached_views: the weights of {name} in {model_dir} are not yet their averages, "
                "because they were trained there: leave --cached_views out, or start from this "
                f"folder in a new one, with --init_checkpoint={model_dir} --model_dir=NEW."
            )
    return weights


def _size(num_bytes: int) -> str:
    return f"{_megabytes(num_bytes)} on disk and in memory"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
