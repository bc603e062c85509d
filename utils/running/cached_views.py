"""Trains the classifier of a frozen network on features that are computed once (--cached_views).

All layers but the classifier are constant in a training with --freeze_backbone, dropout comes
behind them, and so does everything else that is random. So the input of the dropout, the features,
is computed once for some views of each picture and kept in a file in model_dir. The graph of the
training is the same as without: the steps feed features, so that TensorFlow runs nothing before
them, and a checkpoint holds the same variables.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

import imagenet_input
import mnasnet_model
from utils.base import files, memory, progress, version
from utils.base.errors import UserError
from utils.config import network
from utils.reading import records
from utils.training import averages, inputs, optimization

import tensorflow.compat.v1 as tf

FILE_NAME = "cached_features.npz"
LABELS = "labels_of_features"


class Features(NamedTuple):
    """Features with the classes of their pictures.

    Attributes:
      values: float32 [rows, width].
      labels: int32 [rows], 0-based.
    """

    values: np.ndarray
    labels: np.ndarray


def mark(labels: tf.Tensor) -> None:
    """Marks the labels, int32 [N], of a training graph for the hook that feeds features."""
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
    """The features of a run, which all of its trainings between evaluations use.

    Attributes:
      params: all settings.
      split: the training images.
      path: of the file of features.
    """

    def __init__(self, params: Mapping[str, Any], split: inputs.Split):
        self.params, self.split = params, split
        self.path = os.path.join(params["model_dir"], FILE_NAME)
        self._features: Features | None = None
        self._seed = _seed(params["tf_random_seed"])

    def input(self) -> ViewsInput:
        """Returns the input of a training: the views, which are read only to compute features."""
        source = self.split.input(0, ViewsInput, views=self.params["cached_views"])
        assert isinstance(source, ViewsInput)
        return source

    def hook(self) -> tf.train.SessionRunHook:
        """Returns the hook that computes or reads the features and feeds them to each step."""
        return _FeedHook(self)

    def prepare(self, session, features: tf.Tensor, labels: tf.Tensor, constants) -> None:
        """Reads the features from the file, or else computes them, once a run.

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
        origin = origin_of(self.params, self.split, weights)
        self._features = self._read(origin)
        if self._features is None:
            self._features = self._compute(session, [features, labels])
            write(self.path, origin, self._features)
            self._log("Computed", self._features)

    def batch(self, step: int) -> Features:
        """Returns the features and labels of the step that follows global step `step`."""
        assert self._features is not None
        views = self.params["cached_views"]
        num_images = len(self._features.labels) // views
        batch_size = self.params["train_batch_size"]
        rows = rows_of_step(step, num_images, views, batch_size, self._seed)
        return Features(self._features.values[rows], self._features.labels[rows])

    def _read(self, origin: Mapping[str, Any]) -> Features | None:
        """Returns the features in the file; None, and the log says why, if they are no use."""
        if not tf.io.gfile.exists(self.path):
            return None
        try:
            features = read(self.path, origin)
        except UserError as e:
            logging.warning("%s The features are computed again.", e)
            return None
        self._log("Using", features)
        return features

    def _log(self, what: str, features: Features) -> None:
        logging.info(
            "%s the features of %d views in %s (%s on disk and in memory).",
            what,
            len(features.labels),
            self.path,
            _megabytes(features.values.nbytes + features.labels.nbytes),
        )

    def _compute(self, session, fetches) -> Features:
        """Computes the features of all views, batch by batch, and shows the progress."""
        batches: list[Features] = []
        done, total = 0, self._num_rows
        bar = progress.Progress("compute features", total, "view", log_every=max(1, total // 10))
        with contextlib.closing(bar):
            is_last = False
            while not is_last:
                values, labels = session.run(fetches)
                real = labels != imagenet_input.PADDING
                batches.append(Features(values[real].astype(np.float32), labels[real]))
                done += len(batches[-1].labels)
                bar.update(min(done, total))
                is_last = not real.all()
        if not done:
            raise UserError("The training files hold no image: build the data set again.")
        return Features(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))

    def check_room(self) -> None:
        """Checks, before anything is built, that the features fit in memory and on the disk.

        Raises:
          UserError: they do not.
        """
        width = network.describe(self.params)["head_size"]
        size = self._num_rows * 4 * (width + 1)
        needs = f"--cached_views={self.params['cached_views']} needs {_megabytes(size)}"
        free = memory.free_memory()  # 0 if unknown
        if 0 < free < 2 * size:  # the batches, and the array that they become
            raise UserError(
                f"{needs} of memory twice, of which {_megabytes(free)} are free: lower "
                "--cached_views, or leave it out."
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


def rows_of_step(
    step: int, num_images: int, num_views: int, batch_size: int, seed: int
) -> np.ndarray:
    """Returns the rows of features, int64 [batch_size], of the step after global step `step`.

    Row `view * num_images + image` is a view of a picture. Every picture is taken once an epoch,
    shuffled anew, and another view of it in the next epoch. The rows depend on the arguments alone,
    so that a training and the one that resumes it agree.
    """
    first = step * batch_size
    epochs = range(first // num_images, (first + batch_size - 1) // num_images + 1)
    rows = [_rows_of_epoch(epoch, num_images, num_views, seed) for epoch in epochs]
    start = first - epochs[0] * num_images
    return np.concatenate(rows)[start : start + batch_size]


@functools.lru_cache(maxsize=2)
def _rows_of_epoch(epoch: int, num_images: int, num_views: int, seed: int) -> np.ndarray:
    images = np.random.default_rng([seed, epoch]).permutation(num_images)
    # In one epoch the pictures are seen in different views, and each in turn in all of its own.
    return (images + epoch) % num_views * num_images + images


def _seed(given: int | None) -> int:
    return secrets.randbits(62) if given is None else given


def write(path: str, origin: Mapping[str, Any], features: Features) -> None:
    """Writes features and what they were made of; the file is whole or not there.

    Raises:
      UserError: the file cannot be written; nothing is left of it.
    """
    content = io.BytesIO()
    np.savez(content, origin=json.dumps(origin), **features._asdict())
    files.write_bytes(path, content.getvalue())


def read(path: str, origin: Mapping[str, Any]) -> Features:
    """Returns the features in a file.

    Raises:
      UserError: the file cannot be read, is damaged, or was made of something else than `origin`.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as f, np.load(f) as content:
            theirs = json.loads(str(content["origin"]))
            features = Features(content["values"], content["labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tf.errors.OpError) as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e
    others = [name for name in origin if origin[name] != theirs.get(name)]
    if others:
        raise UserError(f"{path} does not fit this run (other {', '.join(others)}).")
    return features


def origin_of(
    params: Mapping[str, Any], split: inputs.Split, weights: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns all that determines the features of a run, as JSON has it, by the words for it.

    Args:
      params: all settings.
      split: the training images.
      weights: the variables that compute the features, by name.
    """
    described = network.describe(params)
    pictures = ("input_image_size", "resize_method", "min_crop_area", "random_flip")
    found = {
        "network": _digest({k: v for k, v in described.items() if k != "num_classes"}),
        "weights": _digest_of_weights(weights),
        "image settings": {name: params[name] for name in pictures},
        "training files": _digest(split.identity()),
        "order of classes": split.class_order,
        "number of views": params["cached_views"],
        "seed": params["tf_random_seed"],
        "precision": {name: params[name] for name in ("precision", "data_format")},
        "version": [version.__version__, tf.__version__],
    }
    return json.loads(json.dumps(found))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_of_weights(weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


class ViewsInput(imagenet_input.ImageNetInput):
    """Feeds view 0 of all pictures, then view 1 of all, and so on; at last padding without end.

    A view is a random crop, perhaps mirrored, as a training takes it. With a seed, the views are
    the same in each run.

    Attributes:
      views: number of views of each picture.
    """

    def __init__(self, *arguments: Any, views: int, **more: Any):
        """Keeps the number of views; the other arguments are those of `ImageNetInput`."""
        super().__init__(*arguments, **more)
        self.views = views

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Returns the examples in the order of the files, as strings; one host reads them all."""
        examples = records.dataset(self.list_segments())
        return examples.cache() if self.cache else examples

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        """Returns batches (images, labels) of which those beyond the last view are padding.

        Args:
          params: `batch_size`, as TPUEstimator sets it.
        """
        batch_size, seed = params["batch_size"], _seed(self.seed)

        @tf.autograph.experimental.do_not_convert
        def parse(number, value):
            # A flip takes the number behind that of its crop.
            return self.dataset_parser(value, tf.stack([tf.constant(seed, tf.int64), number * 2]))

        @tf.autograph.experimental.do_not_convert
        def set_shapes(images, labels):
            return self.set_shapes(batch_size, images, labels)

        padding = imagenet_input.black_batches(
            1, self.image_size, self.use_bfloat16, imagenet_input.PADDING
        )
        dataset = self.make_source_dataset(0, 1).repeat(self.views).enumerate()
        dataset = dataset.map(parse, num_parallel_calls=self.num_parallel_calls)
        dataset = dataset.concatenate(padding.unbatch()).batch(batch_size, drop_remainder=True)
        return records.without_tuning(dataset.map(set_shapes).prefetch(2), deterministic=True)


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


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
