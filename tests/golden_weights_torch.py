"""Weights and images behind the golden files of PyTorch networks, made with NumPy alone."""

import zlib

import golden_files
import numpy as np


def weight(key, shape):
    """The float32 array of the state-dict entry `key`, in PyTorch's layout."""
    normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    kind = key.split(".")[-1]
    if kind == "running_var":
        values = 1.0 + 0.1 * np.abs(normal)
    elif kind in ("running_mean", "bias"):
        values = 0.1 * normal
    elif normal.ndim == 1:
        values = 1.0 + 0.1 * normal
    else:
        # [out, in, h, w] or [out, in]: all but the first axis feed one output.
        values = normal * np.sqrt(2.0 / np.prod(shape[1:]))
    return np.asarray(values, np.float32)


def state_dict(golden, num_classes=None):
    """The state dict of a golden file: key -> array, perhaps with another number of classes."""
    return {
        key: weight(key, [num_classes, *shape[1:]] if num_classes and "classif" in key else shape)
        for key, shape in golden["state"]
    }


def images(size):
    """Two images, float32 [2, size, size, 3], normalized already."""
    return np.random.RandomState(7).standard_normal((2, size, size, 3)).astype(np.float32)


def names(pattern):
    """The golden files that a pattern such as 'timm_*' finds, without their ending."""
    return sorted(path.stem for path in golden_files.FOLDER.glob(f"{pattern}.json"))
