"""Feeds batches of (images, labels) from TFRecords or Cloud Bigtable, or black ones for measuring.

A record is a serialized tf.train.Example with `image/encoded` (a JPEG, or another format that
TensorFlow decodes) and `image/class/label`, which starts at 1. Labels start at 0 from here on.

Training shuffles, repeats without end and drops nothing. Evaluation reads in order and counts every
image once, whatever the batch size: black images labelled `PADDING` fill up the last batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import mnasnet_start  # noqa: F401
import preprocessing
from preprocessing import MEAN_RGB, STDDEV_RGB  # noqa: F401  (published here too)
from utils.base import memory
from utils.reading import (
    bigtable,
    bigtable_dataset,
    dataset_options,
    examples,
    reading_order,
    records,
)
from utils.reading.bigtable import BigtableSelection  # published here, too
from utils.reading.records import EVAL_PREFIX, TRAIN_PREFIX  # published here, too
from utils.reading.segments import Segment

import tensorflow.compat.v1 as tf  # isort: skip

PADDING = -1
# Names in exported graphs that clients feed, as published; the model function makes the second one.
SERVING_PICTURES = "Placeholder"
SERVING_IMAGES = "float_image_input"


def build_image_serving_input_fn(
    image_size: int = preprocessing.IMAGE_SIZE, *, resize_method: str = "bicubic"
):
    """Returns the input function of a SavedModel.

    The tensor `Placeholder:0`, called `image_bytes` in the signature, takes a vector of N encoded
    pictures, and the model gets float32 [N, image_size, image_size, 3] in [0, 255]. A second
    signature takes these images themselves.

    Args:
      image_size: side of the images in pixels.
      resize_method: 'bicubic' or 'bilinear'.
    """

    def serving_input_fn():
        def preprocess(image_bytes):
            return preprocessing.preprocess_image(
                image_bytes, image_size=image_size, resize_method=resize_method
            )

        image_bytes = tf.placeholder(tf.string, [None], SERVING_PICTURES)
        images = tf.map_fn(preprocess, image_bytes, back_prop=False, dtype=tf.float32)
        return tf.estimator.export.TensorServingInputReceiver(
            images, {"image_bytes": image_bytes}, {"images": {"images": images}}
        )

    return serving_input_fn


def _host(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns (index of this host, number of hosts) for an input function's params."""
    context = params.get("context")
    if context is None or not params.get("use_tpu"):
        return 0, 1
    return context.current_input_fn_deployment()[1], context.num_hosts


class ImageNetTFExampleInput:
    """Makes batches of serialized tf.train.Examples; subclasses say where the examples are.

    Subclasses override `make_source_dataset`.
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
        first_image: int = 0,
    ):
        """Keeps the settings.

        Args:
          is_training: whether to shuffle, augment and repeat; if not, read once and in order.
          use_bfloat16: whether to feed bfloat16 images instead of float32.
          transpose_input: whether to feed [H, W, C, N] instead of [N, H, W, C].
          image_size: side of the images in pixels.
          num_parallel_calls: pictures to decode at a time; at most twice the cores are.
          resize_method: 'bicubic' or 'bilinear'.
          augmentation: random crops and flips of training; None for the published ones.
          num_classes: a label outside of 1..num_classes is an error; None accepts all.
          seed: fixes shuffling and augmentation, so that two runs feed the same batches.
          first_image: images that the training has had so far, on all hosts; its input resumes
            after them. Runs that always started anew would show the first images of each file
            again and again, and the last ones never.
        """
        self.is_training = is_training
        self.use_bfloat16 = use_bfloat16
        self.transpose_input = transpose_input
        self.image_size = image_size
        self.num_parallel_calls = min(num_parallel_calls, 2 * memory.cores())
        self.resize_method = resize_method
        self.augmentation = augmentation
        self.num_classes = num_classes
        self.seed = seed
        self.first_image = first_image

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Returns the examples of host `index`, each once, at most files shuffled, as strings."""
        raise NotImplementedError

    def dataset_parser(self, value: tf.Tensor, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes (image [image_size, image_size, 3], label int32) of one serialized example."""
        image_bytes, label = examples.parse(value)
        label = label - 1
        if self.num_classes is not None:
            in_range = tf.logical_and(label >= 0, label < self.num_classes)
            message = examples.label_message(label + 1, self.num_classes)
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
        """Returns the dataset of batches (images, labels).

        Args:
          params: `batch_size` is set by TPUEstimator; `use_tpu` and `context` tell the hosts apart.
        """
        host, num_hosts = _host(params)
        batch_size = params["batch_size"]
        if self.is_training:
            dataset = self._training_records(host, num_hosts)
            dataset = self._train_batches(dataset, batch_size, host, num_hosts)
        else:
            dataset = self.make_source_dataset(host, num_hosts)
            dataset = self._eval_batches(dataset, batch_size, endless=bool(params.get("use_tpu")))
        if self.transpose_input:
            dataset = dataset.map(_transpose)
        # Threads may overtake each other in a training, unless a seed asks for the same batches.
        deterministic = not self.is_training or self.seed is not None
        # Two batches hide the decoding behind the step; more would only take memory.
        return dataset_options.apply(dataset.prefetch(2), deterministic)

    def _training_records(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Returns shuffled examples without end."""
        dataset = self.make_source_dataset(index, num_hosts)
        return dataset.shuffle(reading_order.SHUFFLE_BUFFER, self._seed_from_here()).repeat()

    def _seed_from_here(self) -> int | None:
        """Returns the seed of shuffling, by which a resumed run differs from one that starts."""
        return None if self.seed is None else (self.seed + self.first_image) % 2**31

    def _train_batches(self, dataset, batch_size, host, num_hosts):
        seed = secrets.randbits(62) if self.seed is None else self.seed
        # Hosts number their pictures alike and must augment them differently.
        base = tf.constant((seed + (host << 32)) % 2**63, tf.int64)

        @tf.autograph.experimental.do_not_convert
        def parse(number, value):
            return self.dataset_parser(value, tf.stack([base, number * 2]))

        dataset = dataset.enumerate(self.first_image // num_hosts)
        dataset = dataset.map(parse, num_parallel_calls=self.num_parallel_calls)
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

            # Only the last batch is copied: padding every batch would cost time.
            images, labels = tf.cond(missing > 0, fill_up, lambda: (images, labels))
            images.set_shape([batch_size, self.image_size, self.image_size, 3])
            labels.set_shape([batch_size])
            return images, labels

        dataset = dataset.map(pad)
        if endless:
            # Every core of every host takes the same number of batches: padding fills up.
            padding = black_batches(batch_size, self.image_size, self.use_bfloat16, PADDING)
            dataset = dataset.concatenate(padding)
        return dataset


@tf.autograph.experimental.do_not_convert
def _transpose(images, labels):
    return tf.transpose(images, [1, 2, 3, 0]), labels


def black_batches(batch_size: int, image_size: int, use_bfloat16: bool, label: int):
    """Returns an endless dataset of batches of black images that all have one label."""
    dtype = tf.bfloat16 if use_bfloat16 else tf.float32
    images = tf.zeros([batch_size, image_size, image_size, 3], dtype)
    labels = tf.fill([batch_size], tf.constant(label, tf.int32))
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


class ImageNetInput(ImageNetTFExampleInput):
    """Feeds the TFRecord files `train-*` or `validation-*` of a folder or bucket.

    With a `data_dir` that is None, empty or 'null' it feeds black images with label 0 without end,
    to measure a model alone.
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
        segments: Sequence[Segment] | None = None,
        **more: Any,
    ):
        """Keeps the settings; the others are those of `ImageNetTFExampleInput`.

        Args:
          data_dir: folder or bucket of the files.
          cache: whether to keep encoded training pictures in memory; None asks the free memory.
          segments: the segments of files to read, as a scan finds them; None reads all files.
        """
        super().__init__(
            is_training, use_bfloat16, transpose_input, image_size, num_parallel_calls, **more
        )
        self.data_dir = data_dir if records.has_files(data_dir) else None
        self.file_prefix = TRAIN_PREFIX if is_training else EVAL_PREFIX
        self.cache = cache
        self.segments = segments

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        if self.data_dir is not None:
            return super().input_fn(params)
        dataset = black_batches(params["batch_size"], self.image_size, self.use_bfloat16, 0)
        if self.transpose_input:
            dataset = dataset.map(_transpose)
        return dataset_options.apply(dataset)

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        if self.is_training:
            share = self._share(index, num_hosts)
            return reading_order.epoch_records(share, self.seed, self.num_parallel_calls)
        return reading_order.evaluation_records(
            self.list_segments(), self.data_dir, index, num_hosts
        )

    def list_segments(self) -> list[Segment]:
        """Returns the segments of files to read: those given, or else all files of the split."""
        assert self.data_dir is not None  # input_fn feeds black images then
        if self.segments is not None:
            return list(self.segments)
        return [Segment(path) for path in records.list_files(self.data_dir, self.file_prefix)]

    def _training_records(self, index: int, num_hosts: int) -> tf.data.Dataset:
        share = self._share(index, num_hosts)
        cache = records.fits_in_memory(share.paths()) if self.cache is None else self.cache
        return reading_order.training_records(share, self.seed, self.num_parallel_calls, cache)

    def _share(self, index: int, num_hosts: int) -> reading_order.Share:
        return reading_order.share_of_host(
            self.list_segments(), self.data_dir, index, num_hosts, self.first_image
        )


class ImageNetBigtableInput(ImageNetTFExampleInput):
    """Feeds rows of Cloud Bigtable as `ImageNetInput` feeds the same records from files."""

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
        """Keeps the settings; the others are those of `ImageNetTFExampleInput`.

        Args:
          selection: where the rows are.
          cache: whether to keep encoded training pictures in memory; None asks the free memory.
          num_images: number of rows with the prefix; None counts them first.
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
        dataset = bigtable_dataset.dataset(
            rows, first, end, shuffle=self.is_training, seed=self._seed_from_here(),
            deterministic=not self.is_training or self.seed is not None,
        )  # fmt: skip
        cache = self.cache
        if cache is None:
            cache = memory.fits_bytes(rows.estimated_bytes(end - first))
        return dataset.cache() if self.is_training and cache else dataset
