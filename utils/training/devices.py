"""Decides where TensorFlow runs: the TPU, and the session's configuration.

The figures in the docstrings come from `make bench`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.base import files
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip


def config(params: Mapping[str, Any], training: bool) -> tf.ConfigProto:
    """Returns the session's configuration for a run.

    On a CPU the graph optimizer (Grappler) is off for training: for A1 at 224 it takes 4 s of the
    start and 8 % more memory, and its fusions slow oneDNN's training step down by 15 %.
    """
    proto = tf.ConfigProto(allow_soft_placement=True)
    if training and not params["use_tpu"] and not has_gpu():
        proto.graph_options.rewrite_options.disable_meta_optimizer = True
    return proto


def one_thread() -> tf.ConfigProto:
    """Returns the configuration for latencies that compare with those of phones' interpreters."""
    return tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)


def resolve_tpu(params: Mapping[str, Any]) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """Looks up the cluster of --tpu; raises UserError if it cannot be found."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            params["tpu"], zone=params["tpu_zone"], project=params["gcp_project"]
        )
        resolver.master()  # looks the name up: later, its failure would be a stack trace
        return resolver
    except Exception as e:  # the resolver raises errors of several libraries
        raise UserError(
            f"--tpu={params['tpu']} cannot be found ({files.reason(e)}): check its name, "
            "--tpu_zone, --gcp_project and the credentials, or use --use_tpu=False."
        ) from e


def has_gpu() -> bool:
    """Tells whether TensorFlow sees a GPU on this machine."""
    return bool(tf.config.list_physical_devices("GPU"))
