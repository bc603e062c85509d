"""Writes a report: report.html, report.json and predictions.csv in a folder."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.reading import bad_images, examples, records
from utils.showing import content, models, page, predictions, thumbnails
from utils.training import checkpoints

import tensorflow.compat.v1 as tf

PAGE, FIGURES, TABLE = "report.html", "report.json", "predictions.csv"
FOLDER = "report"  # in a model_dir
_FIRST_COLUMNS = ("file", "record", "picture", "true", "true_probability", "suspicion")
# What the beginning of each file has that an earlier report wrote.
_MARKS = {
    PAGE: f'content="{content.MAKER}"',
    FIGURES: f'"made_by": "{content.MAKER}',
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
    subject: content.Subject,
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
    said = content.gather(subject, found)
    shown = thumbnails.make(source, found, thumbnails.choose(found, said["pictures"]))
    shown_of = content.pictures(found, {*said["pictures"], *shown})
    files.write_text(os.path.join(output_dir, TABLE), _table(found, subject.model.label_names))
    files.write_text(os.path.join(output_dir, FIGURES), _figures(said))
    path = os.path.join(output_dir, PAGE)
    files.write_text(path, page.make({**said, "pictures": shown_of}, shown))
    return path


def _figures(said: Mapping[str, Any]) -> str:
    """Returns the figures as JSON, one entry of the mapping a line."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in said.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _table(found: predictions.Predictions, names) -> str:
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
            base_names[found.files[number]], found.records[number], found.pictures[number],
            names[found.labels[number]], f"{found.label_probabilities[number]:.5f}",
            f"{suspicion[number]:.5f}",
        ]  # fmt: skip
        for rank in range(k):
            probability = found.top_probabilities[number, rank]
            row += [names[found.top[number, rank]], f"{probability:.5f}"]
        writer.writerow(row)
    return text.getvalue()


def measure_and_write(
    subject: content.Subject, source: predictions.Source, total: int, output_dir: str
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
    good = bad_images.of_split(params, prefix)
    model = models.of_checkpoint(params, checkpoint, model_fn)
    source = predictions.Source(
        records.list_files(params["data_dir"], prefix, params),
        model.num_classes,
        params["num_eval_images"],
        good,
        examples.record_format(params),
        model.class_order,
    )
    subject = content.Subject(
        model, params["data_dir"], prefix.rstrip("-"), len(good.problems) if good else 0
    )
    path = measure_and_write(
        subject, source, params["num_eval_images"], os.path.join(model_dir, FOLDER)
    )
    logging.info("Wrote %s: open it in a browser.", path)
