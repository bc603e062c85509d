"""Imports weights of other programs as checkpoints."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from utils.base import files, scratch
from utils.base.errors import UserError
from utils.config import loading, settings
from utils.reading import labels as class_names
from utils.training import averages, checkpoints
from utils.weights import (
    file_settings,
    hub,
    layer_names,
    model_folder,
    recognition,
    weights_file,
)
from utils.weights.description import IMAGENET_LABELS, Description

import tensorflow.compat.v1 as tf

_LEAST_CLASSES = 2  # of a classifier that the data's own replaces
_CHECKPOINT_FILE = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")


def import_download(
    name: str, model_dir: str, source: str | None = None, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports weights that `hub.fetch` downloads, with what is published next to them.

    Args:
      name: see `hub.fetch`.
      model_dir: a folder without a checkpoint.
      source, labels, **given: see `import_state_dict`.

    Returns:
      The recorded settings.

    Raises:
      hub.NotFetchedError: they cannot be fetched.
      UserError: see `import_state_dict`.
    """
    model_folder.check_free(model_dir)
    params = _import(hub.fetch(name), model_dir, source, labels, given)
    model_folder.log_use(model_dir)
    return params


def initial_weights(path: str) -> str:
    """Returns the checkpoint or folder that a value of --init_checkpoint stands for.

    A weights file, or the name of a download, is imported into a temporary folder that goes when
    the process ends; a classifier that it lacks starts at 0. Any other value stays as it is.

    Raises:
      UserError: see `import_download`.
    """
    return _imported_folder(path) if files.is_download(path) or weights_file.is_one(path) else path


_FOLDERS = contextlib.ExitStack()
atexit.register(_FOLDERS.close)


@functools.cache
def _imported_folder(name: str) -> str:
    folder = os.path.join(_FOLDERS.enter_context(scratch.folder("mnasnet-weights-")), "model")
    weights = hub.fetch(name) if files.is_download(name) else _local(name)
    _import(weights, folder, None, None, {}, _LEAST_CLASSES)
    return folder


def _local(path: str) -> hub.Weights:
    return hub.Weights(path, path, os.path.basename(path), Description())


def import_state_dict(
    path: str, model_dir: str, source: str | None = None, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports a .safetensors or .pth file.

    Args:
      path: path of the file.
      model_dir: a folder without a checkpoint.
      source: one of `recognition.SOURCE_NAMES`, needed if the file fits more than one.
      labels: path of a file of class names, one a line, or 'imagenet' for those of ImageNet.
      **given: settings that replace those of the file: model_name, input_image_size,
        resize_method, eval_crop_share, use_keras and batch_norm_epsilon. With model_spec (checked,
        and together with model_name) and depth_multiplier, the network is not recognized but taken
        as described. With num_label_classes, a classifier that the file lacks starts at 0.

    Returns:
      The recorded settings.

    Raises:
      UserError: the file cannot be read or its network is unknown; nothing is written then.
    """
    params = _import(_local(path), model_dir, source, labels, given)
    model_folder.log_use(model_dir)
    return params


def _import(
    weights: hub.Weights,
    model_dir: str,
    source: str | None,
    labels: str | None,
    given: Mapping[str, Any],
    num_new_classes: int | None = None,
) -> dict[str, Any]:
    """Imports as `import_state_dict` does, with what is published next to the weights."""
    given = {name: value for name, value in given.items() if value is not None}
    state = weights_file.read(weights.path)
    if source is None and "model_spec" not in given:
        given = {**file_settings.recorded(weights.path), **given}
    described = weights.description
    if "model_spec" in given:
        network = recognition.described(
            state, weights.name, given["model_name"], given["model_spec"],
            given.get("depth_multiplier"),
        )  # fmt: skip
    else:
        network = recognition.recognize(state, weights.name, source or described.source)
    if network.num_classes and described.num_classes not in (None, network.num_classes):
        raise UserError(
            f"{weights.name} has {network.num_classes} classes, and its config.json says "
            f"{described.num_classes}: they do not belong together, so nothing is written."
        )
    logging.info(
        "%s: %s, depth multiplier %s, %d classes, %d tensors.",
        weights.name, network.model_name, network.depth_multiplier or "none", network.num_classes,
        len(network.tensors),
    )  # fmt: skip
    num_classes = network.num_classes or given.get("num_label_classes", num_new_classes)
    params = {
        "model_name": network.model_name,
        "model_spec": {**network.model_spec, **described.normalization},
        "depth_multiplier": network.depth_multiplier,
        "num_label_classes": num_classes,
        "resize_method": network.resize_method,
        **described.settings,
        **given,
    }
    values = {
        tensor.name: layer_names.to_tensorflow(tensor.name, state[tensor.key])
        for tensor in network.tensors
    }
    names: Sequence[str] | None = None
    if network.num_classes:
        names = _class_names(labels, described, network.num_classes)
    else:
        values.update(_new_classifier(network, num_classes, weights.name))
    model_folder.write(
        params, values, model_dir, weights.name, names, common=True, origin=weights.origin
    )
    return params


def _new_classifier(
    network: recognition.Network, num_classes: int | None, path: str
) -> dict[str, np.ndarray]:
    """Returns the values of a classifier that starts at 0; UserError if there is no number."""
    without = "has no classifier (num_classes=0, or layers of its own in its place)"
    if num_classes is None:
        raise UserError(
            f"{path} {without}: fine-tune it with --init_checkpoint={path}, or give "
            "--num_label_classes=N to import it with a classifier that must be trained."
        )
    logging.warning("%s %s: a new one starts at 0 and must be trained.", path, without)
    (features,) = network.tensors[-1].shape  # of the head's norm
    return {
        "mnas_head/dense/kernel": np.zeros([features, num_classes], np.float32),
        "mnas_head/dense/bias": np.zeros([num_classes], np.float32),
    }


def _class_names(
    labels: str | None, described: Description, num_classes: int
) -> Sequence[str] | None:
    """Returns the names that the user gives, or else those that are published with the weights."""
    if labels is None and described.labels == IMAGENET_LABELS:
        (labels,) = IMAGENET_LABELS
    return class_names.read(labels, num_classes) if labels else described.labels


def import_checkpoint(
    path: str, mapping: str, model_dir: str, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports a TF1 checkpoint of another program whose variables have other names.

    The average of a variable (`NAME/ExponentialMovingAverage`) is imported with the variable.
    Optimizer slots and the global step are not.

    Args:
      path: path of the checkpoint, or of a folder that has one.
      mapping: path of a YAML file that maps their names to ours, and to null what is left out.
      model_dir: a folder without a checkpoint.
      labels: see `import_state_dict`.
      **given: the settings of the network, among them `model_name`. The number of classes is
        read off the classifier.

    Returns:
      The recorded settings.

    Raises:
      UserError: a tensor has no place, or a place has no tensor; nothing is written then.
    """
    names = loading.read_mapping(mapping)
    checkpoint = _CHECKPOINT_FILE.sub("", path)
    checkpoint = checkpoints.latest(path) or "" if tf.io.gfile.isdir(path) else checkpoint
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise UserError(f"--weights={path} cannot be read: {files.reason(e)}.") from e
    values = _renamed(held, names, path, mapping)
    params = {name: value for name, value in given.items() if value is not None}
    if "model_name" not in params:
        raise UserError("--mapping needs --model_name or --model_spec: name the network.")
    for name, value in values.items():
        if name.endswith("/dense/bias"):
            params["num_label_classes"] = int(value.shape[0])
    classes = params.get("num_label_classes", settings.IMAGENET_CLASSES)
    names_of_classes = class_names.read(labels, classes) if labels else None
    model_folder.write(
        params, values, model_dir, path, names_of_classes, common=False,
        origin=os.path.basename(path),
    )  # fmt: skip
    model_folder.log_use(model_dir)
    return params


def _renamed(held, names, path, mapping) -> dict[str, np.ndarray]:
    """Returns our name -> value; UserError lists the tensors that the mapping does not place."""
    for theirs, ours in names.items():
        if not isinstance(theirs, str) or not isinstance(ours, str | None):
            raise UserError(
                f"{mapping}: {theirs!r}: {ours!r} does not map a name to a name: write lines "
                "'their name: our name', with null for a tensor to leave out."
            )
    targets = [name for name in names.values() if name is not None]
    twice = sorted({name for name in targets if targets.count(name) > 1})
    absent = [str(name) for name in names if name not in held]
    # Averages and optimizer slots have names below that of their variable.
    left_over = sorted(
        name
        for name in held
        if name != "global_step" and name not in names and name.rpartition("/")[0] not in held
    )
    problems = [
        recognition.list_entries("named twice", twice),
        recognition.list_entries("missing from the checkpoint", absent),
        recognition.list_entries("left over (map them to null to leave them out)", left_over),
    ]
    if any(problems):
        raise UserError(
            f"{mapping} does not fit {path}, so nothing is written; "
            f"{'; '.join(filter(None, problems))}."
        )
    values = {}
    for theirs, ours in names.items():
        if ours is not None:
            values[ours] = held[theirs]
            average = held.get(theirs + averages.SUFFIX)
            if average is not None:
                values[ours + averages.SUFFIX] = average
    return values
