"""Reads and checks a network of the user's own, which a YAML file describes.

The keys are `name`, `stages` (block strings, see `mnasnet_models`), the fields of
`mnasnet_model.GlobalParams` that describe a network, and, if pixels are not normalized as
ImageNet's, `mean_rgb` and `stddev_rgb` (three numbers each, of pixels in [0, 255]).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import mnasnet_model
import mnasnet_models
from utils.base.errors import UserError, quoted
from utils.config import strict_yaml

_LARGEST_FLOAT = 3e38  # about the largest float32, the type a network computes in
_RATE = ((int, float), lambda v: 0 <= v < 1, "a number from 0 to below 1")


def _count(most: int):
    return (int, lambda v: 0 < v <= most, f"a whole number from 1 to {most}")


def _positive(most: float):
    return ((int, float), lambda v: 0 < v <= most, f"a number greater than 0, at most {most:g}")


def _choice(choices):
    return (str, lambda v: v in choices, f"one of {', '.join(choices)}")


def _is_rgb(value) -> bool:
    return len(value) == 3 and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= _LARGEST_FLOAT
        for v in value
    )


FIELDS: dict[str, tuple[Any, Any, str]] = {
    "stages": (list, lambda v: len(v) > 0, "a list of block strings"),
    "stem_size": _count(mnasnet_models.MOST_FILTERS),
    "head_size": _count(mnasnet_models.MOST_FILTERS),
    "activation": _choice(tuple(mnasnet_model.ACTIVATIONS)),
    "padding": _choice(mnasnet_model.PADDINGS),
    "dropout_rate": _RATE,
    "batch_norm_momentum": _RATE,
    "batch_norm_epsilon": _positive(_LARGEST_FLOAT),
    "use_keras": (bool, lambda v: True, "true or false"),
    "depth_multiplier": _positive(mnasnet_models.MOST_DEPTH_MULTIPLIER),
    "depth_divisor": _count(mnasnet_models.MOST_FILTERS),
    "min_depth": _count(mnasnet_models.MOST_FILTERS),
    "mean_rgb": (list, _is_rgb, "a list of three numbers"),
    "stddev_rgb": (list, lambda v: _is_rgb(v) and min(v) > 0, "a list of three positive numbers"),
}
NORMALIZATION = ("mean_rgb", "stddev_rgb")


def load(path: str) -> tuple[str, dict[str, Any]]:
    """Reads a model file; returns (name, specification).

    Raises:
      UserError: the file cannot be read, or describes no network.
    """
    content = strict_yaml.read_mapping(path)
    default = os.path.splitext(os.path.basename(path))[0]
    name = content.pop("name", default)
    if not isinstance(name, str) or not mnasnet_models.is_scope_name(name):
        raise UserError(
            f"{path}: name {quoted(name)} cannot name variables: use at most 200 letters, digits, "
            "'.', '_' and '-'."
        )
    return name, check(content, path)


def check(spec: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns a copy of a valid specification.

    Args:
      spec: key -> value, as in the file, without the name.
      source: how the user gave it, for the error.

    Raises:
      UserError: a key is unknown, a value is invalid, or the stages do not fit together.
    """
    for key, value in spec.items():
        if key not in FIELDS:
            raise UserError(
                f"{source}: unknown key {quoted(key)} in the model; known are name, "
                f"{', '.join(FIELDS)}."
            )
        kind, fits, expected = FIELDS[key]
        wrong_type = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if wrong_type or not fits(value):
            raise UserError(f"{source}: {key}={quoted(value)} is not {expected}.")
    if "stages" not in spec:
        raise UserError(f"{source}: the model has no stages (a list of block strings).")
    overrides = {key: value for key, value in spec.items() if key not in NORMALIZATION}
    try:
        stages, _ = mnasnet_models.get_model_params("", overrides)
    except ValueError as e:
        raise UserError(f"{source}: {e}") from e
    _check_joined(stages, spec, source)
    return dict(spec)


def _check_joined(stages, spec: Mapping[str, Any], source: str) -> None:
    """Raises UserError for a stage whose declared input filters do not enter it, if that matters.

    It matters in a block that adds its input to its output, or squeezes without expansion. In any
    other block the declared number sets the width inside the first block alone: the published
    mnasnet-small declares 16 where 8 enter.
    """
    entering = spec.get("stem_size", mnasnet_model.GlobalParams().stem_size)
    before = f"the stem (stem_size {entering})"
    for string, stage in zip(spec["stages"], stages, strict=True):
        declared, leaving = stage.input_filters, stage.output_filters
        squeezes = stage.expand_ratio == 1 and stage.has_se
        if declared != entering and (stage.has_skip or squeezes):
            raise UserError(
                f"{source}: stage {string!r} takes {declared} filters, but {entering} come out of "
                f"{before} before it: make the two numbers the same."
            )
        entering, before = leaving, f"stage {string!r}"
