"""Computes the loss and the metrics of a batch, over the images that count.

Images labelled `imagenet_input.PADDING`, which fill up the last batch of an evaluation, do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import imagenet_input

import tensorflow.compat.v1 as tf

TOP_K = 5


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, params: Mapping[str, Any]) -> tf.Tensor:
    """Returns the mean over the images that count, with label smoothing; a float32 scalar.

    Args:
      logits: float32 [N, classes].
      labels: int32 [N], 0-based or `imagenet_input.PADDING`.
      params: all settings.
    """
    one_hot = tf.one_hot(labels, params["num_label_classes"])
    weights = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    return tf.losses.softmax_cross_entropy(
        one_hot, logits, weights, label_smoothing=params["label_smoothing"]
    )


def cross_entropies(logits: tf.Tensor, labels: tf.Tensor, params: Mapping[str, Any]) -> tf.Tensor:
    """Returns the cross-entropy of each image, float32 [N]; the arguments are the same.

    A metric takes these: every image then counts once, in any batch size.
    """
    return tf.losses.softmax_cross_entropy(
        tf.one_hot(labels, params["num_label_classes"]),
        logits,
        label_smoothing=params["label_smoothing"],
        loss_collection=None,
        reduction=tf.losses.Reduction.NONE,
    )


def of_batch(labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor) -> dict[str, Any]:
    """Returns metrics over the images that count: name -> (value, update).

    Args:
      labels: int32 [N], 0-based or `imagenet_input.PADDING`.
      logits: float32 [N, classes].
      losses: float32 [N], as `cross_entropies` returns them.

    Returns:
      Top-1 and top-5 accuracy, cross-entropy, and `images`, the number of images.
    """
    counts = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    in_top_k = tf.nn.in_top_k(logits, tf.maximum(labels, 0), min(TOP_K, logits.shape[1]))
    total = tf.get_variable(
        "images", [], tf.float64, tf.zeros_initializer(), trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
    )  # fmt: skip
    add = tf.assign_add(total, tf.reduce_sum(tf.cast(counts, tf.float64)))
    return {
        "top_1_accuracy": tf.metrics.accuracy(labels, tf.argmax(logits, axis=1), counts),
        "top_5_accuracy": tf.metrics.mean(tf.cast(in_top_k, tf.float32), counts),
        "cross_entropy": tf.metrics.mean(losses, counts),
        "images": (tf.identity(total), add),
    }
