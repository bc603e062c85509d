"""Weights of other programs become checkpoints, and checkpoints become weights for timm."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from absl import logging

import mnasnet_models
import preprocessing
from mnasnet_model import BlockArgs, GlobalParams
from utils.base import files
from utils.base.errors import UserError, quoted
from utils.config import loading, network, settings
from utils.reading import dataset_info
from utils.training import averages, checkpoints, model_files, optimization, warm_start
from utils.weights import hub, recognition, weights_file

import tensorflow.compat.v1 as tf

_LEAST_CLASSES = 2  # of a classifier that the data's own replaces
_CHECKPOINT = "model.ckpt-0"
_UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, IndexError)


# Import.


def import_weights(
    name: str, model_dir: str, source: str | None = None, labels: str | None = None, **given: Any
) -> dict[str, Any]:
    """Imports a weights file as a checkpoint, with what is published next to it.

    Args:
      name: path of a file, or a name that `hub.fetch` downloads.
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
      hub.NotFetchedError: the weights cannot be fetched.
      UserError: the file cannot be read or its network is unknown; nothing is written then.
    """
    check_free(model_dir)
    given = {setting: value for setting, value in given.items() if value is not None}
    num_new_classes = given.get("num_label_classes")
    params = _import(hub.fetch(name), model_dir, source, labels, given, num_new_classes)
    _log_use(model_dir)
    return params


def initial_weights(path: str) -> str:
    """Returns the checkpoint or folder that a value of --init_checkpoint stands for.

    A weights file, or the name of a download, is imported into a temporary folder that goes when
    the process ends; a classifier that it lacks starts at 0. Any other value stays as it is.

    Raises:
      UserError: see `import_weights`.
    """
    if files.is_download(path) or weights_file.is_one(path):
        return os.path.join(_imported(path).name, "model")
    return path


@functools.cache
def _imported(name: str) -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="mnasnet-weights-")
    model_dir = os.path.join(folder.name, "model")
    _import(hub.fetch(name), model_dir, None, None, {}, _LEAST_CLASSES)
    return folder


def _import(
    weights: hub.Weights,
    model_dir: str,
    source: str | None,
    labels: str | None,
    given: Mapping[str, Any],
    num_new_classes: int | None,
) -> dict[str, Any]:
    state, described = weights_file.read(weights.path), weights.description
    if source is None and "model_spec" not in given:
        given = {**_recorded(weights.path), **given}
    if "model_spec" in given:
        name, spec = given["model_name"], given["model_spec"]
        recognized = recognition.described(
            state, weights.name, name, spec, given.get("depth_multiplier")
        )
    else:
        recognized = recognition.recognize(state, weights.name, source or described.source)
    logging.info(
        "%s: %s, depth multiplier %s, %d classes, %d tensors.",
        weights.name,
        recognized.model_name,
        recognized.depth_multiplier or "none",
        recognized.num_classes,
        len(recognized.tensors),
    )
    values = {
        name: recognition.to_tensorflow(name, state[key])
        for key, name in recognized.tensors.items()
        for key, name in recognized.tensors.items()
    }
    num_classes = recognized.num_classes
    if not num_classes:
        num_classes = num_new_classes or 0
        values.update(_new_classifier(list(values.values())[-1].size, num_classes, weights.name))
    params = {
        "model_name": recognized.model_name,
        "model_spec": {**recognized.model_spec, **described.normalization},
        "depth_multiplier": recognized.depth_multiplier,
        "num_label_classes": num_classes,
        "resize_method": recognized.resize_method,
        **described.settings,
        **given,
    }
    names = dataset_info.read_labels(labels, num_classes) if labels else described.labels
    variables = _variables(params)
    own = _by_common_name(variables)
    values = {own.get(name, name): value for name, value in values.items()}
    names = names if len(names) == num_classes else ()
    _write(params, variables, values, model_dir, weights.origin, names)
    return params


def _by_common_name(names: Iterable[str]) -> dict[str, str]:
    """Maps the names that `recognition` gives variables to their own."""
    return {common.partition("/")[2]: n for n, common in warm_start.common_names(names).items()}


def _new_classifier(features: int, num_classes: int, path: str) -> dict[str, np.ndarray]:
    """Returns the values of a classifier that starts at 0; UserError if there is no number."""
    without = "has no classifier (num_classes=0, or layers of its own in its place)"
    if not num_classes:
        raise UserError(
            f"{path} {without}: fine-tune it with --init_checkpoint={path}, or give "
            "--num_label_classes=N to import it with a classifier that must be trained."
        )
    logging.warning("%s %s: a new one starts at 0 and must be trained.", path, without)
    return {
        "mnas_head/dense/kernel": np.zeros([features, num_classes], np.float32),
        "mnas_head/dense/bias": np.zeros([num_classes], np.float32),
    }


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
      labels: see `import_weights`.
      **given: the settings of the network, among them `model_name`. The number of classes is
        read off the classifier.

    Returns:
      The recorded settings.

    Raises:
      UserError: a tensor has no place, or a place has no tensor; nothing is written then.
    """
    check_free(model_dir)
    params = {name: value for name, value in given.items() if value is not None}
    if "model_name" not in params:
        raise UserError("--mapping needs --model_name or --model_spec: name the network.")
    names = loading.read_mapping(mapping)
    checkpoint = checkpoints.find(path) or path
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except _UNREADABLE as e:
        raise UserError(f"--weights={path} cannot be read: {files.reason(e)}.") from e
    values = _renamed(held, names, path, mapping)
    for name, value in values.items():
        if name.endswith("/dense/bias"):
            params["num_label_classes"] = int(value.shape[0])
    classes = params.get("num_label_classes", settings.IMAGENET_CLASSES)
    names_of_classes = dataset_info.read_labels(labels, classes) if labels else ()
    origin = os.path.basename(path)
    _write(params, _variables(params), values, model_dir, origin, names_of_classes)
    _log_use(model_dir)
    return params


def _renamed(
    held: Mapping[str, np.ndarray], names: Mapping[Any, Any], path: str, mapping: str
) -> dict[str, np.ndarray]:
    """Returns our name -> value; UserError lists the tensors that the mapping does not place."""
    for theirs, ours in names.items():
        if not isinstance(theirs, str) or not isinstance(ours, str | None):
            raise UserError(
                f"{mapping}: {theirs!r}: {ours!r} does not map a name to a name: write lines "
                "'their name: our name', with null for a tensor to leave out."
            )
    # Averages and optimizer slots have names below that of their variable.
    left_over = sorted(
        name
        for name in held
        if name != "global_step" and name not in names and name.rpartition("/")[0] not in held
    )
    problems = recognition.list_entries(
        ("missing from the checkpoint", [name for name in names if name not in held]),
        ("left over (map them to null to leave them out)", left_over),
    )
    if problems:
        raise UserError(f"{mapping} does not fit {path}, so nothing is written; {problems}.")
    return {
        ours + suffix: held[theirs + suffix]
        for theirs, ours in names.items()
        for suffix in ("", averages.SUFFIX)
        if ours is not None and theirs + suffix in held
    }


# The folder of a model.


def check_free(model_dir: str) -> None:
    """Raises UserError for a folder that holds a model already."""
    files.check_dir_name(model_dir, "model_dir")
    taken = tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    if taken or tf.io.gfile.exists(os.path.join(model_dir, model_files.PARAMS_FILE)):
        raise UserError(
            f"--model_dir={model_dir} holds a model already: choose another folder or remove it."
        )


def _log_use(model_dir: str) -> None:
    logging.info("Wrote %s: use it in every mode with --model_dir=%s.", _CHECKPOINT, model_dir)


def _variables(given: Mapping[str, Any]) -> dict[str, tuple[list[int], bool, bool]]:
    """Returns name -> (shape, whether it trains, whether it is averaged) of a network's variables.

    Args:
      given: settings of the network.
    """
    params = {**settings.default_params(), **given}
    if params["num_label_classes"] < _LEAST_CLASSES:
        raise UserError(
            f"The weights have a classifier of {params['num_label_classes']} classes: name weights "
            f"with at least {_LEAST_CLASSES}."
        )
    with tf.Graph().as_default():
        try:
            mnasnet_models.build_mnasnet_model(
                tf.zeros([1, 64, 64, 3]),
                params["model_name"],
                False,
                network.overrides(params),
            )
        except (NotImplementedError, ValueError) as e:
            raise UserError(f"--model_name={params['model_name']}: {e}") from e
        averaged = optimization.averaged_variables()
        return {
            v.op.name: (v.shape.as_list(), v in tf.trainable_variables(), v in averaged)
            for v in tf.global_variables()
        }


def _write(
    given: Mapping[str, Any],
    variables: Mapping[str, tuple[list[int], bool, bool]],
    values: Mapping[str, np.ndarray],
    model_dir: str,
    origin: str,
    names: Sequence[str],
) -> None:
    """Checks weights against a network, then writes settings, labels and a checkpoint for training.

    The state file, written last, makes it a checkpoint.

    Args:
      given: settings of the network, to be recorded.
      variables: of the network, see `_variables`.
      values: name of a variable, or of its average -> array.
      model_dir: a folder without a checkpoint.
      origin: where the weights come from, to be recorded.
      names: of the classes, in order; empty if they are not known.

    Raises:
      UserError: the weights do not fit the network.
    """
    params = {**settings.default_params(), **given, "model_dir": model_dir}
    problems = list(_problems({name: v[0] for name, v in variables.items()}, values))
    if problems:
        raise UserError(
            f"{origin} does not fit {params['model_name']}, so nothing is written; "
            f"{recognition.list_entries(('differences', problems))}."
        )
    complete: dict[str, np.ndarray] = {"global_step": np.asarray(0, np.int64)}
    for name, (_, trainable, averaged) in variables.items():
        value = _checked(name, values[name], origin)
        complete[name] = value
        if trainable:  # the values with which RMSProp starts
            complete[f"{name}/RMSProp"] = np.ones_like(value)
            complete[f"{name}/RMSProp_1"] = np.zeros_like(value)
        if averaged:
            average = name + averages.SUFFIX
            complete[average] = _checked(average, values.get(average, value), origin)
    described = network.describe(params)
    logging.info(
        "%s is assumed to have %s padding, the batch-norm epsilon %g and the activation %s: if it "
        "was trained with others, give --batch_norm_epsilon or --model_spec.",
        origin,
        described["padding"],
        described["batch_norm_epsilon"],
        described["activation"],
    )
    files.make_writable_dir(model_dir, "model_dir")
    carried = {name: params[name] for name in settings.CARRIED if params[name] is not None}
    files.write_text(
        os.path.join(model_dir, model_files.PARAMS_FILE),
        f"# Written by utils.import_weights from {origin}.\n"
        + yaml.safe_dump(carried, sort_keys=True, allow_unicode=True),
    )
    if names:
        dataset_info.write_labels(model_dir, names)
    save_checkpoint(os.path.join(model_dir, _CHECKPOINT), complete)
    checkpoints.write_state(model_dir, [_CHECKPOINT])


def _problems(shapes: Mapping[str, list[int]], values: Mapping[str, np.ndarray]) -> Iterable[str]:
    for name, value in values.items():
        shape = shapes.get(name.removesuffix(averages.SUFFIX))
        if shape is None:
            yield f"the network has no variable {name}"
        elif list(value.shape) != shape:
            yield f"{name} is {list(value.shape)} instead of {shape}"
        elif not tf.as_dtype(value.dtype).is_floating:
            yield f"{name} is {value.dtype} (quantized?) and not float32"
    for name in sorted(shapes.keys() - values.keys()):
        yield f"{name} is missing"


def _checked(name: str, value: np.ndarray, origin: str) -> np.ndarray:
    """Returns a value as float32; UserError for numbers that no network can have."""
    with np.errstate(over="ignore"):  # what overflows is infinite
        value = np.asarray(value, np.float32)
    if not np.isfinite(value).all() or ("/moving_variance" in name and (value < 0).any()):
        raise UserError(
            f"{origin} has NaN, infinite numbers (in float32) or negative variances in {name}: it "
            "is damaged, or its training failed."
        )
    return value


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


# The settings in a weights file's metadata.

_KEY = "mnasnet_settings"
_SETTINGS = ("model_name", "model_spec", "input_image_size", "resize_method")
_OPTIONAL = ("eval_crop_share",)  # unset in most models, and missing from older files


def metadata(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metadata of a file with the weights of a network; an import reads it.

    Args:
      params: complete settings.
    """
    values = {**params, "model_spec": network.specification(dict(params))}
    written = [*_SETTINGS, *(name for name in _OPTIONAL if values[name] is not None)]
    return {_KEY: json.dumps({name: values[name] for name in written})}


def _recorded(path: str) -> dict[str, Any]:
    """Returns the settings in a weights file's metadata; none if this program did not write it."""
    text = weights_file.read_metadata(path).get(_KEY)
    if text is None:
        return {}
    try:
        content = json.loads(text)
        found = {name: content[name] for name in _SETTINGS}
        found.update({name: content[name] for name in _OPTIONAL if name in content})
        recorded = {
            name: settings.convert(name, value, f"{name}={quoted(value)}")
            for name, value in found.items()
        }
        if not mnasnet_models.is_scope_name(recorded["model_name"]):
            raise UserError(f"{quoted(recorded['model_name'])} cannot name variables.")
        recorded["model_spec"] = network.checked(dict(recorded["model_spec"]), _KEY)
    except (ValueError, TypeError, KeyError, UserError) as e:
        raise UserError(
            f"{path}: {_KEY} is damaged ({str(e).rstrip('.')}): export the weights again."
        ) from e
    return recorded


# Export.


def timm_state_dict(
    checkpoint: str, params: Mapping[str, Any], averaged: bool = True
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's weights under timm's keys, float32 in PyTorch's layout.

    It logs how timm loads them.

    Args:
      checkpoint: path of the checkpoint.
      params: complete settings.
      averaged: whether to take averages, if the checkpoint has them, instead of the raw weights.

    Raises:
      UserError: the checkpoint cannot be read, or is of another network.
    """
    overrides = network.overrides(dict(params))
    stages, global_params = mnasnet_models.get_model_params(params["model_name"], overrides)
    state = {}
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        held = reader.get_variable_to_shape_map()
        names, variables = _by_common_name(held), _variables(params)
        own = _by_common_name(variables)
        blocks = recognition.unrolled(stages, global_params)
        for key, common in recognition.tensors("timm", blocks).items():
            name = names.get(common)
            if name is None or held[name] != variables[own[common]][0]:
                raise UserError(
                    f"{checkpoint} has no {common} of this network's shape: name the model_dir "
                    "that it was made in."
                )
            average = name + averages.SUFFIX
            value = reader.get_tensor(average if averaged and average in held else name)
            array = recognition.to_pytorch(common, value)
            state[key] = np.ascontiguousarray(array, np.float32)
    except _UNREADABLE as e:
        raise UserError(f"{checkpoint} cannot be read: {files.reason(e)}.") from e
    log_how_to_load(stages, global_params)
    log_preparation(params)
    return state


def log_how_to_load(stages: Sequence[BlockArgs], global_params: GlobalParams) -> None:
    """Logs how timm loads the weights of a network, if timm can."""
    name = recognition.timm_name(stages, global_params)
    if name is None:
        logging.info(
            "timm has no ready-made model of this network, though the keys are named as in timm: "
            "load the file here with python -m utils.import_weights, or into a PyTorch model of "
            "your own with safetensors.torch.load_file(...)."
        )
        return
    logging.info(
        "timm.create_model(%r, num_classes=%d, bn_eps=%g, pad_type=%r, checkpoint_path=...) loads "
        "it.",
        name,
        global_params.num_classes,
        global_params.batch_norm_epsilon,
        "same" if global_params.padding == "same" else "",
    )


def log_preparation(params: Mapping[str, Any]) -> None:
    """Logs how timm has to prepare pictures: its models take other normalizations by default.

    Args:
      params: complete settings.
    """
    # timm scales pixels to [0, 1] first. A quotient is exact where a decimal fraction is not.
    mean, std = (
        ", ".join(f"{value:.12g}/255" for value in values)
        for values in network.mean_and_stddev(params)
    )
    size = params["input_image_size"]
    logging.info(
        "Prepare pictures in timm with timm.data.create_transform(%d, interpolation=%r, "
        "crop_pct=%s, mean=(%s), std=(%s)).",
        size,
        params["resize_method"],
        params["eval_crop_share"] or f"{size}/{size + preprocessing.CROP_PADDING}",
        mean,
        std,
    )
