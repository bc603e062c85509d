"""Records what evaluations gave, and keeps the best checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from absl import logging

from utils.base import files
from utils.training import (
    checkpoints,
)

import tensorflow.compat.v1 as tf  # isort: skip


ARCHIVE_DIR = "archive"


BEST_FILE = "best.json"


EVALUATIONS_FILE = "evaluations.json"


def read(model_dir: str) -> list[dict[str, Any]]:
    """What earlier evaluations of a model_dir gave, one dict a checkpoint, in order.

    Raises:
      UserError: the file of them is damaged.
    """
    path = os.path.join(model_dir, EVALUATIONS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    remedy = "restore it from a copy, or remove it, and the newest checkpoint is evaluated again"
    return files.read_json(path, "a list of evaluations", remedy, checkpoints.checked_evaluations)


def record(model_dir: str, metrics: Mapping[str, Any]) -> None:
    """Adds an evaluation, replacing an earlier one of the same step."""
    kept = [e for e in read(model_dir) if e["global_step"] != metrics["global_step"]]
    files.write_json(os.path.join(model_dir, EVALUATIONS_FILE), [*kept, dict(metrics)])


def best(model_dir: str) -> dict[str, Any] | None:
    """Metrics of the archived best checkpoint, with its path under `checkpoint`.

    Raises:
      UserError: the file of them is damaged.
    """
    archive = os.path.join(model_dir, ARCHIVE_DIR)
    path = os.path.join(archive, BEST_FILE)
    if not tf.io.gfile.exists(path):
        return None
    remedy = "restore it from a copy, or remove it, and the next evaluation archives its checkpoint"
    found = files.read_json(
        path, "a record of the best checkpoint", remedy, checkpoints.checked_best
    )
    return {**found, "checkpoint": os.path.join(archive, found["checkpoint"])}


def archive_if_best(model_dir: str, checkpoint: str, metrics: Mapping[str, Any]) -> bool:
    """Copies a checkpoint to archive/ if its top-1 accuracy is the highest so far.

    The new files are complete before best.json names them, and the old ones go after that.
    """
    before = best(model_dir)
    if before and before["top_1_accuracy"] >= metrics["top_1_accuracy"]:
        return False
    archive = os.path.join(model_dir, ARCHIVE_DIR)
    tf.io.gfile.makedirs(archive)
    name = os.path.basename(checkpoint)
    for source in tf.io.gfile.glob(checkpoint + ".*"):
        target = os.path.join(archive, os.path.basename(source))
        tf.io.gfile.copy(source, target, overwrite=True)
    files.write_json(os.path.join(archive, BEST_FILE), {**metrics, "checkpoint": name})
    checkpoints.write_state(archive, [name])
    for path in tf.io.gfile.glob(os.path.join(archive, "model.ckpt-*")):
        if not os.path.basename(path).startswith(name + "."):
            tf.io.gfile.remove(path)
    logging.info(
        "Step %d is the best so far (top-1 %.2f %%): kept in %s.",
        metrics["global_step"], 100 * metrics["top_1_accuracy"], archive,
    )  # fmt: skip
    return True


def log_best(model_dir: str) -> None:
    found = best(model_dir)
    if found:
        logging.info(
            "Best so far: top-1 %.2f %% at step %d, in %s.",
            100 * found["top_1_accuracy"], found["global_step"], found["checkpoint"],
        )  # fmt: skip


EVAL_DIR = "eval"  # where the estimator writes summaries of evaluations
