"""Gathers what a report says, as values that JSON can hold."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from utils.base.version import __version__
from utils.exporting import export_report, saved_model
from utils.showing import curves, figures
from utils.showing.models import Model
from utils.showing.predictions import Predictions

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
            "name": model.name, "kind": model.kind, "path": model.path, "step": model.step,
            "classes": model.num_classes,
        },
        "data": {
            "name": os.path.basename(os.path.normpath(subject.data_dir)),
            "path": subject.data_dir, "split": subject.split, "skipped_images": subject.skipped,
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
        "curves": curves.read(model.model_dir) if model.model_dir else None,
        "exports": _exports(model.export_dir),
    }  # fmt: skip


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
    report = export_report.read(export_dir) if export_dir else None
    if report is None:
        return None
    measured = {
        name: row
        for name, row in report["files"].items()
        if row["kind"] != export_report.LABELS_KIND
    }
    return {
        "folder": export_dir,
        "header": ["file", *export_report.MEASURED],
        "rows": [
            [_file(name, row), *export_report.measured(row)] for name, row in measured.items()
        ],
    }


def _file(name: str, row: Mapping[str, Any]) -> str:
    """Returns how the table names a file; a SavedModel's own name is the time of its export."""
    return f"SavedModel {name}" if row["kind"] == saved_model.KIND else name
