"""Measures an exported model on a data set.

mnasnet-evaluate --model=EXPORT_DIR/mnasnet-a1.tflite --data_dir=DIR
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from typing import Any

import numpy as np
from absl import logging

from utils.base import files, program, progress
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    import imagenet_input
    from utils.config import loading, settings
    from utils.exporting import classifiers, measure
    from utils.reading import dataset_info, examples, records
    from utils.showing import figures, models, predictions

_HEADER = ("class", "images", "precision %", "recall %", "F1 %", "most confused with")


def _parser() -> argparse.ArgumentParser:
    parser = program.ArgumentParser(prog="mnasnet-evaluate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", required=True, help="a .tflite file, a SavedModel's folder, or an --export_dir"
    )
    parser.add_argument("--data_dir", required=True, help="folder of validation-* TFRecords")
    parser.add_argument("--images", type=int, help="number of images (default: all)")
    parser.add_argument(
        "--per_class", action="store_true", help="also print the figures of each class"
    )
    parser.add_argument("--labels", help="file of class names, one a line (default: the model's)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; notices go to stderr"
    )
    loading.add_arguments(parser, settings.RECORDS)
    return parser


def main(argv: list[str]) -> None:
    """Prints top-1 with its 95 % interval, top-5 and latency of a .tflite file or a SavedModel."""
    arguments = _parser().parse_args(argv[1:])
    files.check_dir_name(arguments.data_dir, "data_dir")
    if not tf.io.gfile.exists(arguments.model):
        raise UserError(f"--model={arguments.model} does not exist: export a model first.")
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images={arguments.images} is invalid: it must be at least 1.")
    model = classifiers.load(arguments.model)
    data = {
        "data_dir": arguments.data_dir,
        **models.record_settings(arguments.model, vars(arguments)),
    }
    info = dataset_info.of_run(data)
    paths = records.list_files(arguments.data_dir, imagenet_input.EVAL_PREFIX, data)
    names = classifiers.label_names(arguments.model, arguments.labels, model.num_classes)
    order = models.class_order(names, model.num_classes, arguments.data_dir, arguments.labels)
    dataset_info.log_order(order, names or (), arguments.data_dir)
    form = examples.record_format(data)
    source = predictions.Source(
        paths, model.num_classes, arguments.images, form=form, class_order=order
    )
    evaluation = _measure(model, source, arguments.images or (info.num_eval_images if info else 0))
    names = models.named(names or (info.label_names if info else None), model.num_classes)
    found = _found(evaluation, arguments, model.num_classes)
    if arguments.per_class:
        found["classes"] = _classes(evaluation, names)
    else:
        _log_unequal(evaluation, names)
    print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else _text(found))


@dataclasses.dataclass
class _Evaluation:
    """What an evaluation found: sums, and the right and the likeliest class of each image."""

    measurement: measure.Measurement = dataclasses.field(default_factory=measure.Measurement)
    labels: list[int] = dataclasses.field(default_factory=list)
    predicted: list[int] = dataclasses.field(default_factory=list)

    def add(self, probabilities: np.ndarray, label: int, seconds: float) -> None:
        """Counts one image, as `measure.Measurement.add` does."""
        self.measurement.add(probabilities, label, seconds)
        self.labels.append(label)
        self.predicted.append(int(np.argmax(probabilities)))


def _found(evaluation: _Evaluation, arguments, num_classes: int) -> dict[str, Any]:
    """Returns what the JSON document says of all images."""
    measurement = evaluation.measurement
    report = measurement.report(labelled=True)
    found = {
        "model": arguments.model,
        "data_dir": arguments.data_dir,
        "images": measurement.images,
        "top_1_accuracy": report["top_1_accuracy"],
        "top_1_interval": figures.wilson_interval(measurement.top_1, measurement.images),
        "top_5_accuracy": report["top_5_accuracy"],
        "latency_ms": report["latency_ms"],
    }
    if num_classes <= measure.TOP_K:  # any answer would be right
        del found["top_5_accuracy"]
    return found


def _classes(evaluation: _Evaluation, names: list[str]) -> list[dict[str, Any]]:
    """Returns the figures of each class, with names in place of indices."""
    confusion = figures.confusion_matrix(
        np.array(evaluation.labels), np.array(evaluation.predicted), len(names)
    )
    return [
        {
            "name": name,
            **dataclasses.asdict(figure),
            "confused_with": None if figure.confused_with is None else names[figure.confused_with],
        }
        for name, figure in zip(names, figures.class_figures(confusion), strict=True)
    ]


def _text(found: dict[str, Any]) -> str:
    """Returns the line on all images, and the table of the classes if there is one."""
    low, high = found["top_1_interval"]
    parts = [
        f"top-1 {_percent(found['top_1_accuracy'])} % (95 % interval {_percent(low)} to "
        f"{_percent(high)} %)"
    ]
    if "top_5_accuracy" in found:
        parts.append(f"top-5 {_percent(found['top_5_accuracy'])} %")
    line = (
        f"{found['model']}: {', '.join(parts)} on {found['images']} images, "
        f"{found['latency_ms']:.2f} ms a picture with decoding (median, one thread)"
    )
    if "classes" not in found:
        return line
    return f"{line}\n{program.plain(_HEADER, map(_row, found['classes']))}"


def _row(entry: dict[str, Any]) -> list[str]:
    """Returns the cells of a class; '-' stands for a figure that has no images."""
    shares = [
        "-" if entry[name] is None else _percent(entry[name])
        for name in ("precision", "recall", "f1")
    ]
    other = f"{entry['confused_with']} ({entry['confused']})" if entry["confused"] else "-"
    return [entry["name"], str(entry["images"]), *shares, other]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _log_unequal(evaluation: _Evaluation, names: list[str]) -> None:
    """Logs if the largest classes decide the accuracy, and how to see the others."""
    sizes = np.bincount(evaluation.labels, minlength=len(names)).tolist()
    unequal = dataset_info.unequal_sizes(names, sizes)
    if unequal:
        logging.info("The %s: --per_class shows how good each is.", unequal)


def _measure(model, source: predictions.Source, total: int) -> _Evaluation:
    """Measures the model on the encoded pictures of the evaluation set."""
    with contextlib.closing(progress.Progress("evaluate", total, "image", log_every=5000)) as bar:
        evaluation = _measure_pictures(model, source, bar)
    if not evaluation.labels:
        raise records.no_record(source.paths)
    return evaluation


def _measure_pictures(model, source: predictions.Source, bar) -> _Evaluation:
    """Measures the model on one picture at a time, as an app runs it."""

    def classify(pictures):
        return np.stack([model.probabilities(picture) for picture in pictures])

    evaluation = _Evaluation()
    for sample in source:
        start = time.perf_counter()
        (probabilities,) = predictions.classified(classify, [sample], source)
        evaluation.add(probabilities, sample.label, time.perf_counter() - start)
        bar.update(len(evaluation.labels))
    return evaluation


def console() -> None:
    """Runs the console command `mnasnet-evaluate`."""
    program.run(main)


if __name__ == "__main__":
    console()
