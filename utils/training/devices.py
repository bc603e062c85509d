"""Decides where TensorFlow runs: the TPU, and the session's configuration.

The figures in the docstrings come from `make bench`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.workers import gang

import tensorflow.compat.v1 as tf
from tensorflow.python.util import _pywrap_util_port  # internal; it is pinned

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_LEAST_SIDE_FOR_ONEDNN = 128  # in pixels; at 96 they save a tenth, at 64 nothing


def config(params: Mapping[str, Any], training: bool) -> tf.ConfigProto:
    """Returns the session's configuration for a run.

    On a CPU the graph optimizer (Grappler) is off for training: for A1 at 224 it takes 4 s of the
    start and 8 % more memory, and its fusions slow oneDNN's training step down by 15 %. So is the
    older one, which folds constants and merges equal operations: it takes 0.3 s at the start of
    each session and makes no step faster. No number depends on it.
    """
    proto = tf.ConfigProto(allow_soft_placement=True)
    if training and not params["use_tpu"] and not has_gpu():
        proto.graph_options.rewrite_options.disable_meta_optimizer = True
        proto.graph_options.optimizer_options.opt_level = tf.OptimizerOptions.L0
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
    """Whether TensorFlow sees a GPU on this machine."""
    return _num_gpus() > 0


def in_words(params: Mapping[str, Any]) -> str:
    """Says where a run takes place, for its first line: '1 of 8 GPUs', '2 CPU workers'."""
    if params["use_tpu"]:
        return f"TPU {params['tpu']}"
    workers = gang.num_workers(params)
    if not has_gpu():
        return f"CPU, {workers} workers" if workers > 1 else "CPU"
    if workers > 1:
        return f"{workers} GPUs, one a worker"
    found = _num_gpus()
    return "1 GPU" if found == 1 else f"1 of {found} GPUs (--num_workers=auto takes all)"


def log_missing_libraries() -> None:
    """Says what to install if the machine has a GPU that TensorFlow cannot use."""
    # Without devices to see, as with CUDA_VISIBLE_DEVICES='', nobody misses them.
    # Asked last: NVIDIA's command takes a while, and a machine whose GPU works needs no answer.
    if gang.has_gpu_driver() and not has_gpu() and gang.visible_gpus():
        logging.warning(
            "NVIDIA's driver is here, but TensorFlow finds no GPU: install its libraries with "
            "pip install 'mnasnet-tpu[gpu]' (make setup GPU=1 in a checkout)."
        )


def log_slow_kernels(params: Mapping[str, Any]) -> None:
    """Says how a training on this processor becomes faster, unless TensorFlow sees to it.

    By default it takes oneDNN's kernels where AVX-512 has instructions for networks. Elsewhere they
    are faster, too, but for small images; as they round otherwise, the choice is the user's.
    """
    if params["use_tpu"] or has_gpu() or platform.machine() not in ("x86_64", "AMD64"):
        return
    if params["input_image_size"] < _LEAST_SIDE_FOR_ONEDNN or _ONEDNN in os.environ:
        return
    if not _pywrap_util_port.IsMklEnabled():
        logging.info(
            "On this processor TensorFlow leaves out oneDNN's kernels, with which a training takes "
            "about a quarter less time: to use them, set %s=1 in the environment (results are "
            "rounded otherwise).",
            _ONEDNN,
        )


def _num_gpus() -> int:
    return len(tf.config.list_physical_devices("GPU"))
