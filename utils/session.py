"""The TensorFlow session's configuration, by device (figures: `make bench`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import configuration

import tensorflow.compat.v1 as tf  # isort: skip


def config(params: Mapping[str, Any], training: bool) -> tf.ConfigProto:
    """The configuration for a run.

    On a CPU the graph optimizer (Grappler) is off for training: for A1 at 224 it takes 4 s of the
    start and 8 % more memory, and its fusions slow oneDNN's training step down by 15 %.
    """
    proto = tf.ConfigProto(allow_soft_placement=True)
    if training and not params["use_tpu"] and not configuration.has_gpu():
        proto.graph_options.rewrite_options.disable_meta_optimizer = True
    return proto
