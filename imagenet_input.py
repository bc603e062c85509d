"""Datasets of (images, labels): from TFRecords, from Cloud Bigtable, or black for measuring.

A record is a serialized tf.train.Example with `image/encoded` (JPEG, or another format that
TensorFlow decodes) and `image/class/label`, 1-based. Labels are 0-based from here on.

Training shuffles, repeats for ever and drops nothing. Evaluation is in order and counts every image
once whatever the batch size: the last batch is filled up with black images labelled `PADDING`.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import preprocessing
from preprocessing import MEAN_RGB, STDDEV_RGB  # noqa: F401  (published here too)
from utils import bigtable, dataset_info, records

import tensorflow.compat.v1 as tf  # isort: skip

PADDING = -1
SERVING_IMAGES = "serving_images"
SHUFFLE_BUFFER = 1024
TRAIN_PREFIX = "train-"
EVAL_PREFIX = "validation-"


def build_image_serving_input_fn(
    image_size: int = preprocessing.IMAGE_SIZE, *, resize_method: str = "bicubic"
):
    """Returns the input function of a SavedModel.

    Its placeholder `image_bytes`, a vector of encoded pictures, feeds float32
    [N, image_size, image_size, 3] in [0, 255]. A second signature feeds these images themselves.
    """

    def serving_input_fn():
        def preprocess(image_bytes):
            return preprocessing.preprocess_image(
                image_bytes, image_size=image_size, resize_method=resize_method
            )

        image_bytes = tf.placeholder(tf.string, [None], name="image_bytes")
        images = tf.map_fn(preprocess, image_bytes, back_prop=False, dtype=tf.float32)
        # A name of its own: the signature `images` feeds this tensor.
        images = tf.identity(images, SERVING_IMAGES)
        return tf.estimator.export.TensorServingInputReceiver(
            images, {"image_bytes": image_bytes}, {"images": {"images": images}}
        )

    return serving_input_fn


def _host(params: Mapping[str, Any]) -> tuple[int, int]:
    """(index of this host, number of hosts) for an input function's params."""
    context = params.get("context")
    if context is None or not params.get("use_tpu"):
        return 0, 1
    return context.current_input_fn_deployment()[1], context.num_hosts


class ImageNetTFExampleInput:
    """Input from serialized tf.train.Examples, wherever they come from.

    Subclasses say where in `make_source_dataset`.
    """

    def __init__(
        self,
        is_training: bool,
        use_bfloat16: bool,
        transpose_input: bool,
        image_size: int = preprocessing.IMAGE_SIZE,
        num_parallel_calls: int = 64,
        *,
        resize_method: str = "bicubic",
        augmentation: preprocessing.Augmentation | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
    ):
        """Keeps the settings.

        Args:
          is_training: shuffle, augment and repeat; else in order, once.
          use_bfloat16: feed bfloat16 images.
          transpose_input: feed [H, W, C, N] instead of [N, H, W, C].
          image_size: side of the images.
          num_parallel_calls: pictures decoded at a time, at most twice the cores.
          resize_method: see `preprocessing`.
          augmentation: random crops and flips of training.
          num_classes: labels beyond it are an error; None accepts all.
          seed: fixes shuffling and augmentation: two runs then feed the same batches.
        """
        self.is_training = is_training
        self.use_bfloat16 = use_bfloat16
        self.transpose_input = transpose_input
        self.image_size = image_size
        self.num_parallel_calls = min(num_parallel_calls, 2 * (os.cpu_count() or 1))
        self.resize_method = resize_method
        self.augmentation = augmentation
        self.num_classes = num_classes
        self.seed = seed

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Serialized examples for host `index` of `num_hosts`, each once, unshuffled or by file."""
        raise NotImplementedError

    def dataset_parser(self, value: tf.Tensor, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        """One serialized example to (image [S, S, 3], label int32)."""
        image_bytes, label = records.parse(value)
        label = label - 1
        if self.num_classes is not None:
            in_range = tf.logical_and(label >= 0, label < self.num_classes)
            message = records.label_message(label + 1, self.num_classes)
            with tf.control_dependencies([tf.Assert(in_range, [message])]):
                label = tf.identity(label)
        image = preprocessing.preprocess_image(
            image_bytes,
            self.is_training,
            self.use_bfloat16,
            self.image_size,
            resize_method=self.resize_method,
            augmentation=self.augmentation,
            seed=seed,
        )
        return image, label

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        """The dataset of batches; `params['batch_size']` is set by TPUEstimator."""
        host, num_hosts = _host(params)
        dataset = self.make_source_dataset(host, num_hosts)
        batch_size = params["batch_size"]
        if self.is_training:
            dataset = self._train_batches(dataset, batch_size, host)
        else:
            dataset = self._eval_batches(dataset, batch_size, endless=bool(params.get("use_tpu")))
        if self.transpose_input:
            dataset = dataset.map(_transpose)
        # Two batches hide the decoding behind the step; more would only take memory.
        return dataset.prefetch(2).with_options(self._options())

    def _options(self) -> tf.data.Options:
        options = tf.data.Options()
        # Order between threads may vary unless a seed asks for the same batches twice.
        options.deterministic = not self.is_training or self.seed is not None
        return options

    def _train_batches(self, dataset, batch_size, host):
        dataset = dataset.shuffle(SHUFFLE_BUFFER, self.seed).repeat()
        seed = secrets.randbits(62) if self.seed is None else self.seed
        # Hosts draw differently though their pictures are numbered alike.
        base = tf.constant((seed + (host << 32)) % 2**63, tf.int64)

        @tf.autograph.experimental.do_not_convert
        def parse(number, value):
            return self.dataset_parser(value, tf.stack([base, number * 2]))

        dataset = dataset.enumerate().map(parse, num_parallel_calls=self.num_parallel_calls)
        return dataset.batch(batch_size, drop_remainder=True)

    def _eval_batches(self, dataset, batch_size, endless):
        parse = tf.autograph.experimental.do_not_convert(self.dataset_parser)
        dataset = dataset.map(parse, num_parallel_calls=self.num_parallel_calls)
        dataset = dataset.batch(batch_size)

        @tf.autograph.experimental.do_not_convert
        def pad(images, labels):
            missing = batch_size - tf.shape(labels)[0]

            def fill_up():
                black = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
                return black, tf.pad(labels, [[0, missing]], constant_values=PADDING)

            # Only the last batch is copied.
            images, labels = tf.cond(missing > 0, fill_up, lambda: (images, labels))
            images.set_shape([batch_size, self.image_size, self.image_size, 3])
            labels.set_shape([batch_size])
            return images, labels

        dataset = dataset.map(pad)
        if endless:
            # Every core of every host takes the same number of batches: what is missing is padding.
            padding = black_batches(batch_size, self.image_size, self.use_bfloat16, PADDING)
            dataset = dataset.concatenate(padding)
        return dataset


@tf.autograph.experimental.do_not_convert
def _transpose(images, labels):
    return tf.transpose(images, [1, 2, 3, 0]), labels


def black_batches(batch_size: int, image_size: int, use_bfloat16: bool, label: int):
    """An endless dataset of batches of black images with one label."""
    dtype = tf.bfloat16 if use_bfloat16 else tf.float32
    images = tf.zeros([batch_size, image_size, image_size, 3], dtype)
    labels = tf.fill([batch_size], tf.constant(label, tf.int32))
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


class ImageNetInput(ImageNetTFExampleInput):
    """Input from the TFRecord files `train-*` or `validation-*` of a folder or bucket.

    `data_dir` None or 'null' feeds black images with label 0, for measuring a model alone.
    """

    def __init__(
        self,
        is_training: bool,
        use_bfloat16: bool,
        transpose_input: bool,
        data_dir: str | None,
        image_size: int = preprocessing.IMAGE_SIZE,
        num_parallel_calls: int = 64,
        cache: bool | None = False,
        *,
        segments: Sequence[records.Segment] | None = None,
        **more: Any,
    ):
        """See `ImageNetTFExampleInput`.

        Args:
          data_dir: where the files are.
          cache: keep the encoded training pictures in memory; None decides by the free memory.
          segments: the parts of the files to read, from a scan; None reads all of them.
        """
        super().__init__(
            is_training, use_bfloat16, transpose_input, image_size, num_parallel_calls, **more
        )
        self.data_dir = None if data_dir in (None, "null") else data_dir
        self.file_prefix = TRAIN_PREFIX if is_training else EVAL_PREFIX
        self.cache = cache
        self.segments = segments

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        if self.data_dir is not None:
            return super().input_fn(params)
        dataset = black_batches(params["batch_size"], self.image_size, self.use_bfloat16, 0)
        if self.transpose_input:
            dataset = dataset.map(_transpose)
        return dataset

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        segments = self.list_segments()
        if self.is_training:
            return self._train_source(segments, index, num_hosts)
        return self._eval_source(segments, index, num_hosts)

    def list_segments(self) -> list[records.Segment]:
        """The parts of the files to read: all of them unless the constructor was told."""
        assert self.data_dir is not None  # input_fn feeds black images then
        if self.segments is not None:
            return list(self.segments)
        paths = records.list_files(self.data_dir, self.file_prefix)
        return [records.Segment(path) for path in paths]

    def _train_source(self, segments, index, num_hosts):
        cache = self.cache
        if cache is None:
            cache = records.fits_in_memory(sorted({segment.path for segment in segments}))
        split_records = len(segments) < num_hosts
        if not split_records:
            segments = segments[index::num_hosts]
        dataset = records.segment_list(segments)
        # Hosts that share files must read them in one order to split the records.
        if not cache and not split_records:
            dataset = dataset.shuffle(len(segments), self.seed)
        dataset = dataset.interleave(
            records.segment_dataset,
            cycle_length=min(16, len(segments)),
            num_parallel_calls=min(16, len(segments), self.num_parallel_calls),
            deterministic=split_records or self.seed is not None,
        )
        if split_records:
            dataset = dataset.shard(num_hosts, index)
        return dataset.cache() if cache else dataset

    def _eval_source(self, segments, index, num_hosts):
        """Records in order. No host has more than one image more than another.

        Where the counts are known, each host reads its own files (and a part of one at either end
        of its range); else all hosts read all files and take turns.
        """
        counted = self._counted(segments) if num_hosts > 1 else None
        if counted is not None:
            segments = records.share(counted, index, num_hosts)
            if not segments:  # fewer images than hosts
                return tf.data.Dataset.from_tensor_slices(tf.constant([], tf.string))
        dataset = records.segment_list(segments).flat_map(records.segment_dataset)
        return dataset if counted is not None else dataset.shard(num_hosts, index)

    def _counted(self, segments: list[records.Segment]) -> list[records.Segment] | None:
        """The segments with their counts, from dataset_info.json; None where they are unknown."""
        info = dataset_info.load(self.data_dir)
        counts = info.shards if info else {}
        counted = [
            s if s.count >= 0
            else dataclasses.replace(s, count=counts.get(os.path.basename(s.path), -1))
            for s in segments
        ]  # fmt: skip
        return counted if all(s.count >= 0 for s in counted) else None


class BigtableSelection(NamedTuple):
    """Where in Cloud Bigtable the records are: one serialized example a row.

    A row's key is the prefix and its ten-digit zero-filled index.
    """

    project: str
    instance: str
    table: str
    prefix: str
    column_family: str
    column_qualifier: str


class ImageNetBigtableInput(ImageNetTFExampleInput):
    """Input from Cloud Bigtable; it feeds what `ImageNetInput` feeds from the same records."""

    def __init__(
        self,
        is_training: bool,
        use_bfloat16: bool,
        transpose_input: bool,
        selection: BigtableSelection,
        image_size: int = preprocessing.IMAGE_SIZE,
        num_parallel_calls: int = 64,
        cache: bool | None = False,
        *,
        num_images: int | None = None,
        **more: Any,
    ):
        """See `ImageNetTFExampleInput`.

        Args:
          selection: where the rows are.
          cache: keep the encoded training pictures in memory; None decides by the free memory.
          num_images: rows with the prefix; None counts them first.
        """
        super().__init__(
            is_training, use_bfloat16, transpose_input, image_size, num_parallel_calls, **more
        )
        self.selection = selection
        self.cache = cache
        self.num_images = num_images

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        rows = bigtable.RowReader(self.selection, self.num_classes)
        total = rows.count() if self.num_images is None else self.num_images
        first, end = total * index // num_hosts, total * (index + 1) // num_hosts
        dataset = bigtable.dataset(
            rows, first, end, shuffle=self.is_training, seed=self.seed,
            deterministic=not self.is_training or self.seed is not None,
        )  # fmt: skip
        cache = self.cache
        if cache is None:
            cache = records.fits_bytes(rows.estimated_bytes(end - first))
        return dataset.cache() if self.is_training and cache else dataset
