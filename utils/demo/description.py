"""Describes a .tflite file for the web page: what it takes, what it gives, and its classes."""

from __future__ import annotations

from typing import Any

import numpy as np

import preprocessing
from utils.base import standard_streams
from utils.base.errors import UserError
from utils.exporting import classifiers, tflite, tflite_metadata

import tensorflow.compat.v1 as tf  # isort: skip


def describe(path: str, given_labels: str | None = None) -> dict[str, Any]:
    """Returns what the page must know of a file, as values that JSON can hold.

    The normalization is None for a file that takes RGB in [0, 255]; the quantizations are None for
    float values. The page applies a softmax unless `is_probabilities`.

    Args:
      path: the .tflite file.
      given_labels: a file of class names that comes before those of the model, one name a line.

    Raises:
      UserError: the path is not a .tflite classifier, or the names do not fit its classes.
    """
    classifier = tflite.open_interpreter(path)
    with tf.io.gfile.GFile(path, "rb") as f:
        content = f.read()
    with standard_streams.hold_native_output():
        lite = tf.lite.Interpreter(model_content=content)
    (taken,), (given,) = lite.get_input_details(), lite.get_output_details()
    normalization = tflite_metadata.normalization(content)
    size = classifier.image_size
    return {
        "bytes": len(content),
        "kind": _kind(lite),
        "image_size": size,
        "num_classes": classifier.num_classes,
        "crop_share": classifier.eval_crop_share or preprocessing.crop_share(size),
        "resize_method": classifier.resize_method or "bicubic",
        "normalization": dict(zip(("mean", "stddev"), normalization, strict=True))
        if normalization
        else None,
        "input": _quantization(taken),
        "output": _quantization(given),
        "is_probabilities": classifier.gives_probabilities,
        "labels": classifiers.label_names(path, given_labels, classifier.num_classes),
    }


def _kind(lite: tf.lite.Interpreter) -> str:
    """Returns the kind of a file as `utils.exporting.tflite.SUFFIXES` names it."""
    if lite.get_input_details()[0]["dtype"] != np.float32:
        return "int8"
    found = {tensor["dtype"] for tensor in lite.get_tensor_details()}
    return "float16" if np.float16 in found else "dynamic" if np.int8 in found else "float32"


def _quantization(tensor: dict[str, Any]) -> dict[str, float] | None:
    """Returns the numbers that make real values, (integer - zero) * scale; None for floats."""
    if tensor["dtype"] == np.float32:
        return None
    if tensor["dtype"] != np.uint8:
        raise UserError(
            f"The file has {np.dtype(tensor['dtype']).name} values where the page knows float32 "
            "and uint8: export it again."
        )
    scale, zero = tensor["quantization"]
    return {"scale": scale, "zero": zero}
