"""The network that settings describe, and the files that describe one (--model_spec).

The keys of such a file are `name`, `stages` (block strings, see `mnasnet_models`), the fields of
`mnasnet_model.GlobalParams` that describe a network, and, if pixels are not normalized as
ImageNet's, `mean_rgb` and `stddev_rgb` (three numbers each, of pixels in [0, 255]).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import mnasnet_model
import mnasnet_models
import preprocessing
from utils.base.errors import UserError, quoted
from utils.config import loading, settings

NORMALIZATION = ("mean_rgb", "stddev_rgb")
# Fields that are settings, too, with the limits of these.
_SETTINGS = (
    "dropout_rate",
    "batch_norm_momentum",
    "batch_norm_epsilon",
    "use_keras",
    "depth_multiplier",
    "depth_divisor",
    "min_depth",
)
_FIELDS = ("stages", "stem_size", "head_size", "activation", "padding", *_SETTINGS, *NORMALIZATION)


# Files that describe a network.


def read_file(path: str) -> tuple[str, dict[str, Any]]:
    """Reads a model file; returns (name, specification).

    Raises:
      UserError: the file cannot be read, or describes no network.
    """
    content = loading.read_mapping(path)
    name = content.pop("name", os.path.splitext(os.path.basename(path))[0])
    if not isinstance(name, str) or not mnasnet_models.is_scope_name(name):
        raise UserError(
            f"{path}: name {quoted(name)} cannot name variables: use at most 200 letters, digits, "
            "'.', '_' and '-'."
        )
    return name, checked(content, path)


def with_specification(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns settings with the content of the file that model_spec names, if it does.

    Args:
      given: settings; the file names the model unless they do.
      source: what stands before model_spec in an error.

    Raises:
      UserError: the file cannot be read, or describes no network.
    """
    spec = given.get("model_spec")
    if spec == "":  # as for every other file, an empty name means none
        return {**given, "model_spec": None}
    if isinstance(spec, str):
        name, content = read_file(spec)
        return {"model_name": name, **given, "model_spec": content}
    if isinstance(spec, dict):
        return {**given, "model_spec": checked(spec, f"{source}model_spec")}
    return dict(given)


def checked(spec: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a copy of a valid specification, in the types of its fields.

    Args:
      spec: key -> value, as in the file, without the name.
      source: how the user gave it, for the error.

    Raises:
      UserError: a key is unknown, a value is invalid, or the stages do not fit together.
    """
    result = {}
    for key, value in spec.items():
        if key not in _FIELDS:
            raise UserError(
                f"{source}: unknown key {quoted(key)} in the model; known are name, "
                f"{', '.join(_FIELDS)}."
            )
        given = f"{source}: {key}={quoted(value)}"
        if key in _SETTINGS:
            result[key] = settings.convert(key, value, given)
            continue
        expected = _problem(key, value)
        if expected:
            raise UserError(f"{given} is not {expected}.")
        result[key] = value
    if "stages" not in spec:
        raise UserError(f"{source}: the model has no stages (a list of block strings).")
    try:
        stages, _ = mnasnet_models.get_model_params("", _fields_of_network(result))
    except ValueError as e:
        raise UserError(f"{source}: {e}") from e
    _check_joined(stages, result, source)
    return result


def _problem(key: str, value: Any) -> str | None:
    """Returns what the value of a key must be instead; None for a valid one."""
    if key == "stages":
        return None if isinstance(value, list) and value else "a list of block strings"
    if key in NORMALIZATION:
        return None if is_rgb(value, key) else "a list of three numbers, for stddev_rgb positive"
    if key in ("stem_size", "head_size"):
        most = mnasnet_models.MOST_FILTERS
        fits = type(value) is int and 0 < value <= most
        return None if fits else f"a whole number from 1 to {most}"
    choices = mnasnet_model.ACTIVATIONS if key == "activation" else mnasnet_model.PADDINGS
    return None if value in list(choices) else f"one of {', '.join(choices)}"


def is_rgb(value: Any, key: str) -> bool:
    """Whether a value is the mean_rgb or stddev_rgb of pixels."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) in (int, float) and math.isfinite(v) for v in value)
        and (key == "mean_rgb" or min(value) > 0)
    )


def _check_joined(stages, spec: Mapping[str, Any], source: str) -> None:
    """Raises UserError for a stage whose declared input filters do not enter it, if that matters.

    It matters in a block that adds its input to its output, or squeezes without expansion. In any
    other block the declared number sets the width inside the first block alone: the published
    mnasnet-small declares 16 where 8 enter.
    """
    entering = spec.get("stem_size", mnasnet_model.GlobalParams().stem_size)
    before = f"the stem (stem_size {entering})"
    for string, stage in zip(spec["stages"], stages, strict=True):
        declared = stage.input_filters
        squeezes = stage.expand_ratio == 1 and stage.has_se
        if declared != entering and (stage.has_skip or squeezes):
            raise UserError(
                f"{source}: stage {string!r} takes {declared} filters, but {entering} come out of "
                f"{before} before it: make the two numbers the same."
            )
        entering, before = stage.output_filters, f"stage {string!r}"


# Networks of complete settings (`settings.default_params` and what is given).


def _fields_of_network(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what a specification says of the network, without that of the pixels."""
    return {k: v for k, v in (spec or {}).items() if k not in NORMALIZATION and v is not None}


def overrides(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `override_params` of `mnasnet_models.get_model_params` for complete settings."""
    given = {
        **{name: params[name] for name in (*_SETTINGS, "data_format")},
        "num_classes": params["num_label_classes"],
    }
    return {
        **_fields_of_network(params["model_spec"]),
        **{k: v for k, v in given.items() if v is not None},
    }


def model_params(
    params: Mapping[str, Any],
) -> tuple[list[mnasnet_model.BlockArgs], mnasnet_model.GlobalParams]:
    """Returns the stages and the global parameters of the network.

    Raises:
      UserError: the settings describe no network.
    """
    try:
        return mnasnet_models.get_model_params(params["model_name"], overrides(params))
    except (NotImplementedError, ValueError) as e:
        raise UserError(f"--model_name={params['model_name']}: {e}") from e


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that define a network: stages, shapes, normalization.

    Raises:
      UserError: the settings describe no network.
    """
    stages, global_params = model_params(params)
    irrelevant = ("batch_norm_momentum", "dropout_rate", "data_format", "sync_batch_norm")
    return {
        "model_name": params["model_name"],
        "stages": mnasnet_models.MnasNetDecoder().encode(stages),
        **{k: v for k, v in global_params._asdict().items() if k not in irrelevant},
        **normalization(params),
    }


def specification(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a specification that depends neither on defaults nor on the network's name."""
    stages, global_params = model_params(params)
    spec = {**(params["model_spec"] or {}), **global_params._asdict()}
    return {
        "stages": mnasnet_models.MnasNetDecoder().encode(stages),
        **{k: v for k, v in spec.items() if k in _FIELDS and k != "stages" and v is not None},
    }


def frozen(params: Mapping[str, Any]) -> str | None:
    """Returns the `GlobalParams.frozen` that a training uses."""
    if params["freeze_backbone"]:
        return mnasnet_model.BACKBONE
    return None if params["freeze_until"] == "none" else params["freeze_until"]


def normalization(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `preprocessing.normalize`."""
    spec = params["model_spec"] or {}
    return {"mean": spec.get("mean_rgb"), "stddev": spec.get("stddev_rgb")}


def mean_and_stddev(params: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Returns (mean, standard deviation) of R, G, B as `preprocessing.normalize` uses them."""
    mean, stddev = normalization(params).values()
    return (
        list(preprocessing.MEAN_RGB if mean is None else mean),
        list(preprocessing.STDDEV_RGB if stddev is None else stddev),
    )
