"""Writes a checkpoint's network as a SavedModel, and opens a SavedModel to classify with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import imagenet_input
import preprocessing
from utils.base import files
from utils.base.errors import UserError
from utils.reading import dataset_info
from utils.training import devices

import tensorflow.compat.v1 as tf

KIND = "SavedModel"


def write(params: Mapping[str, Any], checkpoint: str, model_fn: Callable, folder: str) -> str:
    """Writes a SavedModel that takes encoded pictures or pixels; returns its folder's name.

    Args:
      params: complete settings, for a network without TPU and bfloat16.
      checkpoint: path of the checkpoint to restore.
      model_fn: the model function of an estimator.
      folder: local folder to write in; its label file, if there is one, is copied in.

    Raises:
      UserError: the checkpoint is of another network.
    """
    label_file = os.path.join(folder, dataset_info.LABELS_FILE)
    assets = {dataset_info.LABELS_FILE: label_file} if os.path.exists(label_file) else None
    try:
        path = _estimator(params, model_fn).export_saved_model(
            folder,
            imagenet_input.build_image_serving_input_fn(
                preparation=preprocessing.Preparation.of(params)
            ),
            assets_extra=assets,
            checkpoint_path=checkpoint,
        )
    except (ValueError, tf.errors.InvalidArgumentError) as e:
        # A ValueError for variables that are missing, the other one for shapes.
        if not any(words in str(e) for words in ("requested variables", "Restoring from")):
            raise
        raise UserError(
            f"{checkpoint} is of another network than these settings describe "
            f"({params['model_name']}, {params['num_label_classes']} classes): use the --model_dir "
            "and the settings that it was trained with."
        ) from e
    return _with_new_version(os.fsdecode(path).rstrip("/"), params["export_dir"])


def _with_new_version(path: str, export_dir: str) -> str:
    """Renames a SavedModel unless its version is above all in export_dir; returns its name.

    The version is the time in seconds: that of two exports in one second, or after a clock was set
    back, would be in the way of the earlier one, or servers would not take it for the newer one.
    """
    folder, version = os.path.split(path)
    earlier = [int(name) for name in files.names(export_dir) if name.isdecimal()]
    if max(earlier, default=0) < int(version):
        return version
    newer = str(max(earlier) + 1)
    files.rename(path, os.path.join(folder, newer))
    return newer


def _estimator(params: Mapping[str, Any], model_fn: Callable) -> tf.estimator.tpu.TPUEstimator:
    """Returns an estimator that only exports; the one for TPUs can add a graph for them."""
    return tf.estimator.tpu.TPUEstimator(
        model_fn,
        config=tf.estimator.tpu.RunConfig(
            model_dir=params["model_dir"], session_config=devices.config(params, training=False)
        ),
        params=dict(params),
        use_tpu=False,
        export_to_tpu=params["export_to_tpu"],
    )


def weights_in(path: str) -> str:
    """Returns the prefix of the checkpoint that a SavedModel holds its weights in."""
    return os.path.join(path, tf.saved_model.VARIABLES_DIRECTORY, "variables")


class SavedModel:
    """Runs a SavedModel of this program on one thread; it decodes and crops pictures itself.

    Attributes:
      path: its folder.
      num_classes: the number of probabilities.
      session: holds its graph, as `write` built it, and its weights.
    """

    def __init__(self, path: str):
        """Opens a SavedModel's folder.

        Raises:
          UserError: it is not a SavedModel of this program.
        """
        files.check_no_pattern(path, "model")
        self.path = path
        self.session = tf.Session(graph=tf.Graph(), config=devices.one_thread())
        with self.session.graph.as_default():
            try:
                meta = tf.saved_model.load(self.session, [tf.saved_model.SERVING], path)
                signature = meta.signature_def["serving_default"]
                self._pictures = signature.inputs["image_bytes"].name
                self._probabilities = signature.outputs["probabilities"].name
                self.num_classes = signature.outputs["probabilities"].tensor_shape.dim[1].size
            except (OSError, RuntimeError, KeyError, IndexError, tf.errors.OpError) as e:
                raise UserError(
                    f"--model={path} is not a SavedModel of this program ({files.reason(e)})."
                ) from e

    def probabilities(self, image_bytes: bytes) -> np.ndarray:
        """Returns the probabilities, float32 [classes], of one encoded picture."""
        return self.session.run(self._probabilities, {self._pictures: [image_bytes]})[0]

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Returns the logits, float32 [classes], of one image, float [S, S, 3] in [0, 255]."""
        return self.session.run("logits:0", {f"{imagenet_input.SERVING_IMAGES}:0": image[None]})[0]
