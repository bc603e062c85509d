"""Measures an exported model on a data set.

mnasnet-evaluate --model=EXPORT_DIR/mnasnet-a1.tflite --data_dir=DIR
"""

from __future__ import annotations

import contextlib
import time

import imagenet_input
from utils.base import files, program, progress
from utils.base.errors import UserError
from utils.exporting import classifiers, measure
from utils.reading import dataset_info, examples, records

import tensorflow.compat.v1 as tf  # isort: skip


def main(argv: list[str]) -> None:
    """Prints top-1, top-5 and latency of a .tflite file or a SavedModel."""
    parser = program.ArgumentParser(prog="mnasnet-evaluate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a .tflite file, a SavedModel's folder, or an --export_dir"
    )
    parser.add_argument("--data_dir", required=True, help="folder of validation-* TFRecords")
    parser.add_argument("--images", type=int, help="number of images (default: all)")
    arguments = parser.parse_args(argv[1:])
    files.check_dir_name(arguments.data_dir, "data_dir")
    if not tf.io.gfile.exists(arguments.model):
        raise UserError(f"--model={arguments.model} does not exist: export a model first.")
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images={arguments.images} is invalid: it must be at least 1.")
    model = classifiers.load(arguments.model)
    measurement = _measure(model, arguments.data_dir, arguments.images)
    report = measurement.report(labelled=True)
    print(
        f"{arguments.model}: top-1 {100 * report['top_1_accuracy']:.2f} %, "
        f"top-5 {100 * report['top_5_accuracy']:.2f} % on {measurement.images} images, "
        f"{report['latency_ms']:.2f} ms a picture with decoding (median, one thread)"
    )


def _measure(model, data_dir: str, count: int | None) -> measure.Measurement:
    """Measures the model on the encoded pictures of the evaluation set."""
    paths = records.list_files(data_dir, imagenet_input.EVAL_PREFIX)
    info = dataset_info.load(data_dir)
    if info and info.num_label_classes != model.num_classes:
        raise UserError(
            f"--data_dir={data_dir} has {info.num_label_classes} classes and the model "
            f"{model.num_classes}: name a data set with the classes of the model."
        )
    total = count or (info.num_eval_images if info else 0)
    with contextlib.closing(progress.Progress("evaluate", total, "image", log_every=5000)) as bar:
        measurement = _measure_files(model, paths, count, bar)
    if not measurement.images:
        raise UserError(
            f"--data_dir={data_dir} has no images: its {imagenet_input.EVAL_PREFIX}* are empty."
        )
    return measurement


def _measure_files(model, paths: list[str], count: int | None, bar) -> measure.Measurement:
    measurement = measure.Measurement()
    for path in paths:
        for number, record in enumerate(records.read_records(path)):
            if count is not None and measurement.images >= count:
                break
            image_bytes, label = records.unpack(record, path, number)
            start = time.perf_counter()
            try:
                probabilities = model.probabilities(image_bytes)
            except tf.errors.OpError as e:
                reason = examples.undecodable(record) or examples.undecodable_because(e)
                raise UserError(str(records.Problem(path, number, reason))) from e
            if not 1 <= label <= len(probabilities):
                raise UserError(
                    f"{path}, record {number}: label {label} is not in 1..{len(probabilities)}, "
                    "the model's classes: name a data set with these classes."
                )
            measurement.add(probabilities, label - 1, time.perf_counter() - start)
            bar.update(measurement.images)
    return measurement


def console() -> None:
    """Runs the console command `mnasnet-evaluate`."""
    program.run(main)


if __name__ == "__main__":
    console()
