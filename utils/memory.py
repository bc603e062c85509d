"""Sessions and memory: what makes a step fast and small, by device (figures: `make bench`)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

from utils import configuration

import tensorflow.compat.v1 as tf  # isort: skip

_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1


def session_config(params: Mapping[str, Any], training: bool) -> tf.ConfigProto:
    """The session's configuration.

    On a CPU the graph optimizer (Grappler) is off for training: it takes 4 s of A1's start, and the
    fusions it makes slow oneDNN's training step down by 15 %.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    if training and not params["use_tpu"] and not configuration.has_gpu():
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def set_up(params: Mapping[str, Any]) -> None:
    """Keeps glibc from hoarding the freed activations of a CPU's training step.

    Activations are large and live until the backward pass. One arena a thread, glibc's default,
    keeps a copy of them a thread.
    """
    if params["use_tpu"] or not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 16 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    except (OSError, AttributeError):
        pass  # another C library: it has its own ways
