"""Writes imported weights as a model_dir that every mode of the program takes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from absl import logging

import mnasnet_models
from utils.base import files
from utils.base.errors import UserError
from utils.config import network, settings
from utils.reading import labels
from utils.training import averages, checkpoints, model_files, optimization, warm_start
from utils.weights import recognition

import tensorflow.compat.v1 as tf

_CHECKPOINT = "model.ckpt-0"


def write(
    given: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    model_dir: str,
    path: str,
    names: Sequence[str] | None,
    common: bool,
    origin: str,
) -> None:
    """Checks weights against the network's variables, then writes checkpoint, settings and labels.

    Args:
      given: settings of the network, to be recorded.
      values: name -> array.
      model_dir: a folder without a checkpoint.
      path: of the imported file, or its name at a server, for messages.
      names: of the classes, in order; None or empty if they are not known.
      common: whether the names are those of `warm_start.common_names` without the model's name,
        not those of the variables.
      origin: where the weights come from, to be recorded.

    Raises:
      UserError: the weights do not fit the network, or model_dir holds a model already.
    """
    params = {**settings.default_params(), **given, "model_dir": model_dir}
    if params["num_label_classes"] < 2:
        raise UserError(
            f"{path} has a classifier of {params['num_label_classes']} classes: name weights with "
            "at least 2."
        )
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
            f"{recognition.list_entries('differences', problems)}."
        )
    complete: dict[str, np.ndarray] = {"global_step": np.asarray(0, np.int64)}
    for name, (_, trainable) in variables.items():
        value = _float32(values[key_of[name]])
        complete[name] = value
        if trainable:  # the values with which RMSProp starts
            complete[f"{name}/RMSProp"] = np.ones_like(value)
            complete[f"{name}/RMSProp_1"] = np.zeros_like(value)
        if name in averaged:
            average = values.get(key_of[name] + averages.SUFFIX, value)
            complete[name + averages.SUFFIX] = _float32(average)
    _check_numbers(complete, path)
    _log_assumed(params, path)
    _publish(model_dir, complete, _recorded(params, origin), names)


def _float32(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused later
        return np.asarray(value, np.float32)


def _check_numbers(values: Mapping[str, np.ndarray], path: str) -> None:
    """Raises UserError for float32 values that no network can have."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            wrong = "NaN or numbers that are infinite in float32"
        elif "/moving_variance" in name and (value < 0).any():
            wrong = "negative variances"
        else:
            continue
        raise UserError(f"{path} has {wrong} in {name}: it is damaged, or its training failed.")


def _log_assumed(params: Mapping[str, Any], path: str) -> None:
    """Logs what decides the outputs but does not show in the weights."""
    described = network.describe(params)
    logging.info(
        "%s is assumed to have %s padding, the batch-norm epsilon %g and the activation %s: if it "
        "was trained with others, give --batch_norm_epsilon or --model_spec.",
        path, described["padding"], described["batch_norm_epsilon"], described["activation"],
    )  # fmt: skip


def _network_variables(params) -> tuple[dict[str, tuple[list[int], bool]], set[str]]:
    """Returns (name -> (shape, trainable) in order of creation, names of averaged variables)."""
    with tf.Graph().as_default():
        overrides = network.overrides(params)
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
    """Returns what is missing, of another shape or type, or without a place."""
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
    return problems + [f"the network has no variable {n}" for n in values if n not in known]


def _recorded(params: Mapping[str, Any], origin: str) -> str:
    """Returns the text of params.yaml, the settings that belong to a checkpoint."""
    carried = {name: params[name] for name in settings.CARRIED if params[name] is not None}
    note = f"# Written by utils.import_weights from {origin}.\n"
    return note + yaml.safe_dump(carried, sort_keys=True, allow_unicode=True)


def check_free(model_dir: str) -> None:
    """Raises UserError for a folder that holds a model already."""
    files.check_dir_name(model_dir, "model_dir")
    taken = tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    if taken or tf.io.gfile.exists(os.path.join(model_dir, model_files.PARAMS_FILE)):
        raise UserError(
            f"--model_dir={model_dir} holds a model already: choose another folder or remove it."
        )


def _publish(model_dir: str, values, recorded: str, names: Sequence[str] | None) -> None:
    """Writes all files under other names and renames them; the state file, written last, counts."""
    files.make_writable_dir(model_dir, "model_dir")
    check_free(model_dir)
    unfinished = os.path.join(model_dir, f"import.tmp-{uuid.uuid4().hex[:8]}")
    files.make_dirs(unfinished)
    try:
        save_checkpoint(os.path.join(unfinished, _CHECKPOINT), values)
        for name in sorted(tf.io.gfile.listdir(unfinished)):
            tf.io.gfile.rename(os.path.join(unfinished, name), os.path.join(model_dir, name))
    finally:
        tf.io.gfile.rmtree(unfinished)
    files.write_text(os.path.join(model_dir, model_files.PARAMS_FILE), recorded)
    if names:
        labels.write(model_dir, names)
    checkpoints.write_state(model_dir, [_CHECKPOINT])


def log_use(model_dir: str) -> None:
    """Logs what a folder that `write` wrote is for."""
    logging.info("Wrote %s: use it in every mode with --model_dir=%s.", _CHECKPOINT, model_dir)


def save_checkpoint(prefix: str, values: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a checkpoint of variables.

    Args:
      prefix: path of the checkpoint, without the endings of its files.
      values: name -> array.
    """
    names = sorted(values)
    with tf.Graph().as_default(), tf.Session() as session:
        # Feed the values: constants would count towards the 2 GB that a graph may have.
        fed = [tf.placeholder(values[name].dtype, values[name].shape) for name in names]
        op = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=fed
        )
        session.run(op, dict(zip(fed, (values[name] for name in names), strict=True)))
