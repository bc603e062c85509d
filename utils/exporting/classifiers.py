"""Opens exported models as classifiers of encoded pictures, with the names of their classes."""

from __future__ import annotations

import os

import numpy as np
from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.exporting import measure, metadata, saved_model, tflite
from utils.reading import dataset_info

import tensorflow.compat.v1 as tf


class SavedModelClassifier:
    """Classifies with a SavedModel of this program, which decodes and crops pictures itself."""

    def __init__(self, path: str):
        """Opens a SavedModel's folder; UserError if this program did not write it."""
        self._model = saved_model.SavedModel(path)
        self.num_classes = self._model.num_classes

    def probabilities(self, image_bytes: bytes) -> np.ndarray:
        """Returns the probabilities, float32 [classes], of one encoded picture.

        Raises:
          UserError: the model gives infinite numbers or NaN.
          tf.errors.OpError: the picture cannot be decoded.
        """
        return _finite(self._model.probabilities(image_bytes), self._model.path)


class TFLiteClassifier:
    """Classifies with a .tflite file of this program, after the evaluation's preprocessing."""

    def __init__(self, path: str):
        """Opens a file; UserError if it is not a .tflite classifier."""
        self._path = path
        self._interpreter = tflite.open_interpreter(path)
        if self._interpreter.contract is None and self._interpreter.preparation.is_raw:
            logging.warning(
                "%s has no metadata of this program: it is taken for a file that takes RGB pixels "
                "of 0 to 255 and gives logits. If it takes others, or gives probabilities, the "
                "results are wrong.",
                path,
            )
        self.num_classes = self._interpreter.num_classes
        self._session = tf.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._bytes = tf.placeholder(tf.string, [])
            self._image = self._interpreter.preparation.pixels(self._bytes)

    def probabilities(self, image_bytes: bytes) -> np.ndarray:
        """Returns what `SavedModelClassifier.probabilities` returns; the errors are the same."""
        image = self._session.run(self._image, {self._bytes: image_bytes})
        scores = _finite(self._interpreter.scores(image), self._path)
        return scores if self._interpreter.gives_probabilities else metadata.softmax(scores)


def _finite(values: np.ndarray, path: str) -> np.ndarray:
    """Returns what a model gave for a picture; UserError if that is not a classification."""
    if not np.isfinite(values).all():
        raise UserError(
            f"--model={path} gives infinite numbers or NaN: its weights are damaged or its "
            "training failed; export another checkpoint."
        )
    return values


def load(path: str) -> SavedModelClassifier | TFLiteClassifier:
    """Opens a .tflite file, a SavedModel's folder, or the SavedModel in an export's folder.

    Raises:
      UserError: the path is none of these, or the file is damaged.
    """
    if is_tflite(path):
        return TFLiteClassifier(path)
    report = measure.read_report(path)
    if report is None:
        return SavedModelClassifier(path)
    names = {row["kind"]: name for name, row in report["files"].items()}
    if saved_model.KIND not in names:
        raise UserError(f"--model={path} holds no SavedModel: export it again.")
    return SavedModelClassifier(os.path.join(path, names[saved_model.KIND]))


def is_tflite(path: str) -> bool:
    """Whether a path names a .tflite file."""
    return path.lower().endswith(".tflite")


def label_names(path: str, given: str | None, num_classes: int) -> list[str] | None:
    """Returns the names of a model's classes, or None if there are none.

    Args:
      path: the model, as for `load`.
      given: the user's file of names, one a line, which comes first. Without it, the names come
        from inside the model, or from the label file next to it.
      num_classes: of the model.

    Raises:
      UserError: the file of names cannot be read, or holds another number of names.
    """
    names = files.read_text(given).splitlines() if given else _stored_names(path)
    if names is not None and len(names) != num_classes:
        raise UserError(
            f"{len(names)} label names do not fit the model's {num_classes} classes: name the "
            "right file with --labels."
        )
    return names


def _stored_names(path: str) -> list[str] | None:
    """Returns the names inside a model, or in the label file next to it."""
    inside = metadata.label_names(path) if is_tflite(path) else None
    if inside:
        return inside
    path = files.absolute(path)
    # In a SavedModel, in an export's folder, next to a file.
    for folder in (os.path.join(path, "assets.extra"), path, os.path.dirname(path)):
        candidate = os.path.join(folder, dataset_info.LABELS_FILE)
        if tf.io.gfile.exists(candidate):
            return files.read_text(candidate).splitlines()
    return None
