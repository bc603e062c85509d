"""Imports weights of other programs as checkpoints."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.config import strict_yaml
from utils.training import averages, checkpoints
from utils.weights import file_settings, layer_names, model_folder, recognition, weights_file

import tensorflow.compat.v1 as tf  # isort: skip

_CHECKPOINT_FILE = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")


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
        resize_method, use_keras and batch_norm_epsilon. With model_spec (checked, and together
        with model_name) and depth_multiplier, the network is not recognized but taken as described.

    Returns:
      The recorded settings.

    Raises:
      UserError: the file cannot be read or its network is unknown; nothing is written then.
    """
    given = {name: value for name, value in given.items() if value is not None}
    state = weights_file.read(path)
    if source is None and "model_spec" not in given:
        given = {**file_settings.recorded(path), **given}
    if "model_spec" in given:
        network = recognition.described(
            state, path, given["model_name"], given["model_spec"], given.get("depth_multiplier")
        )
    else:
        network = recognition.recognize(state, path, source)
    logging.info(
        "%s: %s, depth multiplier %s, %d classes, %d tensors.",
        path, network.model_name, network.depth_multiplier or "none", network.num_classes,
        len(network.tensors),
    )  # fmt: skip
    params = {
        "model_name": network.model_name,
        "model_spec": network.model_spec,
        "depth_multiplier": network.depth_multiplier,
        "num_label_classes": network.num_classes,
        "resize_method": network.resize_method,
        **given,
    }
    values = {
        tensor.name: layer_names.to_tensorflow(tensor.name, state[tensor.key])
        for tensor in network.tensors
    }
    model_folder.write(params, values, model_dir, path, labels, common=True)
    return params


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
    names = strict_yaml.read_mapping(mapping)
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
    model_folder.write(params, values, model_dir, path, labels, common=False)
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
