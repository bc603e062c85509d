"""Converts weights files to checkpoints and back."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from absl import logging

import mnasnet_model
import mnasnet_models
from utils.base import files
from utils.base.errors import UserError, quoted
from utils.config import model_spec, network_settings, settings, strict_yaml
from utils.reading import labels as class_names
from utils.training import averages, checkpoints, model_files, optimization, warm_start
from utils.weights import layer_names, recognition, timm_models, weights_file

import tensorflow.compat.v1 as tf  # isort: skip


METADATA_KEY = "mnasnet_settings"


_METADATA_SETTINGS = ("model_name", "model_spec", "input_image_size", "resize_method")


_CHECKPOINT = "model.ckpt-0"


_CHECKPOINT_FILE = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")


def import_state_dict(
    path: str, model_dir: str, source: str | None = None, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports a .safetensors or .pth file.

    Args:
      path: the file.
      model_dir: a folder without a checkpoint.
      source: one of `state_dicts.SOURCE_NAMES`, where a file fits more than one.
      labels: a file of class names, one a line; 'imagenet' for the 1000 of ImageNet.
      **given: further settings to record, before those of the file: model_name, input_image_size,
        resize_method, use_keras, batch_norm_epsilon; model_spec (checked, beside a model_name) and
        depth_multiplier describe the network instead of its being recognized.

    Returns:
      The recorded settings.

    Raises:
      UserError: the file cannot be read or is no network that is known; nothing is written then.
    """
    given = {name: value for name, value in given.items() if value is not None}
    state = weights_file.read(path)
    if source is None and "model_spec" not in given:
        given = {**recorded_settings(path), **given}
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
    _write(params, values, model_dir, path, labels, common=True)
    return params


def metadata_of(params: Mapping[str, Any]) -> dict[str, str]:
    """What an exported file says of its network; `recorded_settings` reads it.

    Args:
      params: complete settings.
    """
    values = {**params, "model_spec": network_settings.specification(dict(params))}
    return {METADATA_KEY: json.dumps({name: values[name] for name in _METADATA_SETTINGS})}


def recorded_settings(path: str) -> dict[str, Any]:
    """The settings that a weights file has in its metadata; none where this program did not write.

    Raises:
      UserError: they are damaged.
    """
    text = weights_file.read_metadata(path).get(METADATA_KEY)
    if text is None:
        return {}
    source = f"{path}: {METADATA_KEY}"
    try:
        found = {name: json.loads(text)[name] for name in _METADATA_SETTINGS}
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise UserError(f"{source} is damaged: export the weights again.") from e
    if None in found.values():
        raise UserError(f"{source} is incomplete: export the weights again.")
    recorded = {
        name: settings.convert(name, value, f"{source}: {name}={quoted(value)}")
        for name, value in found.items()
    }
    if not isinstance(recorded["model_spec"], dict):
        raise UserError(f"{source} has no model specification: export the weights again.")
    check_name(recorded["model_name"], f"{source}: model_name=")
    return {**recorded, "model_spec": model_spec.check(recorded["model_spec"], source)}


def import_checkpoint(
    path: str, mapping: str, model_dir: str, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports a TF1 checkpoint of another program through a file of names.

    Averages (`NAME/ExponentialMovingAverage`) come along with the variable they are of; optimizer
    slots and the global step do not.

    Args:
      path: the checkpoint, or a folder that has one.
      mapping: YAML file, their name -> our name, or null for a tensor to leave out.
      model_dir: a folder without a checkpoint.
      labels: see `import_state_dict`.
      **given: the settings of the network; `model_name` is needed. The number of classes is read
        off the classifier.

    Returns:
      The recorded settings.

    Raises:
      UserError: a tensor has no place or a place no tensor; nothing is written then.
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
        raise UserError("--mapping needs --model_name or --model_spec: say which network it is.")
    for name, value in values.items():
        if name.endswith("/dense/bias"):
            params["num_label_classes"] = int(value.shape[0])
    _write(params, values, model_dir, path, labels, common=False)
    return params


def _renamed(held, names, path, mapping) -> dict[str, np.ndarray]:
    """Our name -> value; UserError lists what the mapping does not place."""
    for theirs, ours in names.items():
        if not isinstance(theirs, str) or not isinstance(ours, str | None):
            raise UserError(
                f"{mapping}: {theirs!r}: {ours!r} does not map a name to a name: write lines "
                "'their name: our name', with null for a tensor to leave out."
            )
    targets = [name for name in names.values() if name is not None]
    twice = sorted({name for name in targets if targets.count(name) > 1})
    absent = [str(name) for name in names if name not in held]
    # What belongs to a variable stands under its name: averages and optimizer slots.
    left_over = sorted(
        name
        for name in held
        if name != "global_step" and name not in names and name.rpartition("/")[0] not in held
    )
    problems = [
        recognition.listed("named twice", twice),
        recognition.listed("missing from the checkpoint", absent),
        recognition.listed("left over (map them to null to leave them out)", left_over),
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


def _check_numbers(values: Mapping[str, np.ndarray], path: str) -> None:
    """Refuses float32 values that no network can have."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            wrong = "infinite numbers or NaN (or such as are infinite in float32)"
        elif "/moving_variance" in name and (value < 0).any():
            wrong = "negative variances"
        else:
            continue
        raise UserError(f"{path} has {wrong} in {name}: it is damaged, or its training failed.")


def _write(given, values, model_dir, path, labels, common) -> None:
    """Checks everything against the network's variables, then writes model_dir.

    Args:
      given: settings of the network.
      values: name -> array; names in common form and without the model's own if `common`.
    """
    params = {**settings.default_params(), **given, "model_dir": model_dir}
    if params["num_label_classes"] < 2:
        raise UserError(
            f"{path} has a classifier of {params['num_label_classes']} classes: name weights that "
            "tell 2 classes or more apart."
        )
    names = class_names.read(labels, params["num_label_classes"]) if labels else None
    variables, averaged = _network_variables(params)
    if common:
        forms = warm_start.common_names(variables)
        key_of = {name: forms[name].split("/", 1)[1] for name in variables}
    else:
        key_of = {name: name for name in variables}
    problems = _problems(variables, key_of, values)
    if problems:
        raise UserError(
            f"{path} does not fit {params['model_name']}, so nothing is written; "
            f"{recognition.listed('differences', problems)}."
        )
    complete: dict[str, np.ndarray] = {"global_step": np.asarray(0, np.int64)}
    for name, (_, trainable) in variables.items():
        value = _float32(values[key_of[name]])
        complete[name] = value
        if trainable:  # as RMSProp starts its slots
            complete[f"{name}/RMSProp"] = np.ones_like(value)
            complete[f"{name}/RMSProp_1"] = np.zeros_like(value)
        if name in averaged:
            average = values.get(key_of[name] + averages.SUFFIX, value)
            complete[name + averages.SUFFIX] = _float32(average)
    _check_numbers(complete, path)
    _log_assumed(params, path)
    _publish(model_dir, complete, _recorded(params, path), names)


def _float32(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        return np.asarray(value, np.float32)


def _log_assumed(params: Mapping[str, Any], path: str) -> None:
    """One line on what decides the outputs and does not show in the weights."""
    network = network_settings.describe(params)
    logging.info(
        "%s is taken to have %s padding, the batch-norm epsilon %g and the activation %s: if it "
        "was trained otherwise, say so with --batch_norm_epsilon and --model_spec.",
        path, network["padding"], network["batch_norm_epsilon"], network["activation"],
    )  # fmt: skip


def _network_variables(params) -> tuple[dict[str, tuple[list[int], bool]], set[str]]:
    """(name -> (shape, trainable) in order of creation, names of those with an average)."""
    with tf.Graph().as_default():
        overrides = network_settings.overrides(params)
        try:
            mnasnet_models.build_mnasnet_model(
                tf.zeros([1, 64, 64, 3]), params["model_name"], False, overrides
            )
        except (NotImplementedError, ValueError) as e:
            raise UserError(f"--model_name={params['model_name']}: {e}") from e
        variables = {
            v.op.name: (v.shape.as_list(), v in tf.trainable_variables())
            for v in tf.global_variables()
        }
        return variables, {v.op.name for v in optimization.averaged_variables()}


def _problems(variables, key_of, values) -> list[str]:
    """What is missing, of another shape, or without a place."""
    problems = []
    for name, (shape, _) in variables.items():
        if key_of[name] not in values:
            problems.append(f"{name} {shape} is missing")
        for suffix in ("", averages.SUFFIX):
            value = values.get(key_of[name] + suffix)
            if value is None:
                continue
            if list(value.shape) != shape:
                problems.append(f"{name}{suffix} is {list(value.shape)} instead of {shape}")
            elif not tf.as_dtype(value.dtype).is_floating:
                problems.append(f"{name}{suffix} is {value.dtype} (quantized?) and not float32")
    known = {key for k in key_of.values() for key in (k, k + averages.SUFFIX)}
    return problems + [f"{n} is no variable of the network" for n in values if n not in known]


def _recorded(params: Mapping[str, Any], path: str) -> str:
    """The text of params.yaml: what travels with a checkpoint."""
    carried = {name: params[name] for name in settings.CARRIED if params[name] is not None}
    note = f"# Written by utils.import_weights from {os.path.basename(path)}.\n"
    return note + yaml.safe_dump(carried, sort_keys=True, allow_unicode=True)


def _publish(model_dir: str, values, recorded: str, labels: Sequence[str] | None) -> None:
    """Writes all files beside their places; the state file, which makes them count, comes last."""
    files.make_writable_dir(model_dir, "model_dir")
    taken = tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    if taken or tf.io.gfile.exists(os.path.join(model_dir, model_files.PARAMS_FILE)):
        raise UserError(
            f"--model_dir={model_dir} holds a model already: choose another folder or remove it."
        )
    beside = os.path.join(model_dir, f"import.tmp-{uuid.uuid4().hex[:8]}")
    tf.io.gfile.makedirs(beside)
    try:
        save(os.path.join(beside, _CHECKPOINT), values)
        for name in sorted(tf.io.gfile.listdir(beside)):
            tf.io.gfile.rename(os.path.join(beside, name), os.path.join(model_dir, name))
    finally:
        tf.io.gfile.rmtree(beside)
    files.write_text(os.path.join(model_dir, model_files.PARAMS_FILE), recorded)
    if labels:
        text = "".join(f"{label}\n" for label in labels)
        files.write_text(os.path.join(model_dir, class_names.FILE_NAME), text)
    checkpoints.write_state(model_dir, [_CHECKPOINT])
    logging.info(
        "Wrote %s: every mode of the program takes --model_dir=%s.", _CHECKPOINT, model_dir
    )


def save(prefix: str, values: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a checkpoint of variables with these names."""
    names = sorted(values)
    with tf.Graph().as_default(), tf.Session() as session:
        # Fed and not constants: a graph is limited to 2 GB.
        fed = [tf.placeholder(values[name].dtype, values[name].shape) for name in names]
        op = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=fed
        )
        session.run(op, dict(zip(fed, (values[name] for name in names), strict=True)))


def check_name(name: str, given: str) -> None:
    if not mnasnet_models.is_scope_name(name):
        raise UserError(
            f"{given}{quoted(name)} cannot name variables: use at most 200 letters, digits, . _ -."
        )


def timm_state_dict(
    checkpoint: str, params: Mapping[str, Any], averaged: bool = True
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights under timm's keys, float32 in PyTorch's layout.

    Args:
      checkpoint: path of the checkpoint.
      params: complete settings, see `utils.config.settings.default_params`.
      averaged: the averages, where the checkpoint has them, instead of the raw weights.

    Raises:
      UserError: the checkpoint cannot be read, or is not of this network.
    """
    overrides = network_settings.overrides(dict(params))
    stages, global_params = mnasnet_models.get_model_params(params["model_name"], overrides)
    stem = mnasnet_model.round_filters(global_params.stem_size, global_params)
    blocks = layer_names.unroll(stages, global_params)
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = reader.get_variable_to_shape_map()
        names = {
            common.split("/", 1)[-1]: name for name, common in warm_start.common_names(held).items()
        }
        state = {}
        for tensor in layer_names.tensors(
            "timm", blocks, stem, global_params.head_size, global_params.num_classes
        ):
            name = names.get(tensor.name)
            if name is None:
                raise UserError(f"{checkpoint} lacks {tensor.name}: is it of another network?")
            average = name + averages.SUFFIX
            value = reader.get_tensor(average if averaged and average in held else name)
            array = layer_names.to_pytorch(tensor.name, value)
            if array.shape != tensor.shape:
                raise UserError(
                    f"{checkpoint} has {name} as {list(value.shape)}, which is another network's "
                    "shape: name the model_dir that it was made in."
                )
            state[tensor.key] = np.ascontiguousarray(array, np.float32)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise UserError(f"{checkpoint} cannot be read: {files.reason(e)}.") from e
    timm_models.log_how_to_load(state, stages, global_params)
    return state
