"""Reads the curves of a training from its event files and its evaluations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from utils.training import evaluations

import tensorflow.compat.v1 as tf

TAGS = ("loss", "cross_entropy", "learning_rate", "images_per_second")
MOST_POINTS = 400  # of a curve, which is about as many pixels wide

# Step, seconds of training until then, value.
Point = tuple[int, float, float]


def read(model_dir: str) -> dict[str, Any] | None:
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
    series: dict[str, list[Point]] = {tag: [] for tag in TAGS}
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
                if value.tag in TAGS:
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
    size = -(-len(points) // MOST_POINTS)
    runs = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        (run[-1][0], round(run[-1][1], 2), float(np.mean([value for *_, value in run])))
        for run in runs
    ]
