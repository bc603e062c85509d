"""Classifies picture files with an exported SavedModel or .tflite file.

mnasnet-classify --model=EXPORT_DIR/mnasnet-a1.tflite picture.jpg ...
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from absl import logging

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    from utils.exporting import classifiers
    from utils.reading import examples, pictures

TOP = 5


def _parser() -> argparse.ArgumentParser:
    parser = program.ArgumentParser(prog="mnasnet-classify", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a .tflite file, a SavedModel's folder, or an --export_dir"
    )
    parser.add_argument("--labels", help="file of class names, one a line (default: the model's)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; notices go to stderr"
    )
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help=f"file: {pictures.NAMES}; turned upright"
    )
    return parser


def main(argv: list[str]) -> None:
    """Prints the top classes of each picture; one that cannot be read does not stop the others.

    Raises:
      UserError: the model cannot be used, or, after all pictures, some could not be read.
    """
    arguments = _parser().parse_args(argv[1:])
    pictures.require_pillow()
    if not tf.io.gfile.exists(arguments.model):
        raise UserError(f"--model={arguments.model} does not exist: export a model first.")
    model = classifiers.load(arguments.model)
    names = classifiers.label_names(arguments.model, arguments.labels, model.num_classes)
    results = []
    for path in arguments.pictures:
        results.append(_result(model, path, names))
        if not arguments.json:
            _print(results[-1])
    if arguments.json:
        print(json.dumps({"model": arguments.model, "pictures": results}, indent=2))
    bad = sum("error" in result for result in results)
    if bad:
        raise UserError(f"{bad} of {len(results)} pictures could not be read.")


def _result(model, path: str, names: list[str] | None) -> dict[str, Any]:
    """Returns a picture's path with its top `classes`, or with the `error` that was logged."""
    try:
        probabilities = _classify(model, path)
    except pictures.Unreadable as e:
        logging.error("%s", e)
        return {"path": path, "error": str(e)}
    classes = [
        {
            "index": int(index),
            "name": names[index] if names else f"class {index}",
            "probability": float(probabilities[index]),
        }
        for index in np.argsort(-probabilities)[:TOP]
    ]
    return {"path": path, "classes": classes}


def _classify(model, path: str) -> np.ndarray:
    """Returns a picture's probabilities; Unreadable says which file has what wrong with it."""
    try:
        image_bytes = files.read_bytes(path)
    except UserError as e:
        raise pictures.Unreadable(str(e)) from e
    try:
        return model.probabilities(pictures.for_tensorflow(image_bytes))
    except tf.errors.OpError as e:
        reason = examples.picture_problem(image_bytes) or examples.undecodable_because(e)
    except pictures.Unreadable as e:
        reason = examples.undecodable_because(e)
    except pictures.MissingDecoder as e:
        reason = str(e)
    raise pictures.Unreadable(f"{path}: {reason}")


def _print(result: dict[str, Any]) -> None:
    if "error" in result:
        return
    print(result["path"])
    for found in result["classes"]:
        print(f"  {100 * found['probability']:6.2f} %  {found['name']}")


def console() -> None:
    """Runs the console command `mnasnet-classify`."""
    program.run(main)


if __name__ == "__main__":
    console()
