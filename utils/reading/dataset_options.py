"""Sets the options that every dataset of the package has, wherever it is read."""

from __future__ import annotations

import tensorflow.compat.v1 as tf


def apply(
    dataset: tf.data.Dataset, deterministic: bool | None = None, rewrite: bool = True
) -> tf.data.Dataset:
    """Returns the dataset with options that let it end as soon as its reader does.

    tf.data tunes datasets in a thread that sleeps for up to a minute at a time, and the end of a
    training or of an evaluation waits for this thread. This package gives all degrees of
    parallelism and all buffer sizes, so that nothing is left to tune.

    Args:
      dataset: any dataset; those made from the result keep the options.
      deterministic: whether elements keep their order between threads; None leaves that as it is.
      rewrite: whether tf.data may optimize the graph first, which takes longer than opening a file.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    if deterministic is not None:
        options.deterministic = deterministic
    if not rewrite:
        options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
