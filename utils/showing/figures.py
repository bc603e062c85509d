"""Figures of a classifier and of its training: intervals, confusions, classes, curves."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from utils.training import evaluations

import tensorflow.compat.v1 as tf

CURVE_TAGS = ("loss", "cross_entropy", "learning_rate", "images_per_second")
MOST_CURVE_POINTS = 400  # of a curve, which is about as many pixels wide

# Step, seconds of training until then, value.
Point = tuple[int, float, float]


def read_curves(model_dir: str) -> dict[str, Any] | None:
    """Returns the curves of a training; None if its folder knows of none.

    Returns:
      `series`: tag -> list of `Point`, in the order of the steps; `evaluations`: a dict for each,
      with `step`, `seconds` (None if unknown), `top_1`, `top_5` and `cross_entropy`. Pauses
      between runs do not count as seconds.
    """
    series = _series(model_dir)
    found = evaluations.read(model_dir)
    if not found and not any(series.values()):
        return None
    timed = max(series.values(), key=len)
    return {
        "series": {tag: _thinned(points) for tag, points in series.items() if points},
        "evaluations": [
            {
                "step": metrics["global_step"],
                "seconds": _seconds(metrics, timed),
                "top_1": metrics["top_1_accuracy"],
                "top_5": metrics.get("top_5_accuracy"),
                "cross_entropy": metrics.get("cross_entropy"),
            }
            for metrics in sorted(found, key=lambda metrics: metrics["global_step"])
        ],
    }


def _seconds(metrics: dict[str, Any], timed: list[Point]) -> float | None:
    """Returns when a training reached the step of an evaluation.

    The evaluation's own clock starts anew with each run, so it is asked only without event files.
    """
    if not timed:
        return metrics.get("seconds")
    steps, seconds, _ = zip(*timed, strict=True)
    return float(np.interp(metrics["global_step"], steps, seconds))


def _series(model_dir: str) -> dict[str, list[Point]]:
    """Returns the points of each tag over all runs; a step that was repeated counts once."""
    series: dict[str, list[Point]] = {tag: [] for tag in CURVE_TAGS}
    before = 0.0
    for path in sorted(tf.io.gfile.glob(os.path.join(model_dir, "events.out.tfevents.*"))):
        start, last = None, before
        for step, wall_time, tag, value in _scalars(path):
            start = wall_time if start is None else start
            last = before + max(0.0, wall_time - start)
            points = series[tag]
            while points and points[-1][0] >= step:  # lost by a kill, and trained again
                points.pop()
            points.append((step, last, value))
        before = last
    return series


def _scalars(path: str) -> Iterator[tuple[int, float, str, float]]:
    """Yields (step, time, tag, value) of an event file, as far as it can be read."""
    try:
        for event in tf.train.summary_iterator(path):
            for value in event.summary.value:
                if value.tag in CURVE_TAGS:
                    number = _number(value)
                    if math.isfinite(number):
                        yield event.step, event.wall_time, value.tag, number
    except tf.errors.OpError:  # a kill cuts the last event off; the others are worth showing
        return


def _number(value: tf.Summary.Value) -> float:
    """Returns a scalar of TensorFlow 1, or of TensorFlow 2, which a TPU's host writes."""
    if value.WhichOneof("value") == "tensor":
        return float(np.mean(tf.make_ndarray(value.tensor)))
    return value.simple_value


def _thinned(points: list[Point]) -> list[Point]:
    """Returns at most `MOST_POINTS`, each the mean value of as many that follow each other."""
    size = -(-len(points) // MOST_CURVE_POINTS)
    runs = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        (run[-1][0], round(run[-1][1], 2), float(np.mean([value for *_, value in run])))
        for run in runs
    ]


_Z = 1.959963984540054  # of a 95 % interval: the 97.5 % quantile of the normal distribution
NUM_BINS = 10  # of the reliability diagram


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval (low, high) in [0, 1] of a share, by Wilson (1927).

    Unlike share +- 2 standard deviations it stays within [0, 1], and does not shrink to nothing
    where all or none are right.

    Args:
      right: how many of `total` count, 0..total.
      total: number of independent trials; without any the interval is (0, 1).

    Raises:
      ValueError: `right` is not in 0..total.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} right of {total} is not a share.")
    if not total:
        return 0.0, 1.0
    share, extra = right / total, _Z**2 / total
    middle = (share + extra / 2) / (1 + extra)
    half = _Z * math.sqrt(share * (1 - share) / total + extra / (4 * total)) / (1 + extra)
    # Exact at both ends, where rounding may miss the limits by the last digit.
    return (middle - half if right else 0.0), (middle + half if right < total else 1.0)


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """What is known of one class.

    Attributes:
      images: how many images have this label.
      predicted: how many images were taken for this class.
      right: how many images of this label were taken for it.
      precision: right / predicted; None if no image was taken for it.
      recall: right / images; None if no image has this label.
      f1: harmonic mean of both, 2 right / (images + predicted); None if both are None.
      confused_with: index of the class that most of its other images were taken for, the first of
        several; None if all are right.
      confused: how many were taken for `confused_with`.
    """

    images: int
    predicted: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None
    confused_with: int | None
    confused: int


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the images of each label (row) that were taken for each class (column).

    Args:
      labels: integers [N] in 0..num_classes-1, the right classes.
      predicted: integers [N] in the same range.
      num_classes: number of rows and columns.

    Returns:
      int64 [num_classes, num_classes].
    """
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    counts = np.bincount(cells, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_figures(confusion: np.ndarray) -> list[ClassFigures]:
    """Returns the figures of each class, in the order of the classes.

    Args:
      confusion: as `confusion_matrix` returns it.
    """
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    right = np.diagonal(confusion)
    elsewhere = confusion - np.diag(right)
    favourites = elsewhere.argmax(axis=1)
    found = []
    for label, favourite in enumerate(favourites):
        confused = int(elsewhere[label, favourite])
        counts = int(images[label]), int(predicted[label]), int(right[label])
        found.append(
            ClassFigures(
                *counts,
                precision=_share(counts[2], counts[1]),
                recall=_share(counts[2], counts[0]),
                f1=_share(2 * counts[2], counts[0] + counts[1]),
                confused_with=int(favourite) if confused else None,
                confused=confused,
            )
        )
    return found


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


@dataclasses.dataclass(frozen=True)
class Bin:
    """The pictures whose most probable class has a probability in a range.

    Attributes:
      low: lower end of the range.
      high: upper end.
      images: how many pictures.
      confidence: their mean probability; None without pictures.
      accuracy: the share of them that is right; None without pictures.
      interval: the 95 % interval of `accuracy`.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None
    interval: tuple[float, float]


def calibration_bins(confidence: np.ndarray, is_right: np.ndarray) -> list[Bin]:
    """Sorts pictures into `NUM_BINS` ranges of equal width by the probability of their class.

    Args:
      confidence: float [N] in [0, 1], the probability of each most probable class.
      is_right: bool [N], whether it is the right one.
    """
    edges = np.linspace(0, 1, NUM_BINS + 1)
    places = np.clip(np.ceil(np.asarray(confidence) * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    found = []
    for number in range(NUM_BINS):
        inside = places == number
        images, right = int(inside.sum()), int(is_right[inside].sum())
        found.append(
            Bin(
                float(edges[number]),
                float(edges[number + 1]),
                images,
                float(confidence[inside].mean()) if images else None,
                _share(right, images),
                wilson_interval(right, images),
            )
        )
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Returns the mean distance of accuracy and confidence over pictures (Naeini et al., 2015)."""
    total = sum(one.images for one in bins)
    return sum(
        one.images / total * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )
