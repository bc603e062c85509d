"""Classifies picture files with an exported SavedModel or .tflite file.

mnasnet-classify --model=EXPORT_DIR/mnasnet-a1.tflite picture.jpg ...
"""

from __future__ import annotations

import os

import numpy as np

import preprocessing
from utils import (
    examples,
    export_report,
    exporting,
    files,
    program,
    session,
    tflite,
    tflite_metadata,
)
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

TOP = 5


class SavedModelClassifier:
    """A SavedModel of this package; it decodes and crops by itself."""

    def __init__(self, path: str):
        files.check_no_pattern(path, "model")
        self._path = path
        self._session = tf.Session(graph=tf.Graph(), config=session.one_thread())
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


def label_names(path: str, labels: str | None) -> list[str] | None:
    """Names of the classes: from a file of the user's, from inside the model, or beside it."""
    if labels:
        return files.read_text(labels).splitlines()
    inside = tflite_metadata.label_names(path) if is_tflite(path) else None
    if inside:
        return inside
    path = files.absolute(path)
    # In a SavedModel, in an export's folder, beside a file.
    for folder in (os.path.join(path, "assets.extra"), path, os.path.dirname(path)):
        candidate = os.path.join(folder, exporting.LABELS_FILE)
        if tf.io.gfile.exists(candidate):
            return files.read_text(candidate).splitlines()
    return None


def main(argv: list[str]) -> None:
    """Prints the top classes of each picture."""
    parser = program.ArgumentParser(prog="mnasnet-classify", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a .tflite file, a SavedModel's folder, or an --export_dir"
    )
    parser.add_argument("--labels", help="file of class names, one a line (default: the model's)")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="JPEG, PNG, GIF or BMP file")
    arguments = parser.parse_args(argv[1:])
    if not tf.io.gfile.exists(arguments.model):
        raise UserError(f"--model={arguments.model} does not exist: export a model first.")
    model = load(arguments.model)
    names = label_names(arguments.model, arguments.labels)
    for picture in arguments.pictures:
        _print(picture, _classify(model, picture), names)


def _classify(model, picture: str) -> np.ndarray:
    image_bytes = _read(picture)
    try:
        return model.probabilities(image_bytes)
    except tf.errors.OpError as e:
        reason = examples.picture_problem(image_bytes) or examples.undecodable_because(e)
        raise UserError(f"{picture}: {reason}") from e


def _read(picture: str) -> bytes:
    try:
        with tf.io.gfile.GFile(picture, "rb") as f:
            return f.read()
    except tf.errors.NotFoundError as e:
        raise UserError(f"{picture} does not exist: check the path.") from e
    except tf.errors.OpError as e:
        raise UserError(f"{picture} cannot be read: {files.reason(e)}.") from e


def _print(picture: str, probabilities: np.ndarray, names: list[str] | None) -> None:
    if names is not None and len(names) != len(probabilities):
        raise UserError(
            f"{len(names)} label names do not fit the model's {len(probabilities)} classes: "
            "name the right file with --labels."
        )
    print(picture)
    for index in np.argsort(-probabilities)[:TOP]:
        name = names[index] if names else f"class {index}"
        print(f"  {100 * probabilities[index]:6.2f} %  {name}")


def console() -> None:
    """The console command `mnasnet-classify`."""
    program.run(main)


if __name__ == "__main__":
    console()
