"""Says what cached features are made of, so that no run trains on those of something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

import utils.base.tensorflow_version  # noqa: F401
from utils.base import version
from utils.config import network_settings
from utils.training import inputs

import tensorflow.compat.v1 as tf  # isort: skip

_PICTURES = ("input_image_size", "resize_method", "min_crop_area", "random_flip")
_COMPUTING = ("precision", "data_format")


def of_run(
    params: Mapping[str, Any], split: inputs.Split, weights: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns all that determines the features of a run, by the words for it in a message.

    Args:
      params: all settings.
      split: the training images.
      weights: the variables that compute the features, by name.

    Returns:
      A dict that stays as it is in a file of JSON.
    """
    network = network_settings.describe(params)
    found = {
        "network": _digest({k: v for k, v in network.items() if k != "num_classes"}),
        "weights": _digest_of_weights(weights),
        "image settings": {name: params[name] for name in _PICTURES},
        "training files": _digest(split.identity()),
        "order of classes": split.class_order,
        "number of views": params["cached_views"],
        "seed": params["tf_random_seed"],
        "precision": {name: params[name] for name in _COMPUTING},
        "version": [version.__version__, tf.__version__],
    }
    return json.loads(json.dumps(found))


def differences(ours: Mapping[str, Any], theirs: Any) -> list[str]:
    """Returns what two origins differ in, in words; all of it if one of them is none."""
    if not isinstance(theirs, dict):
        return list(ours)
    return [name for name in ours if ours[name] != theirs.get(name)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_of_weights(weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
