"""Checkpoints: which are complete, saving them, reading averaged weights, keeping the best."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from utils import files, optimization
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

AVERAGE_SUFFIX = "/ExponentialMovingAverage"
ARCHIVE_DIR = "archive"
BEST_FILE = "best.json"
EVALUATIONS_FILE = "evaluations.json"
_BASENAME = "model.ckpt"


def step_of(path: str | None) -> int:
    """The global step in a checkpoint's name; 0 for None or a name without one."""
    match = re.search(r"-(\d+)$", path or "")
    return int(match.group(1)) if match else 0


def is_complete(path: str) -> bool:
    """Whether every tensor of a checkpoint can be read."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
        return False  # a data file cut short is an IndexError
    return True


def _listed(model_dir: str) -> list[str]:
    """Checkpoints in the folder, newest first, whatever the state file says."""
    found = tf.io.gfile.glob(os.path.join(model_dir, f"{_BASENAME}-*.index"))
    return sorted((path[: -len(".index")] for path in found), key=step_of, reverse=True)


def latest(model_dir: str) -> str | None:
    """The newest checkpoint by the folder's state file; None if there is none."""
    return tf.train.latest_checkpoint(model_dir)


def find(path: str) -> str | None:
    """The checkpoint that a folder, a file of a checkpoint or its name stands for; None if none."""
    checkpoint = (latest(path) or "") if tf.io.gfile.isdir(path) else path
    checkpoint = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", checkpoint)
    return checkpoint if checkpoint and tf.io.gfile.exists(checkpoint + ".index") else None


def has_any(model_dir: str) -> bool:
    """Whether there is a checkpoint in the folder, even one that the state file does not name."""
    return latest(model_dir) is not None or bool(_listed(model_dir))


def write_state(folder: str, names: list[str]) -> None:
    """Writes the state file that names a folder's checkpoints, oldest first, by their base names.

    TensorFlow's own function takes base names for paths relative to the working directory, and
    writes ../../model.ckpt-1 for a folder given by a relative path or in a bucket.
    """
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    files.write_text(os.path.join(folder, "checkpoint"), "\n".join(lines) + "\n")


def recover(model_dir: str) -> str | None:
    """Makes the state file name complete checkpoints only, and removes what a kill left behind.

    Call it before training, when no other program writes to the folder.

    Returns:
      The checkpoint that training goes on from; None if it starts from the beginning.
    """
    for leftover in tf.io.gfile.glob(os.path.join(model_dir, f"{_BASENAME}-*_temp*")):
        tf.io.gfile.rmtree(leftover)
    newest = latest(model_dir)
    candidates = _listed(model_dir)
    if newest is not None and is_complete(newest):
        return newest
    for path in candidates:
        if path != newest and is_complete(path):
            logging.warning(
                "Checkpoint %s cannot be read; going on from %s.", newest or "(unnamed)", path
            )
            older = [
                os.path.basename(p) for p in reversed(candidates) if step_of(p) <= step_of(path)
            ]
            write_state(model_dir, older)
            return path
    if newest is not None or candidates:
        logging.warning("No checkpoint in %s can be read; starting from step 0.", model_dir)
        state = os.path.join(model_dir, "checkpoint")
        if tf.io.gfile.exists(state):
            tf.io.gfile.remove(state)
    return None


def check_shapes(path: str, variables: Mapping[str, tf.Variable]) -> None:
    """Checks that a checkpoint's tensors have the shapes of a network's variables.

    TensorFlow restores a Keras variable without looking: ten classes would be served as a thousand.

    Args:
      path: of the checkpoint.
      variables: by their names in the checkpoint; those that it lacks are passed over.

    Raises:
      UserError: names the first variable of another shape, and both shapes.
    """
    held = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    for name, variable in sorted(variables.items()):
        expected = variable.shape.as_list()
        if held.get(name, expected) != expected:
            raise UserError(
                f"{path} is of another network than these settings describe: {name} has the shape "
                f"{held[name]} there and {expected} here; use the --model_dir and the settings "
                "(--model_name, --num_label_classes) that it was trained with."
            )


class SaverHook(tf.train.CheckpointSaverHook):
    """Saves every N steps and at the end; not at the start, and without the graph.

    Graph and meta graph would add seconds to every start and megabytes to every checkpoint, and
    nothing here reads them.
    """

    def __init__(self, model_dir: str, save_steps: int):
        super().__init__(model_dir, save_steps=save_steps, save_graph_def=False)

    def _save(self, session, step):
        try:
            return super()._save(session, step)
        except tf.errors.OutOfRangeError as e:
            # A file too large for its disk; a session would take it for the end of the images.
            raise OSError(e.message) from e

    def after_create_session(self, session, coord):
        self._timer.update_last_triggered_step(session.run(self._global_step_tensor))


class AveragesSaver(tf.train.Saver):
    """Restores averaged weights into a network where the checkpoint has them, else the raw ones.

    It looks into the checkpoint itself, so that neither can be used by mistake
    (google/automl#168), and says which it used.
    """

    def __init__(self, use_averages: bool = True):
        self._use_averages = use_averages
        self._averaged_names = {
            v.op.name + AVERAGE_SUFFIX: v for v in optimization.averaged_variables()
        }
        others = {
            v.op.name: v
            for v in tf.global_variables()
            if v.op.name + AVERAGE_SUFFIX not in self._averaged_names
        }
        self._averages = tf.train.Saver({**others, **self._averaged_names})
        self._raw_names = {v.op.name: v for v in tf.global_variables()}
        super().__init__()

    def restore(self, sess, save_path):
        averaged = self._use_averages and has_averages(save_path, self._averaged_names)
        logging.info("Using the %s weights of %s.", "averaged" if averaged else "raw", save_path)
        check_shapes(save_path, {**self._raw_names, **self._averaged_names})
        if averaged:
            self._averages.restore(sess, save_path)
        else:
            super().restore(sess, save_path)


def has_averages(path: str, names: Iterable[str] | None = None) -> bool:
    """Whether a checkpoint holds averages: all those named, or any at all."""
    held = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    if names is None:
        return any(name.endswith(AVERAGE_SUFFIX) for name in held)
    return all(name in held for name in names)


def evaluations(model_dir: str) -> list[dict[str, Any]]:
    """What earlier evaluations of a model_dir gave, one dict a checkpoint, in order.

    Raises:
      UserError: the file of them is damaged.
    """
    path = os.path.join(model_dir, EVALUATIONS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    remedy = "restore it from a copy, or remove it, and the newest checkpoint is evaluated again"
    return files.read_json(path, "a list of evaluations", remedy, _checked_evaluations)


def _checked_evaluations(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise TypeError("it is not a list")
    return [_checked_metrics(metrics) for metrics in content]


def _checked_metrics(content: Any) -> dict[str, Any]:
    files.member(content, "global_step", int)
    if not math.isfinite(files.member(content, "top_1_accuracy", int, float)):
        raise ValueError("top_1_accuracy is not finite")
    return content


def record_evaluation(model_dir: str, metrics: Mapping[str, Any]) -> None:
    """Adds an evaluation, replacing an earlier one of the same step."""
    kept = [e for e in evaluations(model_dir) if e["global_step"] != metrics["global_step"]]
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
    found = files.read_json(path, "a record of the best checkpoint", remedy, _checked_best)
    return {**found, "checkpoint": os.path.join(archive, found["checkpoint"])}


def _checked_best(content: Any) -> dict[str, Any]:
    files.name_in_folder(_checked_metrics(content)["checkpoint"])
    return content


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
    write_state(archive, [name])
    for path in tf.io.gfile.glob(os.path.join(archive, f"{_BASENAME}-*")):
        if not os.path.basename(path).startswith(name + "."):
            tf.io.gfile.remove(path)
    logging.info(
        "Step %d is the best so far (top-1 %.2f %%): kept in %s.",
        metrics["global_step"], 100 * metrics["top_1_accuracy"], archive,
    )  # fmt: skip
    return True
