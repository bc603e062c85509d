"""Feeds batches of (images, labels) from TFRecords or Cloud Bigtable, or black ones for measuring.

A record is a serialized tf.train.Example with `image/encoded` (a JPEG, or another format that
TensorFlow decodes) and `image/class/label`, which starts at 1. A `RecordFormat` says so of other
records. Labels start at 0 from here on.

Training shuffles, repeats without end and drops nothing. Evaluation reads in order and counts every
image once, whatever the batch size: black images labelled `PADDING` fill up the last batch.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import preprocessing
from preprocessing import MEAN_RGB, STDDEV_RGB  # noqa: F401  (published here too)
from utils.base import memory
from utils.reading import bigtable, examples, reading_order, records
from utils.reading.bigtable import BigtableSelection  # published here, too
from utils.reading.examples import PUBLISHED, RecordFormat
from utils.reading.records import EVAL_PREFIX, TRAIN_PREFIX, Segment  # published here, too

import tensorflow.compat.v1 as tf

PADDING = -1
# Names in exported graphs that clients feed, as published; the model function makes the second one.
SERVING_PICTURES = "Placeholder"
SERVING_IMAGES = "float_image_input"


def build_image_serving_input_fn(
    image_size: int = preprocessing.IMAGE_SIZE,
    *,
    preparation: preprocessing.Preparation | None = None,
):
    """Returns the input function of a SavedModel.

    The tensor `Placeholder:0`, called `image_bytes` in the signature, takes a vector of N encoded
    pictures, and the model gets float32 [N, image_size, image_size, 3] in [0, 255]. A second
    signature takes these images themselves.

    Args:
      image_size: side of the images in pixels.
      preparation: how pictures are prepared; None for the published way at `image_size`.
    """
    prepared = preparation or preprocessing.Preparation(image_size)

    def serving_input_fn():
        image_bytes = tf.placeholder(tf.string, [None], SERVING_PICTURES)
        images = tf.map_fn(prepared.pixels, image_bytes, back_prop=False, dtype=tf.float32)
        return tf.estimator.export.TensorServingInputReceiver(
            images, {"image_bytes": image_bytes}, {"images": {"images": images}}
        )

    return serving_input_fn


def _host(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns (index of this host, number of hosts) for an input function's params.

    Only a context tells hosts apart: `use_tpu` is a name of our settings, and other programs have
    params without it.
    """
    context = params.get("context")
    if context is None:
        return 0, 1
    return context.current_input_fn_deployment()[1], context.num_hosts


def _call(function: Callable, *args, optional: Mapping[str, Any], **named):
    """Calls a function that other code may replace, with those optional arguments that it has."""
    known = inspect.signature(function).parameters
    return function(*args, **named, **{k: v for k, v in optional.items() if k in known})


class ImageNetTFExampleInput:
    """Makes batches of serialized tf.train.Examples; subclasses say where the examples are.

    Subclasses override `make_source_dataset`, and perhaps `dataset_parser` or `set_shapes`.

    Attributes:
      image_preprocessing_fn: makes an image of an encoded picture. Another function takes the four
        published arguments of `preprocessing.preprocess_image` by name, and gets those further
        ones that it has.
    """

    def __init__(
        self,
        is_training: bool,
        use_bfloat16: bool,
        num_cores: int = 8,
        image_size: int = preprocessing.IMAGE_SIZE,
        transpose_input: bool = False,
        *,
        num_parallel_calls: int | None = None,
        resize_method: str = "bicubic",
        augmentation: preprocessing.Augmentation | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
        first_image: int = 0,
        eval_crop_share: float | None = None,
        class_order: Sequence[int] | None = None,
        record_format: RecordFormat = PUBLISHED,
    ):
        """Keeps the settings.

        Args:
          is_training: whether to shuffle, augment and repeat; if not, read once and in order.
          use_bfloat16: whether to feed bfloat16 images instead of float32.
          num_cores: cores that this host feeds; sets the default of `num_parallel_calls`.
          image_size: side of the images in pixels.
          transpose_input: whether to feed [H, W, C, N] instead of [N, H, W, C].
          num_parallel_calls: pictures to decode at a time; at most twice the cores of this machine
            are. None for eight for each of `num_cores`.
          resize_method: 'bicubic' or 'bilinear'.
          augmentation: random crops and flips of training; None for the published ones.
          num_classes: a label that is not of so many classes is an error; None accepts all.
          seed: fixes shuffling and augmentation, so that two runs feed the same batches.
          first_image: images that the training has had so far, on all hosts; its input resumes
            after them. Runs that always started anew would show the first images of each file
            again and again, and the last ones never.
          eval_crop_share: see `preprocessing.preprocess_image`.
          class_order: the index in the model of each class of the data set; None if they are the
            same.
          record_format: how the records name picture and label.
        """
        self.image_preprocessing_fn: Callable = preprocessing.preprocess_image
        self.is_training = is_training
        self.use_bfloat16 = use_bfloat16
        self.num_cores = num_cores
        self.transpose_input = transpose_input
        self.image_size = image_size
        self.num_parallel_calls = min(num_parallel_calls or 8 * num_cores, 2 * memory.cores())
        self.resize_method = resize_method
        self.augmentation = augmentation
        self.num_classes = num_classes
        self.seed = seed
        self.first_image = first_image
        self.eval_crop_share = eval_crop_share
        self.class_order = class_order
        self.record_format = record_format

    def set_shapes(
        self, batch_size: int, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sets the static batch size of a batch, and returns its images and labels."""
        axis = 3 if self.transpose_input else 0
        shape: list[int | None] = [None] * 4
        shape[axis] = batch_size
        images.set_shape(shape)
        labels.set_shape([batch_size])
        return images, labels

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        """Returns the examples of host `index`, each once, at most files shuffled, as strings.

        A subclass may shuffle and repeat them in training, as the published ones do.
        """
        raise NotImplementedError

    def dataset_parser(self, value: tf.Tensor, seed=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes (image [image_size, image_size, 3], label int32) of one serialized example.

        A subclass may leave `seed` out, which fixes the augmentation.
        """
        image_bytes, label = examples.parse(value, self.record_format)
        label = label - 1
        num_classes = self.num_classes if self.class_order is None else len(self.class_order)
        if num_classes is not None:
            in_range = tf.logical_and(label >= 0, label < num_classes)
            message = examples.label_message(label + 1, num_classes, self.record_format)
            with tf.control_dependencies([tf.Assert(in_range, [message])]):
                label = tf.identity(label)
        if self.class_order is not None:
            label = tf.gather(tf.constant(self.class_order, tf.int32), label)
        ours = {
            "resize_method": self.resize_method,
            "augmentation": self.augmentation,
            "seed": seed,
            "eval_crop_share": self.eval_crop_share,
        }
        image = _call(
            self.image_preprocessing_fn,
            image_bytes=image_bytes,
            is_training=self.is_training,
            use_bfloat16=self.use_bfloat16,
            image_size=self.image_size,
            optional=ours,
        )
        return image, label

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        """Returns the dataset of batches (images, labels).

        Args:
          params: `batch_size` and, on a TPU, `context`, which tells the hosts apart, are set by
            TPUEstimator. With `use_tpu` an evaluation never ends.
        """
        host, num_hosts = _host(params)
        batch_size = params["batch_size"]
        if self.is_training:
            dataset = self._training_records(host, num_hosts)
            dataset = self._train_batches(dataset, batch_size, host, num_hosts)
        else:
            dataset = self.make_source_dataset(host, num_hosts)
            dataset = self._eval_batches(dataset, batch_size, endless=bool(params.get("use_tpu")))
        dataset = self._with_layout(dataset, batch_size)
        # Threads may overtake each other in a training, unless a seed asks for the same batches.
        deterministic = not self.is_training or self.seed is not None
        # Two batches hide the decoding behind the step; more would only take memory.
        return records.without_tuning(dataset.prefetch(2), deterministic)

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
            return _call(
                self.dataset_parser, value, optional={"seed": tf.stack([base, number * 2])}
            )

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
            padded, padded_labels = tf.cond(missing > 0, fill_up, lambda: (images, labels))
            padded.set_shape(tf.TensorShape([batch_size]).concatenate(images.shape[1:]))
            return padded, padded_labels

        dataset = dataset.map(pad)
        if endless:
            # Every core of every host takes the same number of batches: padding fills up.
            padding = black_batches(batch_size, self.image_size, self.use_bfloat16, PADDING)
            dataset = dataset.concatenate(padding)
        return dataset

    def _with_layout(self, dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Returns batches transposed, if `transpose_input` asks for it, and with their shapes."""

        @tf.autograph.experimental.do_not_convert
        def lay_out(images, labels):
            if self.transpose_input:
                images = tf.transpose(images, [1, 2, 3, 0])
            return self.set_shapes(batch_size, images, labels)

        return dataset.map(lay_out)


def black_batches(batch_size: int, image_size: int, use_bfloat16: bool, label: int):
    """Returns an endless dataset of batches of black images that all have one label."""
    dtype = tf.bfloat16 if use_bfloat16 else tf.float32
    images = tf.zeros([batch_size, image_size, image_size, 3], dtype)
    labels = tf.fill([batch_size], tf.constant(label, tf.int32))
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


class ImageNetInput(ImageNetTFExampleInput):
    """Feeds the TFRecord files `train-*` or `validation-*` of a folder or bucket.

    With a `data_dir` for which `records.has_files` is false, as '' and 'null', it feeds black
    images with label 0 without end, to measure a model alone.
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
            is_training,
            use_bfloat16,
            image_size=image_size,
            transpose_input=transpose_input,
            num_parallel_calls=num_parallel_calls,
            **more,
        )
        self.data_dir = data_dir if records.has_files(data_dir) else None
        self.file_prefix = TRAIN_PREFIX if is_training else EVAL_PREFIX
        self.cache = cache
        self.segments = segments

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        if self.data_dir is not None or self._has_other_source():
            return super().input_fn(params)
        batch_size = params["batch_size"]
        dataset = black_batches(batch_size, self.image_size, self.use_bfloat16, 0)
        return records.without_tuning(self._with_layout(dataset, batch_size))

    def _has_other_source(self) -> bool:
        """Whether a subclass says itself where its examples are."""
        return type(self).make_source_dataset is not ImageNetInput.make_source_dataset

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
        if self._has_other_source():
            return super()._training_records(index, num_hosts)
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
            is_training,
            use_bfloat16,
            image_size=image_size,
            transpose_input=transpose_input,
            num_parallel_calls=num_parallel_calls,
            **more,
        )
        self.selection = selection
        self.cache = cache
        self.num_images = num_images

    def make_source_dataset(self, index: int, num_hosts: int) -> tf.data.Dataset:
        rows = bigtable.RowReader(self.selection, self.num_classes, self.record_format)
        total = rows.count() if self.num_images is None else self.num_images
        first, end = total * index // num_hosts, total * (index + 1) // num_hosts
        dataset = bigtable.dataset(
            rows,
            first,
            end,
            shuffle=self.is_training,
            seed=self._seed_from_here(),
            deterministic=not self.is_training or self.seed is not None,
        )
        cache = self.cache
        if cache is None:
            cache = memory.fits_bytes(rows.estimated_bytes(end - first))
        return dataset.cache() if self.is_training and cache else dataset
