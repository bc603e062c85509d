"""Reads and writes what a model_dir keeps next to its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml
from absl import logging

import mnasnet_models
from utils.base import files
from utils.base.errors import UserError
from utils.config import loading, network, settings
from utils.reading import dataset_info
from utils.training import evaluations

import tensorflow.compat.v1 as tf

PARAMS_FILE = "params.yaml"


def stored_params(model_dir: str) -> dict[str, Any] | None:
    """Returns the settings stored in a model_dir, in their types; None if there are none.

    Raises:
      UserError: the file is damaged, or does not describe a network.
    """
    path = os.path.join(model_dir, PARAMS_FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        return _checked(loading.read_mapping(path), path)
    except UserError as e:
        raise UserError(
            f"{str(e).rstrip('.')}: restore {path} from a copy, or remove it and give the settings "
            "of the network as flags."
        ) from e


def _checked(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns the settings of a params.yaml; UserError if they do not describe a network.

    Names that are no settings are those of another version, and are left out.
    """
    for name in ("model_name", "num_label_classes"):
        if content.get(name) is None:
            raise UserError(f"{path} does not record {name}")
    stored = {
        name: settings.convert(name, value, f"{path}: {name}={value!r}")
        for name, value in content.items()
        if name in settings.SETTINGS
    }
    if not mnasnet_models.is_scope_name(stored["model_name"]):
        raise UserError(f"{path}: model_name={stored['model_name']!r} cannot name variables")
    if isinstance(stored.get("model_spec"), str):
        raise UserError(f"{path}: model_spec is not a mapping")
    stored = network.with_specification(stored, f"{path}: ")
    network.model_params({**settings.default_params(), **stored})
    return stored


def trained_with(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that the model in model_dir was trained with, as far as it keeps them.

    An evaluation's own settings, which take the place of the others, may be those of no training.
    """
    if params["mode"] != "eval":
        return dict(params)
    return {**params, **(stored_params(params["model_dir"]) or {})}


def record_settings(stored: Mapping[str, Any], data_dir: str | None) -> dict[str, Any]:
    """Returns how a training read its records, as far as it holds for the data of another run.

    Args:
      stored: the settings of the training, or those that an export keeps of it.
      data_dir: of the other run. Records of another folder may be of another program.
    """
    if files.absolute(str(stored.get("data_dir") or "")) != files.absolute(data_dir or ""):
        return {}
    return {
        name: settings.convert(name, stored[name], f"{name}={stored[name]!r}")
        for name in settings.RECORDS
        if stored.get(name) is not None
    }


def record_params(params: Mapping[str, Any]) -> None:
    """Writes the settings of a training run to its model_dir."""
    lines = yaml.safe_dump(dict(params), sort_keys=True, allow_unicode=True)
    files.write_text(os.path.join(params["model_dir"], PARAMS_FILE), lines)


def log_changes(params: Mapping[str, Any]) -> None:
    """Prints which settings of training differ from those that model_dir was trained with."""
    stored = stored_params(params["model_dir"]) or {}
    changes = [
        f"{name} {params[name]} (was {stored[name]})"
        for name in settings.GROUPS["Training"]
        if name not in ("train_steps", "init_checkpoint")
        and name in stored
        and stored[name] != params[name]
    ]
    if changes:
        logging.info("Other settings than before: %s.", ", ".join(changes))


def label_names(params: Mapping[str, Any]) -> list[str]:
    """Returns the names of a model's classes, in order; empty if they are unknown.

    They are kept next to its checkpoints; the data set has them, too, if its classes are as many.
    """
    given = dataset_info.label_names(params["data_dir"])
    return _kept_for(params) or (given if len(given) == params["num_label_classes"] else [])


def kept_label_names(folder: str | None) -> list[str]:
    """Returns the names of classes that a model_dir keeps, in order; empty if it keeps none.

    Raises:
      UserError: labels.txt cannot be read.
    """
    if not folder:
        return []
    path = os.path.join(without_archive(folder), dataset_info.LABELS_FILE)
    return files.read_text(path).splitlines() if tf.io.gfile.exists(path) else []


def without_archive(folder: str) -> str:
    """Returns the model_dir of a folder of checkpoints, which may be the archive in it."""
    above, name = os.path.split(folder.rstrip("/"))
    return above if name == evaluations.ARCHIVE_DIR else folder


def class_order(params: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Returns the index in the model of each class of the data set; None if labels stay.

    Raises:
      UserError: the data set has other names for its classes than the model in model_dir.
    """
    model_dir = params["model_dir"]
    new = f", or start from it in a new folder, with --init_checkpoint={model_dir} --model_dir=NEW"
    remedy = (
        f"name a data set with the classes of the model{'' if params['mode'] == 'eval' else new}; "
        "if only their names have changed, write the new ones into "
        f"{os.path.join(model_dir, dataset_info.LABELS_FILE)}, in the order of the old ones"
    )
    data_dir = params["data_dir"]
    names = dataset_info.label_names(data_dir)
    return dataset_info.class_order(_kept_for(params), names, data_dir, remedy)


def log_class_order(params: Mapping[str, Any]) -> None:
    """Logs if labels go by the names of the classes; UserError as `class_order`."""
    dataset_info.log_order(class_order(params), _kept_for(params), params["data_dir"])


def _kept_for(params: Mapping[str, Any]) -> list[str]:
    """Returns the names that model_dir keeps, if they are as many as the model's classes."""
    kept = kept_label_names(params["model_dir"])
    return kept if len(kept) == params["num_label_classes"] else []


def keep_label_names(params: Mapping[str, Any]) -> None:
    """Writes the names of the data set's classes to model_dir, where they outlive the data set."""
    names = dataset_info.label_names(params["data_dir"])
    if names:
        dataset_info.write_labels(params["model_dir"], names)


def check_what_is_there(model_dir: str) -> None:
    """Raises UserError, before hours of work, if a file of earlier results is damaged."""
    evaluations.read(model_dir)
    evaluations.best(model_dir)
