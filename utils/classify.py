"""Classifies picture files with an exported SavedModel or .tflite file.

mnasnet-classify --model=EXPORT_DIR/mnasnet-a1.tflite picture.jpg ...
"""

from __future__ import annotations

import numpy as np

from utils.base import files, program
from utils.base.errors import UserError
from utils.exporting import classifiers
from utils.reading import examples

import tensorflow.compat.v1 as tf  # isort: skip

TOP = 5


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
    model = classifiers.load(arguments.model)
    names = classifiers.label_names(arguments.model, arguments.labels)
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
    """Runs the console command `mnasnet-classify`."""
    program.run(main)


if __name__ == "__main__":
    console()
