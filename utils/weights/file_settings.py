"""Writes the settings of a network into a weights file's metadata, and reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mnasnet_models
from utils.base.errors import UserError, quoted
from utils.config import network, settings
from utils.weights import weights_file

_KEY = "mnasnet_settings"
_SETTINGS = ("model_name", "model_spec", "input_image_size", "resize_method")
_OPTIONAL = ("eval_crop_share",)  # unset in most models, and missing from older files


def metadata(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metadata of a file with the weights of a network; `recorded` reads it.

    Args:
      params: complete settings.
    """
    values = {**params, "model_spec": network.specification(dict(params))}
    written = [*_SETTINGS, *(name for name in _OPTIONAL if values[name] is not None)]
    return {_KEY: json.dumps({name: values[name] for name in written})}


def recorded(path: str) -> dict[str, Any]:
    """Returns the settings in a weights file's metadata; none if this program did not write it.

    Raises:
      UserError: the settings are damaged.
    """
    text = weights_file.read_metadata(path).get(_KEY)
    if text is None:
        return {}
    source = f"{path}: {_KEY}"
    try:
        content = json.loads(text)
        found = {name: content[name] for name in _SETTINGS}
        found.update({name: content[name] for name in _OPTIONAL if name in content})
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
    return {**recorded, "model_spec": network.checked(recorded["model_spec"], source)}


def check_name(name: str, given: str) -> None:
    """Raises UserError for a model's name that cannot be part of the names of variables.

    Args:
      name: the name.
      given: what stands before the name in the message, such as '--model_name='.
    """
    if not mnasnet_models.is_scope_name(name):
        raise UserError(
            f"{given}{quoted(name)} cannot name variables: use at most 200 letters, digits, . _ -."
        )
