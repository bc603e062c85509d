"""Datasets of (images, labels): from TFRecords, from Cloud Bigtable, or black for measuring.

A record is a serialized tf.train.Example with `image/encoded` (JPEG, or another format that
TensorFlow decodes) and `image/class/label`, 1-based. Labels are 0-based from here on.

Training shuffles, repeats for ever and drops nothing. Evaluation is in order and counts every image
once whatever the batch size: the last batch is filled up with black images labelled `PADDING`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

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
SERVING_IMAGES = "serving_images"


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
        first_image: int = 0,
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
          first_image: images that the training has had so far, on all hosts: its input goes on
            behind them. One that always began anew would show the first images of each file over
            and over, and the last ones never.
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
        """Serialized examples for host `index` of `num_hosts`, each once, unshuffled or by file."""
        raise NotImplementedError

    def dataset_parser(self, value: tf.Tensor, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        """One serialized example to (image [S, S, 3], label int32)."""
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
        """The dataset of batches; `params['batch_size']` is set by TPUEstimator."""
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
        # Order between threads may vary unless a seed asks for the same batches twice.
        deterministic = not self.is_training or self.seed is not None
        # Two batches hide the decoding behind the step; more would only take memory.
        return dataset_options.apply(dataset.prefetch(2), deterministic)

    def _training_records(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Shuffled examples without end."""
        dataset = self.make_source_dataset(index, num_hosts)
        return dataset.shuffle(reading_order.SHUFFLE_BUFFER, self._seed_from_here()).repeat()

    def _seed_from_here(self) -> int | None:
        """The seed of shuffling: a run that goes on draws other numbers than one that begins."""
        return None if self.seed is None else (self.seed + self.first_image) % 2**31

    def _train_batches(self, dataset, batch_size, host, num_hosts):
        seed = secrets.randbits(62) if self.seed is None else self.seed
        # Hosts draw differently though their pictures are numbered alike.
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
        segments: Sequence[Segment] | None = None,
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
        dataset = bigtable_dataset.dataset(
            rows, first, end, shuffle=self.is_training, seed=self._seed_from_here(),
            deterministic=not self.is_training or self.seed is not None,
        )  # fmt: skip
        cache = self.cache
        if cache is None:
            cache = memory.fits_bytes(rows.estimated_bytes(end - first))
        return dataset.cache() if self.is_training and cache else dataset
