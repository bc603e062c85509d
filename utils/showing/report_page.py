"""Writes a report: report.html, report.json and predictions.csv in a folder."""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import importlib.resources
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.base.version import __version__
from utils.exporting import measure, saved_model
from utils.reading import examples, records, scan
from utils.showing import figures, models, predictions
from utils.showing.models import Model
from utils.showing.predictions import Predictions
from utils.training import checkpoints

import tensorflow.compat.v1 as tf

# In the order in which they run; they share one scope.
_SCRIPTS = ("elements.js", "charts.js", "classes.js", "matrix.js", "gallery.js", "report.js")


def page(content: Mapping[str, Any], thumbnails: Mapping[int, bytes]) -> str:
    """Returns the text of the page.

    Args:
      content: as `gather` returns it, with the entries of all pictures that are shown.
      thumbnails: WebP files by the numbers of their pictures.
    """
    data = dict(content)
    data["thumbnails"] = {
        number: base64.b64encode(encoded).decode() for number, encoded in thumbnails.items()
    }
    scripts = "\n".join(_site_file(name) for name in _SCRIPTS)
    parts = {"STYLE": _site_file("style.css"), "SCRIPT": scripts, "DATA": _embedded(data)}
    text = _site_file("report.html")
    for name, part in parts.items():
        text = text.replace(f"/*{name}*/", part, 1)
    return text


def _site_file(name: str) -> str:
    return (importlib.resources.files(__package__) / "report_site" / name).read_text("utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """Returns JSON in which no name of a class or a file can end the script that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


MAKER = "mnasnet-report"
MOST_MISTAKES, MOST_UNSURE = 60, 24  # that the lists show
MOST_PAIRS = 200
_DIGITS = 4  # of probabilities


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was measured with what.

    Attributes:
      model: the classifier.
      data_dir: folder of the data set, as the user gave it.
      split: 'validation' or 'train'.
      skipped: bad records that were left out.
    """

    model: Model
    data_dir: str
    split: str
    skipped: int = 0


def gather(subject: Subject, predictions: Predictions) -> dict[str, Any]:
    """Returns all figures and lists of a report, without the pictures themselves.

    Classes are given by their indices into `labels`, pictures by their numbers.

    Raises:
      UserError: a file of the training or of the export is damaged.
    """
    model = subject.model
    confusion = figures.confusion_matrix(
        predictions.labels, predictions.predicted, predictions.num_classes
    )
    mistakes = predictions.mistakes()[:MOST_MISTAKES].tolist()
    unsure = predictions.unsure()[:MOST_UNSURE].tolist()
    return {
        "made_by": f"{MAKER} {__version__}",
        "made_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": {
            "name": model.name,
            "kind": model.kind,
            "path": model.path,
            "step": model.step,
            "classes": model.num_classes,
        },
        "data": {
            "name": os.path.basename(os.path.normpath(subject.data_dir)),
            "path": subject.data_dir,
            "split": subject.split,
            "skipped_images": subject.skipped,
        },
        "headline": _headline(predictions),
        "labels": list(model.label_names),
        "classes": [dataclasses.asdict(one) for one in figures.class_figures(confusion)],
        "confusion": _cells(confusion),
        "pairs": _pairs(confusion),
        "calibration": _calibration(predictions, model),
        "mistakes": mistakes,
        "unsure": unsure,
        "pictures": pictures(predictions, {*mistakes, *unsure}),
        "curves": figures.read_curves(model.model_dir) if model.model_dir else None,
        "exports": _exports(model.export_dir),
    }


def _headline(predictions: Predictions) -> dict[str, Any]:
    total, right = len(predictions), int(predictions.is_right.sum())
    k = predictions.top.shape[1]
    # Among at most five classes the right one always is.
    in_top = (predictions.top == predictions.labels[:, None]).any(axis=1)
    has_top = predictions.num_classes > k
    return {
        "images": total,
        "right": right,
        "accuracy": right / total,
        "interval": figures.wilson_interval(right, total),
        "top_k": k,
        "top_k_accuracy": float(in_top.mean()) if has_top else None,
        "top_k_interval": figures.wilson_interval(int(in_top.sum()), total) if has_top else None,
    }


def _cells(confusion: np.ndarray) -> list[list[int]]:
    """Returns [label, predicted, images] of the cells that have images, which are few of many."""
    rows, columns = np.nonzero(confusion)
    return np.stack([rows, columns, confusion[rows, columns]], axis=1).tolist()


def _pairs(confusion: np.ndarray) -> list[list[int]]:
    """Returns [class, class, images] of pairs that are confused both ways, most images first."""
    both = np.triu(confusion + confusion.T, 1)
    rows, columns = np.nonzero(both)
    order = np.argsort(-both[rows, columns], kind="stable")[:MOST_PAIRS]
    return np.stack([rows, columns, both[rows, columns]], axis=1)[order].tolist()


def _calibration(predictions: Predictions, model: Model) -> dict[str, Any]:
    confidence = predictions.top_probabilities[:, 0].astype(np.float64)
    bins = figures.calibration_bins(confidence, predictions.is_right)
    smoothing = model.label_smoothing
    return {
        "bins": [dataclasses.asdict(one) for one in bins],
        "expected_error": figures.expected_calibration_error(bins),
        "mean_confidence": float(confidence.mean()),
        "label_smoothing": smoothing,
        # What training asks of the right class.
        "target": None if smoothing is None else 1 - smoothing + smoothing / model.num_classes,
    }


def pictures(predictions: Predictions, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Returns where pictures are and what the model says of them, by their numbers."""
    return {
        number: {
            "file": os.path.basename(predictions.paths[predictions.files[number]]),
            "record": int(predictions.records[number]),
            "picture": predictions.pictures[number],
            "label": int(predictions.labels[number]),
            "label_probability": round(float(predictions.label_probabilities[number]), _DIGITS),
            "top": [
                [int(index), round(float(probability), _DIGITS)]
                for index, probability in zip(
                    predictions.top[number], predictions.top_probabilities[number], strict=True
                )
            ],
        }
        for number in sorted(numbers)
    }


def _exports(export_dir: str | None) -> dict[str, Any] | None:
    """Returns the table of an export; None if there is none."""
    report = measure.read_report(export_dir) if export_dir else None
    if report is None:
        return None
    measured = {
        name: row for name, row in report["files"].items() if row["kind"] != measure.LABELS_KIND
    }
    return {
        "folder": export_dir,
        "header": ["file", *measure.MEASURED],
        "rows": [[_file(name, row), *measure.measured(row)] for name, row in measured.items()],
    }


def _file(name: str, row: Mapping[str, Any]) -> str:
    """Returns how the table names a file; a SavedModel's own name is the time of its export."""
    return f"SavedModel {name}" if row["kind"] == saved_model.KIND else name


PAGE, FIGURES, TABLE = "report.html", "report.json", "predictions.csv"
FOLDER = "report"  # in a model_dir
_FIRST_COLUMNS = ("file", "record", "picture", "true", "true_probability", "suspicion")
# What the beginning of each file has that an earlier report wrote.
_MARKS = {
    PAGE: f'content="{MAKER}"',
    FIGURES: f'"made_by": "{MAKER}',
    TABLE: ",".join(_FIRST_COLUMNS),
}
_HEAD_CHARACTERS = 1000


def check_folder(output_dir: str, flag: str) -> None:
    """Makes the folder of a report, before long work.

    Raises:
      UserError: it cannot be written, or holds a file of one of the names that is not a report's.
    """
    files.make_writable_dir(output_dir, flag)
    for name, mark in _MARKS.items():
        path = os.path.join(output_dir, name)
        if tf.io.gfile.exists(path) and (tf.io.gfile.isdir(path) or mark not in _head(path)):
            raise UserError(
                f"{path} is there already and is not of a report: remove it, or choose another "
                "folder."
            )


def _head(path: str) -> str:
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            return f.read(_HEAD_CHARACTERS).decode("utf-8", "replace")
    except tf.errors.OpError as e:
        raise UserError(f"{path} cannot be read: {files.reason(e)}.") from e


def write(
    subject: Subject,
    source: predictions.Source,
    found: predictions.Predictions,
    output_dir: str,
) -> str:
    """Writes the files of a report; returns the path of its page.

    The page comes last, so that a page that is new has new figures next to it.

    Args:
      subject: what was measured with what.
      source: the pictures, of which some are shown.
      found: what the model gave for them.
      output_dir: a folder that `check_folder` made.

    Raises:
      UserError: a file cannot be written, or a picture cannot be read any more.
    """
    said = gather(subject, found)
    shown = predictions.thumbnails(
        source, found, predictions.choose_thumbnails(found, said["pictures"])
    )
    shown_of = pictures(found, {*said["pictures"], *shown})
    files.write_text(os.path.join(output_dir, TABLE), _csv(found, subject.model.label_names))
    files.write_text(os.path.join(output_dir, FIGURES), _figures(said))
    path = os.path.join(output_dir, PAGE)
    files.write_text(path, page({**said, "pictures": shown_of}, shown))
    return path


def _figures(said: Mapping[str, Any]) -> str:
    """Returns the figures as JSON, one entry of the mapping a line."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in said.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _csv(found: predictions.Predictions, names) -> str:
    """Returns a line for each picture: where it is, its class, and the most probable classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    k = found.top.shape[1]
    ranks = [f"{what}_{rank}" for rank in range(1, k + 1) for what in ("class", "probability")]
    writer.writerow([*_FIRST_COLUMNS, *ranks])
    suspicion = found.suspicion()
    base_names = [os.path.basename(path) for path in found.paths]
    for number in range(len(found)):
        row: list[Any] = [
            base_names[found.files[number]],
            found.records[number],
            found.pictures[number],
            names[found.labels[number]],
            f"{found.label_probabilities[number]:.5f}",
            f"{suspicion[number]:.5f}",
        ]
        for rank in range(k):
            probability = found.top_probabilities[number, rank]
            row += [names[found.top[number, rank]], f"{probability:.5f}"]
        writer.writerow(row)
    return text.getvalue()


def measure_and_write(
    subject: Subject, source: predictions.Source, total: int, output_dir: str
) -> str:
    """Runs the model on the pictures and writes the report; returns the path of its page.

    Args:
      subject: what is measured with what.
      source: the pictures.
      total: their expected number, for the progress line; 0 if unknown.
      output_dir: a folder that `check_folder` made.
    """
    found = predictions.collect(subject.model.classify, source, total)
    return write(subject, source, found, output_dir)


def check(params: Mapping[str, Any]) -> None:
    """Checks before hours of training that the report at their end is possible.

    Raises:
      UserError: there are no files of pictures, or the folder cannot be written.
    """
    if not params["report"]:
        return
    if not records.has_files(params["data_dir"]):
        raise UserError(
            "--report shows the pictures of TFRecord files: name their folder with --data_dir, or "
            "leave --report out."
        )
    check_folder(os.path.join(params["model_dir"], FOLDER), "model_dir")


def finish(params: Mapping[str, Any], model_fn: Callable) -> None:
    """Writes model_dir/report/ about the newest checkpoint, if the settings ask for it.

    Args:
      params: complete settings of a training or an evaluation.
      model_fn: the model function of its estimator.

    Raises:
      UserError: the pictures cannot be read, or a file cannot be written.
    """
    if not params["report"]:
        return
    model_dir, prefix = params["model_dir"], records.EVAL_PREFIX
    checkpoint = checkpoints.latest(model_dir)
    if checkpoint is None:
        raise UserError(f"--model_dir={model_dir} holds no checkpoint to report on: train first.")
    good = scan.of_split(params, prefix)
    model = models.of_checkpoint(params, checkpoint, model_fn)
    source = predictions.Source(
        records.list_files(params["data_dir"], prefix, params),
        model.num_classes,
        params["num_eval_images"],
        good,
        examples.record_format(params),
        model.class_order,
    )
    subject = Subject(
        model, params["data_dir"], prefix.rstrip("-"), len(good.problems) if good else 0
    )
    path = measure_and_write(
        subject, source, params["num_eval_images"], os.path.join(model_dir, FOLDER)
    )
    logging.info("Wrote %s: open it in a browser.", path)
