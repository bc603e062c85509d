"""Feeds a number of augmented views of each training picture, in order, once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import imagenet_input
from utils.reading import dataset_options, segments

import tensorflow.compat.v1 as tf  # isort: skip


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
        examples = segments.dataset(self.list_segments())
        return examples.cache() if self.cache else examples

    def input_fn(self, params: Mapping[str, Any]) -> tf.data.Dataset:
        """Returns batches (images, labels) of which those beyond the last view are padding.

        Args:
          params: `batch_size`, as TPUEstimator sets it.
        """
        batch_size = params["batch_size"]
        seed = secrets.randbits(62) if self.seed is None else self.seed

        @tf.autograph.experimental.do_not_convert
        def parse(number, value):
            # A flip takes the number behind that of its crop.
            return self.dataset_parser(value, tf.stack([tf.constant(seed, tf.int64), number * 2]))

        @tf.autograph.experimental.do_not_convert
        def set_shapes(images, labels):
            return self.set_shapes(batch_size, images, labels)

        dataset = self.make_source_dataset(0, 1).repeat(self.views).enumerate()
        dataset = dataset.map(parse, num_parallel_calls=self.num_parallel_calls)
        dataset = dataset.concatenate(self._padding()).batch(batch_size, drop_remainder=True)
        return dataset_options.apply(dataset.map(set_shapes).prefetch(2), deterministic=True)

    def _padding(self) -> tf.data.Dataset:
        """Returns black images labelled as padding, without end."""
        dtype = tf.bfloat16 if self.use_bfloat16 else tf.float32
        black = tf.zeros([self.image_size, self.image_size, 3], dtype)
        label = tf.constant(imagenet_input.PADDING, tf.int32)
        return tf.data.Dataset.from_tensors((black, label)).repeat()
