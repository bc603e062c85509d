"""Exports: SavedModel and TensorFlow Lite files, each checked against the checkpoint.

Everything is made in a folder beside and renamed when it is complete and checked; an earlier export
of other weights is moved to `earlier/`, never overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

import imagenet_input
from utils import checkpoints, dataset_info, files, tflite
from utils.errors import UserError

import tensorflow.compat.v1 as tf  # isort: skip

REPORT_FILE = "export.json"
LABELS_FILE = "labels.txt"
LARGEST_DIFFERENCE = 1e-3
NUM_CHECK_IMAGES = 32


def export(params: Mapping[str, Any], checkpoint: str, estimator, model_fn) -> None:
    """Exports a checkpoint to params['export_dir'], unless the same export is there already.

    Raises:
      UserError: the folder is not writable, or a float file disagrees with the checkpoint.
    """
    export_dir = params["export_dir"]
    files.make_writable_dir(export_dir, "export_dir")
    wanted = _identity(params, checkpoint)
    earlier = _read_report(export_dir)
    if earlier and earlier["identity"] == wanted:
        logging.info("%s already holds the export of step %d.", export_dir, wanted["global_step"])
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mnasnet-export-") as beside:
        made = _make(params, checkpoint, estimator, model_fn, beside)
        report = {"identity": wanted, "files": made}
        if earlier:
            _move_earlier(export_dir, earlier)
        _publish(beside, export_dir, report)
    logging.info(
        "Exported step %d to %s in %.1f s: %s.",
        wanted["global_step"], export_dir, time.monotonic() - start, ", ".join(made),
    )  # fmt: skip


def _identity(params, checkpoint) -> dict[str, Any]:
    """What makes two exports the same."""
    names = ("model_name", "input_image_size", "resize_method", "post_quantize", "export_to_tpu",
             "export_moving_average")  # fmt: skip
    return {
        "checkpoint": os.path.abspath(checkpoint)
        if not files.is_remote(checkpoint)
        else checkpoint,
        "global_step": checkpoints.step_of(checkpoint),
        "bytes": tf.io.gfile.stat(checkpoint + ".index").mtime_nsec,
        **{name: params[name] for name in names},
    }


def _read_report(export_dir: str) -> dict[str, Any] | None:
    path = os.path.join(export_dir, REPORT_FILE)
    return json.loads(files.read_text(path)) if tf.io.gfile.exists(path) else None


def _make(params, checkpoint, estimator, model_fn, folder) -> dict[str, dict[str, Any]]:
    """Makes and checks all files in a local folder; name -> what was measured."""
    images = check_images(params)
    made = {}
    info = dataset_info.load(params["data_dir"])
    if info and info.label_names:
        files.write_text(os.path.join(folder, LABELS_FILE), "\n".join(info.label_names) + "\n")
        made[LABELS_FILE] = {"kind": "names of the classes"}
    name = _saved_model(params, checkpoint, estimator, folder)
    made[name] = {"kind": "SavedModel"}
    with tflite.Network(model_fn, params, checkpoint) as network:
        expected = np.stack([network.run(image) for image in images])
        variants: dict[str, tuple] = {f"{params['model_name']}.tflite": ()}
        if params["post_quantize"]:
            variants[f"{params['model_name']}_postquant.tflite"] = (tf.lite.Optimize.DEFAULT,)
        for name, optimizations in variants.items():
            content = network.convert(optimizations)
            with open(os.path.join(folder, name), "wb") as f:
                f.write(content)
            made[name] = _check(name, content, images, expected, is_float=not optimizations)
    return made


def _saved_model(params, checkpoint, estimator, folder) -> str:
    """Writes the SavedModel; returns its folder's name."""
    labels = os.path.join(folder, LABELS_FILE)
    extra = {LABELS_FILE: labels} if os.path.exists(labels) else None
    path = estimator.export_saved_model(
        folder,
        imagenet_input.build_image_serving_input_fn(
            params["input_image_size"], resize_method=params["resize_method"]
        ),
        assets_extra=extra,
        checkpoint_path=checkpoint,
    )
    return os.path.basename(os.fsdecode(path).rstrip("/"))


def check_images(params: Mapping[str, Any]) -> np.ndarray:
    """Images to check an export with: of the evaluation set, or noise where there is none.

    Returns:
      float32 [N, S, S, 3] in [0, 255].
    """
    size = params["input_image_size"]
    data_dir = params["data_dir"]
    pattern = os.path.join(data_dir or "", imagenet_input.EVAL_PREFIX + "*")
    if not data_dir or data_dir == "null" or not tf.io.gfile.glob(pattern):
        logging.info("No evaluation images at hand: the export is checked with random ones.")
        noise = np.random.RandomState(0).uniform(0, 255, (8, size, size, 3))
        return noise.astype(np.float32)
    source = imagenet_input.ImageNetInput(
        False, False, False, data_dir, size, resize_method=params["resize_method"]
    )
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = source.input_fn({"batch_size": NUM_CHECK_IMAGES})
        images, labels = session.run(tf.data.make_one_shot_iterator(dataset).get_next())
    return images[labels != imagenet_input.PADDING]


def _check(name, content, images, expected, is_float) -> dict[str, Any]:
    """Compares a .tflite file's logits with the checkpoint's."""
    interpreter = tflite.Interpreter(content=content)
    logits = np.stack([interpreter.run(image) for image in images])
    difference = float(np.abs(logits - expected).max() / max(1e-6, np.abs(expected).max()))
    agreement = float(np.mean(logits.argmax(1) == expected.argmax(1)))
    logging.info(
        "%s: %.2f MB, same class as the checkpoint on %.1f %% of %d images, largest logit "
        "difference %.2g relative.",
        name, len(content) / 1e6, 100 * agreement, len(images), difference,
    )  # fmt: skip
    if is_float and difference > LARGEST_DIFFERENCE:
        raise UserError(
            f"{name} differs from the checkpoint's logits by {difference:.2g} relative (at most "
            f"{LARGEST_DIFFERENCE:g} is expected): nothing was exported."
        )
    return {
        "kind": "TensorFlow Lite",
        "bytes": len(content),
        "images": len(images),
        "agreement": agreement,
        "largest_logit_difference": difference,
    }


def _move_earlier(export_dir: str, report: Mapping[str, Any]) -> None:
    """Moves an earlier export out of the way, whole."""
    step = report["identity"]["global_step"]
    target = os.path.join(export_dir, "earlier", f"step-{step}-{int(time.time())}")
    tf.io.gfile.makedirs(target)
    for name in [*report["files"], REPORT_FILE]:
        source = os.path.join(export_dir, name)
        if tf.io.gfile.exists(source):
            tf.io.gfile.rename(source, os.path.join(target, name))
    logging.info("The earlier export of step %d is now in %s.", step, target)


def _publish(beside: str, export_dir: str, report: Mapping[str, Any]) -> None:
    """Copies the files beside their places and renames them; the report comes last."""
    for name in report["files"]:
        source, target = os.path.join(beside, name), os.path.join(export_dir, name)
        if tf.io.gfile.exists(target):
            raise UserError(
                f"{target} is there already and was not made by this program: remove it, or choose "
                "another --export_dir."
            )
        part = target + ".tmp"
        if tf.io.gfile.exists(part):
            tf.io.gfile.rmtree(part) if tf.io.gfile.isdir(part) else tf.io.gfile.remove(part)
        _copy(source, part)
        tf.io.gfile.rename(part, target)
    files.write_text(os.path.join(export_dir, REPORT_FILE), json.dumps(report, indent=2) + "\n")


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        for folder, _, names in os.walk(source):
            place = os.path.join(target, os.path.relpath(folder, source)).rstrip("/.")
            tf.io.gfile.makedirs(place)
            for name in names:
                tf.io.gfile.copy(os.path.join(folder, name), os.path.join(place, name))
    elif files.is_remote(target):
        tf.io.gfile.copy(source, target)
    else:
        shutil.copyfile(source, target)
