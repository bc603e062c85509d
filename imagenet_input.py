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
from utils.base import memory
from utils.reading import bigtable, dataset_info, dataset_options, examples, records
from utils.reading.records import EVAL_PREFIX, TRAIN_PREFIX  # the published names

import tensorflow.compat.v1 as tf  # isort: skip

PADDING = -1
SERVING_IMAGES = "serving_images"
SHUFFLE_BUFFER = 1024
SHUFFLE_LEAD = 4  # buffers that a training going on shuffles first
CYCLE = 16  # files read at a time


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
        return dataset.shuffle(SHUFFLE_BUFFER, self._seed_from_here()).repeat()

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


@dataclasses.dataclass(frozen=True)
class _Share:
    """What a host reads in training.

    Attributes:
      segments: of files.
      first_image: records that the training has had of them so far, in all epochs.
      sizes: number of records of each segment; None where unknown.
      num_hosts: hosts that share these segments, taking turns by record.
      index: of this host among them.
    """

    segments: list[records.Segment]
    first_image: int
    sizes: list[int] | None
    num_hosts: int
    index: int

    def position(self) -> tuple[int, int]:
        """(epoch, records of it that were read) where a training goes on."""
        total = sum(self.sizes or ())
        # Without counts another order of the files has to do.
        return divmod(self.first_image, total) if total else (self.first_image, 0)


def _behind(
    columns: Sequence[tf.Tensor], sizes: tf.Tensor, cycle: int, offset: tf.Tensor
) -> list[tf.Tensor]:
    """Segments, as the columns of `records.segment_columns`, without the first `offset` records.

    `cycle` segments at a time are read, all at the same pace: of those in work a part is left,
    those before them go.
    """
    path, begin, count, skip = columns
    block = tf.range(tf.size(sizes)) // cycle
    totals = tf.math.segment_sum(sizes, block)
    read = tf.clip_by_value(offset - tf.cumsum(totals, exclusive=True), 0, totals)
    # Of each segment the share that its block's is of the block.
    read = sizes * tf.gather(read, block) // tf.maximum(tf.gather(totals, block), 1)
    count = tf.where(count >= 0, count - read, count)
    columns = (path, begin, count, skip + read)
    return [tf.boolean_mask(column, read < sizes) for column in columns]


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
            return self._epoch(self._share(index, num_hosts))
        return self._eval_source(self.list_segments(), index, num_hosts)

    def list_segments(self) -> list[records.Segment]:
        """The parts of the files to read: all of them unless the constructor was told."""
        assert self.data_dir is not None  # input_fn feeds black images then
        if self.segments is not None:
            return list(self.segments)
        paths = records.list_files(self.data_dir, self.file_prefix)
        return [records.Segment(path) for path in paths]

    def _training_records(self, index: int, num_hosts: int) -> tf.data.Dataset:
        share = self._share(index, num_hosts)
        first, offset = share.position()
        seed = secrets.randbits(31) if self.seed is None else self.seed
        if self._caches(share):
            dataset = self._epoch(share).cache().shuffle(SHUFFLE_BUFFER, seed + first)
            return dataset.repeat().skip(offset // share.num_hosts)
        # Records just before the place are shuffled and passed over: a buffer that begins there
        # would show those behind it twice as often as those before it.
        passed = min(offset, SHUFFLE_LEAD * SHUFFLE_BUFFER * share.num_hosts)

        @tf.autograph.experimental.do_not_convert
        def epoch(number):
            goes_on = tf.equal(number, first)
            rest = self._epoch(share, number, tf.where(goes_on, offset - passed, 0))
            rest = rest.shuffle(SHUFFLE_BUFFER, seed + number, reshuffle_each_iteration=False)
            return rest.skip(tf.where(goes_on, tf.constant(passed // share.num_hosts, tf.int64), 0))

        return tf.data.Dataset.range(first, tf.int64.max).flat_map(epoch)

    def _caches(self, share: _Share) -> bool:
        if self.cache is not None:
            return self.cache
        return records.fits_in_memory(sorted({segment.path for segment in share.segments}))

    def _share(self, index: int, num_hosts: int) -> _Share:
        """Whole files for each host; with fewer files than hosts, records of all of them in turns.

        Segments are no files: between bad records there may be one of three images.
        """
        segments = self.list_segments()
        paths = sorted({segment.path for segment in segments})
        first_image = self.first_image
        splits_records = len(paths) < num_hosts
        if not splits_records:
            own = set(paths[index::num_hosts])
            segments = [segment for segment in segments if segment.path in own]
            first_image //= num_hosts
        # Counting costs time, and a training that begins needs no counts.
        sizes = self._sizes(segments) if first_image else None
        turns = (num_hosts, index) if splits_records else (1, 0)
        return _Share(segments, first_image, sizes, *turns)

    def _sizes(self, segments: list[records.Segment]) -> list[int] | None:
        """Records of each segment, from dataset_info.json or counted; None where unknown."""
        counted = self._counted(segments)
        if counted is not None:
            return [segment.count for segment in counted]
        return records.counts([segment.path for segment in segments])

    def _epoch(self, share: _Share, number=0, offset=0) -> tf.data.Dataset:
        """The records of an epoch, from an offset on, with the files in an order of its own.

        The order is a function of the seed and the epoch, so that a run and the one that goes on
        with it agree. Hosts that split the records of files read them in one order always: some of
        them may keep their part in memory.
        """
        number = 0 if share.num_hosts > 1 else number
        cycle = min(CYCLE, len(share.segments))
        numbers = tf.compat.v2.random.stateless_uniform(
            [len(share.segments)],
            tf.stack([tf.cast(value, tf.int64) for value in (self.seed or 0, number)]),
        )
        order = tf.argsort(numbers)
        columns = [tf.gather(column, order) for column in records.segment_columns(share.segments)]
        if share.sizes is not None:
            sizes = tf.gather(tf.constant(share.sizes, tf.int64), order)
            columns = _behind(columns, sizes, cycle, tf.cast(offset, tf.int64))
        dataset = tf.data.Dataset.from_tensor_slices(tuple(columns)).interleave(
            records.segment_dataset,
            cycle_length=cycle,
            num_parallel_calls=min(cycle, self.num_parallel_calls),
            deterministic=share.num_hosts > 1 or self.seed is not None,
        )
        return dataset.shard(share.num_hosts, share.index) if share.num_hosts > 1 else dataset

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
            rows, first, end, shuffle=self.is_training, seed=self._seed_from_here(),
            deterministic=not self.is_training or self.seed is not None,
        )  # fmt: skip
        cache = self.cache
        if cache is None:
            cache = memory.fits_bytes(rows.estimated_bytes(end - first))
        return dataset.cache() if self.is_training and cache else dataset
