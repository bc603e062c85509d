"""Loss and metrics of an evaluation, their record, and the archive of the best checkpoint.

Images labelled `imagenet_input.PADDING`, which fill up the last batch, do not count.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

import imagenet_input
from utils.base import files
from utils.base.errors import UserError, excerpt
from utils.config import network
from utils.training import checkpoints

import tensorflow.compat.v1 as tf

TOP_K = 5


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, params: Mapping[str, Any]) -> tf.Tensor:
    """Returns the mean over the images that count, with label smoothing; a float32 scalar.

    Args:
      logits: float32 [N, classes].
      labels: int32 [N], 0-based or `imagenet_input.PADDING`.
      params: all settings.
    """
    one_hot = tf.one_hot(labels, params["num_label_classes"])
    weights = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    return tf.losses.softmax_cross_entropy(
        one_hot, logits, weights, label_smoothing=params["label_smoothing"]
    )


def cross_entropies(logits: tf.Tensor, labels: tf.Tensor, params: Mapping[str, Any]) -> tf.Tensor:
    """Returns the cross-entropy of each image, float32 [N]; the arguments are the same.

    A metric takes these: every image then counts once, in any batch size.
    """
    return tf.losses.softmax_cross_entropy(
        tf.one_hot(labels, params["num_label_classes"]),
        logits,
        label_smoothing=params["label_smoothing"],
        loss_collection=None,
        reduction=tf.losses.Reduction.NONE,
    )


def of_batch(labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor) -> dict[str, Any]:
    """Returns metrics over the images that count: name -> (value, update).

    Args:
      labels: int32 [N], 0-based or `imagenet_input.PADDING`.
      logits: float32 [N, classes].
      losses: float32 [N], as `cross_entropies` returns them.

    Returns:
      Top-1 and top-5 accuracy, cross-entropy, and `images`, the number of images.
    """
    counts = tf.cast(tf.not_equal(labels, imagenet_input.PADDING), tf.float32)
    in_top_k = tf.nn.in_top_k(logits, tf.maximum(labels, 0), min(TOP_K, logits.shape[1]))
    total = tf.get_variable(
        "images",
        [],
        tf.float64,
        tf.zeros_initializer(),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
    )
    add = tf.assign_add(total, tf.reduce_sum(tf.cast(counts, tf.float64)))
    return {
        "top_1_accuracy": tf.metrics.accuracy(labels, tf.argmax(logits, axis=1), counts),
        "top_5_accuracy": tf.metrics.mean(tf.cast(in_top_k, tf.float32), counts),
        "cross_entropy": tf.metrics.mean(losses, counts),
        "images": (tf.identity(total), add),
    }


ARCHIVE_DIR = "archive"
BEST_FILE = "best.json"
PUBLISHED_BEST_FILE = "best_eval.txt"  # the published program's; this one writes none
EVALUATIONS_FILE = "evaluations.json"
_START = time.monotonic()
_UNSETTLED = 0.1  # share of the moving statistics' initial values that spoils an evaluation


def metrics_of(values: Mapping[str, Any], num_skipped: int) -> dict[str, Any]:
    """Returns what is recorded of an evaluation.

    Args:
      values: what the estimator returned.
      num_skipped: bad images that were left out.

    Returns:
      The values as Python numbers, `skipped_images`, and when they were known: `seconds` since the
      start of the program, which curves over time need, and `cpu_seconds`, which tell more on a
      machine that is busy.
    """
    metrics: dict[str, Any] = {name: float(value) for name, value in values.items()}
    metrics["global_step"], metrics["images"] = int(metrics["global_step"]), int(metrics["images"])
    metrics["skipped_images"] = num_skipped
    metrics["seconds"] = round(time.monotonic() - _START, 1)
    metrics["cpu_seconds"] = round(time.process_time(), 1)
    return metrics


def log(metrics: Mapping[str, Any], seconds: float, num_classes: int) -> None:
    """Prints the line of an evaluation that took so many seconds.

    It leaves out top-5 of at most five classes, among which any answer would be right.
    """
    skipped = metrics["skipped_images"]
    top_5 = f" top-5 {100 * metrics['top_5_accuracy']:.2f} %," if num_classes > TOP_K else ""
    logging.info(
        "Step %d: top-1 %.2f %%,%s loss %.4f on %d images%s in %.1f s.",
        metrics["global_step"],
        100 * metrics["top_1_accuracy"],
        top_5,
        metrics["cross_entropy"],
        metrics["images"],
        f" ({skipped} bad ones left out)" if skipped else "",
        seconds,
    )


def log_unsettled(params: Mapping[str, Any], step: int) -> None:
    """Says, at a model's first and last evaluation, if its statistics cannot have settled yet.

    Averaged weights start fast whatever their decay is, and lag a tenth of the steps behind. The
    moving means and variances of batch normalization start at 0 and 1, and forget them slowly.

    Args:
      params: the settings of the training.
      step: global step of the checkpoint.
    """
    momentum = network.model_params(params)[1].batch_norm_momentum
    left = momentum**step
    if step == 0 or params["freeze_backbone"] or left < _UNSETTLED:
        return
    if step < params["train_steps"] and read(params["model_dir"]):  # neither first nor last
        return
    logging.warning(
        "%d steps are too few for these figures to mean much: the moving statistics of batch "
        "normalization still hold %.0f %% of their first values (--batch_norm_momentum=%g), and "
        "averages lag behind (--moving_average_decay=%g): train longer, or give 0.9 for both.",
        step,
        100 * left,
        momentum,
        params["moving_average_decay"],
    )


def keep(model_dir: str, checkpoint: str, metrics: Mapping[str, Any]) -> None:
    """Archives a checkpoint if it is the best so far, and records its evaluation.

    A checkpoint whose evaluation is recorded is not evaluated again, so the record comes last.

    Raises:
      UserError: a file cannot be read or written.
    """
    archive_if_best(model_dir, checkpoint, metrics)
    record(model_dir, metrics)


def read(model_dir: str) -> list[dict[str, Any]]:
    """Returns what earlier evaluations of a model_dir gave, one dict a checkpoint, in order.

    Raises:
      UserError: the file that holds them is damaged.
    """
    path = os.path.join(model_dir, EVALUATIONS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    remedy = "restore it from a copy, or remove it to have the newest checkpoint evaluated again"
    return files.read_json(path, "a list of evaluations", remedy, _checked_evaluations)


def is_recorded(model_dir: str, step: int) -> bool:
    """Whether the checkpoint of a global step was evaluated."""
    return any(metrics["global_step"] == step for metrics in read(model_dir))


def record(model_dir: str, metrics: Mapping[str, Any]) -> None:
    """Adds an evaluation to those of a model_dir, replacing an earlier one of the same step."""
    kept = [e for e in read(model_dir) if e["global_step"] != metrics["global_step"]]
    files.write_json(os.path.join(model_dir, EVALUATIONS_FILE), [*kept, dict(metrics)])


def best(model_dir: str) -> dict[str, Any] | None:
    """Returns the metrics of the archived best checkpoint, with its path under `checkpoint`.

    Returns:
      None if no checkpoint was archived. Of one that the published program archived, global_step
      and top_1_accuracy alone are known.

    Raises:
      UserError: the file that holds them is damaged.
    """
    archive = os.path.join(model_dir, ARCHIVE_DIR)
    path = os.path.join(archive, BEST_FILE)
    if not tf.io.gfile.exists(path):
        return _published_best(archive)
    remedy = "restore it from a copy, or remove it, and the next evaluation archives its checkpoint"
    found = files.read_json(path, "a record of the best checkpoint", remedy, _checked_best)
    return {**found, "checkpoint": os.path.join(archive, found["checkpoint"])}


def _published_best(archive: str) -> dict[str, Any] | None:
    """Returns what the published program recorded of the checkpoint in its archive; None if none.

    Its best_eval.txt is the text of the accuracy, or of the dict that the estimator returned.
    """
    path = os.path.join(archive, PUBLISHED_BEST_FILE)
    if not tf.io.gfile.exists(path):
        return None
    remedy = (
        "write the best top-1 accuracy into it, such as 0.752, or remove it, and the next "
        "evaluation archives its checkpoint"
    )
    try:
        text = files.read_text(path)
    except UserError as e:
        raise UserError(f"{str(e).rstrip('.')}: {remedy}.") from e
    accuracy = _published_accuracy(text)
    if accuracy is None:
        raise UserError(
            f"{path} is not a record of the best checkpoint (it begins with "
            f"{excerpt(text.strip(), 40)!r}): {remedy}."
        )
    checkpoint = checkpoints.latest(archive)
    if checkpoint is None:  # nothing to keep
        return None
    step = checkpoints.step_of(checkpoint)
    return {"global_step": step, "top_1_accuracy": accuracy, "checkpoint": checkpoint}


def _published_accuracy(text: str) -> float | None:
    """Returns the top-1 accuracy in the text of a number or of a dict; None if there is none."""
    found = re.search(r"['\"]top_1_accuracy['\"]\s*:\s*(?:[\w.]+\()?([^\s,)}]+)", text)
    try:
        accuracy = float(found[1] if found else text)
    except ValueError:
        return None
    return accuracy if 0 <= accuracy <= 1 else None


def archive_if_best(model_dir: str, checkpoint: str, metrics: Mapping[str, Any]) -> bool:
    """Copies a checkpoint to archive/ if its top-1 accuracy is the highest so far.

    The new files are complete before best.json names them, and the old ones are removed after that.

    Returns:
      Whether it was copied.
    """
    before = best(model_dir)
    if before and before["top_1_accuracy"] >= metrics["top_1_accuracy"]:
        return False
    archive = os.path.join(model_dir, ARCHIVE_DIR)
    files.make_dirs(archive)
    name = os.path.basename(checkpoint)
    for source in tf.io.gfile.glob(checkpoint + ".*"):
        target = os.path.join(archive, os.path.basename(source))
        tf.io.gfile.copy(source, target, overwrite=True)
    files.write_json(os.path.join(archive, BEST_FILE), {**metrics, "checkpoint": name})
    checkpoints.write_state(archive, [name])
    with contextlib.suppress(tf.errors.NotFoundError):  # it is of the checkpoint before
        tf.io.gfile.remove(os.path.join(archive, PUBLISHED_BEST_FILE))
    for path in tf.io.gfile.glob(os.path.join(archive, "model.ckpt-*")):
        if not os.path.basename(path).startswith(name + "."):
            tf.io.gfile.remove(path)
    logging.info(
        "Step %d is the best so far (top-1 %.2f %%): kept in %s.",
        metrics["global_step"],
        100 * metrics["top_1_accuracy"],
        archive,
    )
    return True


def log_best(model_dir: str) -> None:
    """Prints which checkpoint is the best so far, if one was archived."""
    found = best(model_dir)
    if found:
        logging.info(
            "Best so far: top-1 %.2f %% at step %d, in %s.",
            100 * found["top_1_accuracy"],
            found["global_step"],
            found["checkpoint"],
        )


def checkpoint_to_export(params: Mapping[str, Any]) -> str:
    """Returns the checkpoint that --mode=export_only names, or else the latest one.

    --export_checkpoint is 'best', which means the archived one, or a path. A training exports its
    latest checkpoint, whatever --export_checkpoint says.

    Raises:
      UserError: there is no such checkpoint.
    """
    model_dir = params["model_dir"]
    wanted = params["export_checkpoint"] if params["mode"] == "export_only" else None
    if wanted == "best":
        return _best_checkpoint(model_dir)
    if wanted is None:
        latest = checkpoints.latest(model_dir)
        if latest is None:
            raise _nothing_to_export(model_dir, "checkpoint to export")
        return latest
    found = checkpoints.find(wanted)
    if found is None:
        raise UserError(
            f"--export_checkpoint={wanted} is not a checkpoint: name a path such as "
            "DIR/model.ckpt-1000, or 'best'."
        )
    return found


def _best_checkpoint(model_dir: str) -> str:
    found = best(model_dir)
    if found is None:
        raise _nothing_to_export(model_dir, "best checkpoint (evaluation keeps it)")
    if checkpoints.find(found["checkpoint"]) is None:
        raise UserError(
            f"The best checkpoint, {found['checkpoint']}, is missing: restore it from a copy, or "
            "name another one with --export_checkpoint."
        )
    return found["checkpoint"]


def _nothing_to_export(model_dir: str, kind: str) -> UserError:
    return UserError(f"--model_dir={model_dir} holds no {kind}: train first.")


def _checked_evaluations(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise TypeError("it is not a list")
    return [_checked_metrics(metrics) for metrics in content]


def _checked_metrics(content: Any) -> dict[str, Any]:
    files.member(content, "global_step", int)
    if not math.isfinite(files.member(content, "top_1_accuracy", int, float)):
        raise ValueError("top_1_accuracy is not finite")
    return content


def _checked_best(content: Any) -> dict[str, Any]:
    files.name_in_folder(_checked_metrics(content)["checkpoint"])
    return content
