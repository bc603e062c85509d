"""Opens exported models as classifiers of encoded pictures or of pixels."""

from __future__ import annotations

import os

import numpy as np

import imagenet_input
import preprocessing
from utils.base import files
from utils.base.errors import UserError
from utils.exporting import export_report, tflite, tflite_metadata
from utils.reading import labels
from utils.training import devices

import tensorflow.compat.v1 as tf  # isort: skip


class SavedModelClassifier:
    """A SavedModel of this package; it decodes and crops by itself."""

    def __init__(self, path: str):
        files.check_no_pattern(path, "model")
        self._path = path
        self._session = tf.Session(graph=tf.Graph(), config=devices.one_thread())
        with self._session.graph.as_default():
            try:
                meta = tf.saved_model.load(self._session, [tf.saved_model.SERVING], path)
                signature = meta.signature_def["serving_default"]
                self._input = signature.inputs["image_bytes"].name
                self._output = signature.outputs["probabilities"].name
                self.num_classes = signature.outputs["probabilities"].tensor_shape.dim[1].size
            except (OSError, RuntimeError, KeyError, IndexError, tf.errors.OpError) as e:
                raise UserError(
                    f"--model={path} is no SavedModel of this program ({files.reason(e)})."
                ) from e

    def probabilities(self, image_bytes: bytes) -> np.ndarray:
        """float32 [classes] for one encoded picture."""
        probabilities = self._session.run(self._output, {self._input: [image_bytes]})[0]
        return _checked(self._path, probabilities)


class TFLiteClassifier:
    """A .tflite file of this package, with the evaluation preprocessing before it."""

    def __init__(self, path: str):
        self._path = path
        self._interpreter = tflite.open_interpreter(path)
        self.num_classes = self._interpreter.num_classes
        self._session = tf.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._bytes = tf.placeholder(tf.string, [])
            self._image = preprocessing.preprocess_image(
                self._bytes,
                image_size=self._interpreter.image_size,
                resize_method=self._interpreter.resize_method or "bicubic",
            )

    def probabilities(self, image_bytes: bytes) -> np.ndarray:
        """float32 [classes] for one encoded picture."""
        image = self._session.run(self._image, {self._bytes: image_bytes})
        logits = _checked(self._path, self._interpreter.logits(image))
        exponents = np.exp(logits - logits.max())
        return exponents / exponents.sum()


def _checked(path: str, values: np.ndarray) -> np.ndarray:
    """What a model gave for a picture; UserError if that is no classification."""
    if not np.isfinite(values).all():
        raise UserError(
            f"--model={path} gives infinite numbers or NaN: its weights are damaged or its "
            "training failed; export another checkpoint."
        )
    return values


def load(path: str):
    """The classifier for a path: a .tflite file, a SavedModel's folder, or a whole export's."""
    if is_tflite(path):
        return TFLiteClassifier(path)
    report = export_report.read(path)
    if report is None:
        return SavedModelClassifier(path)
    kinds = {row["kind"]: name for name, row in report["files"].items()}
    if "SavedModel" not in kinds:
        raise UserError(f"--model={path} holds no SavedModel: export it again.")
    return SavedModelClassifier(os.path.join(path, kinds["SavedModel"]))


def is_tflite(path: str) -> bool:
    """Whether a path names a .tflite file."""
    return path.lower().endswith(".tflite")


def label_names(path: str, given: str | None) -> list[str] | None:
    """Names of the classes: from a file of the user's, from inside the model, or beside it."""
    if given:
        return files.read_text(given).splitlines()
    inside = tflite_metadata.label_names(path) if is_tflite(path) else None
    if inside:
        return inside
    path = files.absolute(path)
    # In a SavedModel, in an export's folder, beside a file.
    for folder in (os.path.join(path, "assets.extra"), path, os.path.dirname(path)):
        candidate = os.path.join(folder, labels.FILE_NAME)
        if tf.io.gfile.exists(candidate):
            return files.read_text(candidate).splitlines()
    return None


class SavedModel:
    """A SavedModel's float signature: images to logits, like `tflite.Interpreter`."""

    def __init__(self, path: str):
        self._session = tf.Session(graph=tf.Graph(), config=devices.one_thread())
        with self._session.graph.as_default():
            tf.saved_model.load(self._session, [tf.saved_model.SERVING], path)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits [classes] of one image, float [S, S, 3] in [0, 255]."""
        return self._session.run("logits:0", {f"{imagenet_input.SERVING_IMAGES}:0": image[None]})[0]
