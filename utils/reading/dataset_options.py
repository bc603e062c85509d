"""The options that every dataset of the package has, wherever it is read."""

from __future__ import annotations

import utils.base.tensorflow_version  # noqa: F401

import tensorflow.compat.v1 as tf  # isort: skip


def apply(
    dataset: tf.data.Dataset, deterministic: bool | None = None, rewrite: bool = True
) -> tf.data.Dataset:
    """Returns a dataset that ends as soon as its reader does.

    tf.data tunes datasets in a thread of its own, which sleeps between two looks for up to a
    minute, and the end of a training or of an evaluation waits for it. Nothing in this package is
    left to be tuned: all degrees of parallelism and buffer sizes are given.

    Args:
      dataset: any; datasets made from the result keep the options.
      deterministic: whether elements keep their order between threads; None leaves it alone.
      rewrite: whether tf.data may rewrite the graph first, which takes longer than opening a file.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    if deterministic is not None:
        options.deterministic = deterministic
    if not rewrite:
        options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
